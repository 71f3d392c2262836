//! The configuration: the default file, the operator's file over it, the environment over that, the command line over
//! all.

mod environment;

use crate::exit::Exit;
use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use std::collections::BTreeMap;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tidemark_access::Scope;
use tidemark_batch_layer::BlockLimits;
use tidemark_core::epoch::EpochBits;
use tidemark_core::event::Limits;
use tidemark_core::generation::{Generation, Rules};
use tidemark_core::view::Views;
use tidemark_history::clickhouse::{Server, Tables};
use tidemark_https::admission::Memory;
use tidemark_serving::admission::{Admission, MEMORY_PATIENCE};
use tidemark_speed_layer::audit::Schedule;
use tidemark_topic::Membership;

/// The manual, and the defaults: there is no second list of them.
const DEFAULT: &str = include_str!("../tidemark.default.toml");

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    pub listen: String,
    pub admin_listen: String,
    pub max_connections: usize,
    pub open: bool,
    pub tls: Tls,
    /// None by default: there is no key that everybody knows.
    #[serde(default)]
    key: Vec<Key>,
    pub data: PathBuf,
    pub kafka: Kafka,
    pub clickhouse: ClickHouse,
    pub redis: Redis,
    counting: Counting,
    event: Event,
    view: Vec<View>,
    pub speed: Speed,
    pub serving: Serving,
    audit: Audit,
    batch: Batch,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    certificate_file: String,
    key_file: String,
    client_ca_file: String,
}

impl Tls {
    pub fn is_off(&self) -> bool {
        self.certificate_file.is_empty()
    }

    /// What the HTTP interface shows, if it speaks TLS.
    pub fn server(&self) -> Result<Option<Arc<rustls::ServerConfig>>> {
        let Self { certificate_file, key_file, client_ca_file } = self;
        match (certificate_file.is_empty(), key_file.is_empty()) {
            (true, true) if client_ca_file.is_empty() => Ok(None),
            (false, false) => {
                let clients = (!client_ca_file.is_empty()).then(|| Path::new(client_ca_file));
                crate::tls::server(Path::new(certificate_file), Path::new(key_file), clients).map(Some)
            }
            _ => bail!("tls.certificate_file and tls.key_file belong together, and tls.client_ca_file to them"),
        }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Key {
    name: String,
    sha256: String,
    scopes: Vec<String>,
    /// 0: as often as it likes.
    #[serde(default)]
    requests_per_second: u32,
}

impl Key {
    fn declared(&self) -> Result<tidemark_access::Key> {
        let scope = |text: &String| {
            let known = Scope::ALL.into_iter().find(|scope| scope.name() == text);
            known.with_context(|| format!("key `{}`: `{text}` is no scope; there are ingest, read and admin", self.name))
        };
        if self.scopes.is_empty() {
            bail!("key `{}` has no scopes, and so could do nothing; there are ingest, read and admin", self.name);
        }
        Ok(tidemark_access::Key {
            name: self.name.clone(),
            digest: self.sha256.parse().with_context(|| format!("key `{}`", self.name))?,
            scopes: self.scopes.iter().map(scope).collect::<Result<_>>()?,
            requests_per_second: NonZeroU32::new(self.requests_per_second),
        })
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kafka {
    pub bootstrap: String,
    pub topic: String,
    pub partitions: u32,
    pub replication: u32,
    pub retention_hours: i64,
    pub group: String,
    pub instance: String,
    pub session_timeout_ms: u64,
    pub queued_kbytes: u32,
    pub heap_mib: u32,
    pub port: u16,
    pub client: BTreeMap<String, String>,
}

impl Kafka {
    /// Where the topic is, if its brokers are at `bootstrap`.
    pub fn connect(&self, bootstrap: &str) -> tidemark_topic::kafka::Kafka {
        let mut kafka = tidemark_topic::kafka::Kafka::new(bootstrap, &self.topic);
        kafka.client_options.clone_from(&self.client);
        kafka
    }

    /// The group of the batch layer, whose committed positions are H: one for all generations that share raw events.
    pub fn batch_group(&self, rules: &Rules) -> String {
        format!("{}-batch-g{}", self.group, rules.raw())
    }

    /// The group in which speed layers of their own share the topic.
    pub fn speed_group(&self, rules: &Rules) -> String {
        format!("{}-speed-g{}", self.group, rules.generation)
    }

    /// The name of this process, if it keeps one.
    pub fn instance(&self) -> Option<String> {
        (!self.instance.is_empty()).then(|| self.instance.clone())
    }

    pub fn membership(&self, group: &str, instance: Option<String>) -> Membership {
        let session_timeout = Duration::from_millis(self.session_timeout_ms);
        Membership::Group { group: group.to_owned(), instance, session_timeout }
    }

    /// Makes the topic if there is none; the number of its partitions.
    pub async fn ensure_topic(&self, at: &tidemark_topic::kafka::Kafka) -> Result<u32> {
        let retention_ms = if self.retention_hours < 0 { -1 } else { self.retention_hours * 3_600_000 };
        let settings = [("retention.ms", retention_ms.to_string()), ("message.timestamp.type", "CreateTime".to_owned())];
        let settings: Vec<(&str, &str)> = settings.iter().map(|(name, value)| (*name, value.as_str())).collect();
        Ok(at.admin()?.ensure_topic(self.partitions, self.replication, &settings).await?.partitions)
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClickHouse {
    pub url: String,
    pub database: String,
    pub user: String,
    pub password: String,
    replicated: bool,
    cluster: String,
    replica_path: String,
    pub connections: usize,
    pub memory_mib: u64,
    pub port: u16,
}

impl ClickHouse {
    /// Where it is, for people: without the passwords that addresses may hold.
    pub fn place(&self) -> String {
        let without = |url: &str| url.trim().rsplit_once('@').map_or_else(|| url.trim().to_owned(), |(_, host)| host.to_owned());
        self.url.split(',').map(without).collect::<Vec<_>>().join(", ")
    }

    /// How to ask the one at `url`, or those, comma separated.
    pub fn server(&self, url: &str) -> Server {
        let given = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        Server {
            urls: url.split(',').map(|url| url.trim().to_owned()).filter(|url| !url.is_empty()).collect(),
            database: self.database.clone(),
            user: given(&self.user),
            password: given(&self.password),
            tables: self.tables(),
            connections: self.connections,
            ..Server::at("", "")
        }
    }

    pub fn tables(&self) -> Tables {
        if !self.replicated {
            return Tables::Own;
        }
        let cluster = (!self.cluster.is_empty()).then(|| self.cluster.clone());
        Tables::Replicated { cluster, path: self.replica_path.clone() }
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Redis {
    pub urls: Vec<String>,
    kind: RedisKind,
    sentinel_service: String,
    user: String,
    password: String,
    ca_file: String,
    certificate_file: String,
    key_file: String,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum RedisKind {
    Single,
    Cluster,
    Sentinel,
}

impl Redis {
    pub fn server(&self) -> Result<tidemark_snapshot::Server> {
        let given = |text: &String| (!text.is_empty()).then(|| text.clone());
        let kind = match self.kind {
            RedisKind::Single => tidemark_snapshot::Kind::Single,
            RedisKind::Cluster => tidemark_snapshot::Kind::Cluster,
            RedisKind::Sentinel => {
                let service = given(&self.sentinel_service).context("redis.sentinel_service names what the sentinels watch")?;
                tidemark_snapshot::Kind::Sentinel { service }
            }
        };
        if self.certificate_file.is_empty() != self.key_file.is_empty() {
            bail!("redis.certificate_file and redis.key_file belong together");
        }
        let identity = given(&self.certificate_file).zip(given(&self.key_file));
        let tls = tidemark_snapshot::Tls {
            authorities: given(&self.ca_file).map(PathBuf::from),
            identity: identity.map(|(certificate, key)| (certificate.into(), key.into())),
        };
        let (user, password) = (given(&self.user), given(&self.password));
        Ok(tidemark_snapshot::Server { urls: self.urls.clone(), kind, user, password, tls })
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Counting {
    epoch_bits: u8,
    dedup: Switch,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Switch {
    On,
    Off,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Serving {
    lateness_ms: u64,
    questions: usize,
    memory_mib: usize,
    max_rows_read: u64,
}

impl Serving {
    /// How much is answered at a time.
    pub fn admission(&self) -> Admission {
        Admission::new(self.questions, self.memory_bytes() / 2)
    }

    /// What a server of history may be asked for an answer.
    pub fn bounding(&self, server: Server) -> Server {
        let answer_memory = Memory::new(self.memory_bytes() / 2, MEMORY_PATIENCE);
        Server { answer_memory, max_rows_read: self.max_rows_read, ..server }
    }

    fn memory_bytes(&self) -> usize {
        self.memory_mib << 20
    }

    /// How long after a window's end late events are expected.
    pub fn lateness(&self) -> Duration {
        Duration::from_millis(self.lateness_ms)
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Audit {
    period_hours: f64,
    repair: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    max_bytes: usize,
    max_depth: u32,
    earliest: String,
    max_ahead_ms: i64,
    order_amount_strings: bool,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct View {
    name: String,
    dimensions: Vec<String>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Speed {
    /// 0: as many as the machine suggests.
    threads: u32,
    pub max_open_events: u64,
    tick_ms: u64,
}

impl Speed {
    /// Between two snapshots.
    pub fn tick(&self) -> Duration {
        Duration::from_millis(self.tick_ms.max(1))
    }

    /// Threads that count a topic's partitions: half of the cores unless it is said, one at least, and no more than there
    /// are partitions.
    pub fn threads(&self, partitions: u32) -> NonZeroU32 {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let suggested = u32::try_from(cores / 2).unwrap_or(u32::MAX);
        let wanted = if self.threads == 0 { suggested } else { self.threads };
        NonZeroU32::new(wanted.min(partitions)).unwrap_or(NonZeroU32::MIN)
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Batch {
    max_rows: u64,
    max_age_ms: u64,
    max_bytes: usize,
    in_flight: usize,
    give_up_after_ms: u64,
}

/// The engine takes no more rows in one insert (measured: beyond a million it may write half of them).
const MAX_BLOCK_ROWS: u64 = 400_000;

impl Config {
    /// How closed epochs are audited.
    pub fn audit(&self) -> Result<Schedule> {
        let Audit { period_hours, repair } = self.audit;
        let period = Duration::try_from_secs_f64(period_hours * 3600.0);
        let period = period.with_context(|| format!("audit.period_hours is {period_hours}; a week is 168"))?;
        Ok(Schedule { period, repair })
    }

    /// The defaults, with what `file` says instead, and over both what the environment says.
    pub fn load(file: Option<&Path>) -> Result<Self> {
        Self::read(file).map_err(|error| Exit::Usage.because(crate::exit::sentence(&error)))
    }

    fn read(file: Option<&Path>) -> Result<Self> {
        let environment = environment::settings(std::env::vars_os())?;
        let config = match file {
            None => Self::parse("", environment)?,
            Some(path) => {
                let text = std::fs::read_to_string(path).with_context(|| format!("reading the configuration {}", path.display()))?;
                Self::parse(&text, environment).with_context(|| format!("in the configuration {}", path.display()))?
            }
        };
        if !config.kafka.client.is_empty() {
            config.kafka.connect("").validate().context("[kafka.client]")?;
        }
        Ok(config)
    }

    fn parse(text: &str, environment: Vec<environment::Setting>) -> Result<Self> {
        let mut merged: toml::Table = DEFAULT.parse().context("the built-in defaults")?;
        merge(&mut merged, text.parse().context("not TOML")?);
        for setting in environment {
            setting.put_into(&mut merged)?;
        }
        serde_path_to_error::deserialize(toml::Value::Table(merged))
            .map_err(|error| anyhow::anyhow!("{}: {}", error.path(), error.inner().message()))
    }

    pub fn keys(&self) -> Result<Vec<tidemark_access::Key>> {
        self.key.iter().map(Key::declared).collect()
    }

    pub fn rules(&self) -> Result<Rules> {
        let declared = self.view.iter().map(|view| (view.name.as_str(), view.dimensions.iter().map(String::as_str).collect()));
        let views = Views::declare(declared)?;
        let earliest_ms = self
            .event
            .earliest
            .parse::<jiff::Timestamp>()
            .with_context(|| format!("event.earliest `{}` is not RFC 3339", self.event.earliest))?
            .as_millisecond();
        if earliest_ms < 0 {
            bail!("event.earliest is before 1970, which history's windows cannot name");
        }
        let Event { max_bytes, max_depth, max_ahead_ms, order_amount_strings, .. } = self.event;
        if max_depth == 0 || max_depth > 128 {
            bail!("event.max_depth must be between 1 and 128");
        }
        Ok(Rules {
            generation: Generation(1),
            widens: None,
            epoch_bits: EpochBits::new(self.counting.epoch_bits).context("counting.epoch_bits")?,
            views,
            limits: Limits { max_bytes, max_depth, earliest_ms, max_ahead_ms, amount_strings: order_amount_strings, ..Limits::default() },
            dedup: self.counting.dedup == Switch::On,
        })
    }

    pub fn block_limits(&self) -> Result<BlockLimits> {
        let Batch { max_rows, max_age_ms, max_bytes, in_flight, give_up_after_ms } = self.batch;
        if max_rows == 0 || max_rows > MAX_BLOCK_ROWS {
            bail!("batch.max_rows must be between 1 and {MAX_BLOCK_ROWS}");
        }
        if in_flight == 0 {
            bail!("batch.in_flight must be at least 1");
        }
        let (max_age, give_up_after) = (Duration::from_millis(max_age_ms), Duration::from_millis(give_up_after_ms));
        Ok(BlockLimits { max_rows, max_age, max_bytes, in_flight, give_up_after, ..BlockLimits::default() })
    }
}

/// Tables are merged key by key; everything else, arrays too, is replaced.
fn merge(into: &mut toml::Table, from: toml::Table) {
    for (key, value) in from {
        match (into.get_mut(&key), value) {
            (Some(toml::Value::Table(into)), toml::Value::Table(from)) => merge(into, from),
            (_, value) => drop(into.insert(key, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_file_says_what_the_code_believes_to_be_the_default() {
        let config = Config::parse("", vec![]).expect("the defaults are valid");
        let rules = config.rules().expect("the defaults are valid");
        assert_eq!(rules.limits, Limits::default());
        assert_eq!(config.block_limits().expect("the defaults are valid"), BlockLimits::default());
    }

    #[test]
    fn no_thread_is_without_a_partition() {
        let threads = |threads, partitions| Speed { threads, max_open_events: 0, tick_ms: 100 }.threads(partitions).get();
        assert_eq!((threads(3, 8), threads(3, 2), threads(0, 1)), (3, 2, 1));
    }

    #[test]
    fn an_unknown_key_is_refused_by_its_path() {
        let error = Config::parse("[counting]\nepoch_bit = 3", vec![]).expect_err("refused").to_string();
        assert!(error.contains("counting") && error.contains("epoch_bit"), "{error}");
    }

    #[test]
    fn a_key_is_refused_with_a_sentence_unless_it_can_be_used() {
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let keys = |scopes: &str, digest: &str| {
            let text = format!("[[key]]\nname = \"k\"\nsha256 = \"{digest}\"\nscopes = {scopes}\n");
            Config::parse(&text, vec![]).expect("valid").keys().map_err(|error| format!("{error:#}"))
        };
        let one = keys("[\"read\", \"ingest\"]", digest).expect("valid");
        assert_eq!((one.len(), one[0].scopes.len(), one[0].requests_per_second), (1, 2, None));
        for (scopes, digest, says) in
            [("[]", digest, "no scopes"), ("[\"write\"]", digest, "`write` is no scope"), ("[\"read\"]", "ba", "64")]
        {
            let error = keys(scopes, digest).expect_err("refused");
            assert!(error.contains(says) && error.contains("key `k`"), "{error}");
        }
    }

    #[test]
    fn a_file_changes_only_what_it_names() {
        let config =
            Config::parse("[counting]\nepoch_bits = 10\n[[view]]\nname = \"all\"\ndimensions = [\"user_id\"]", vec![]).expect("valid");
        let rules = config.rules().expect("valid");
        assert_eq!((rules.epoch_bits.get(), rules.dedup, rules.views.len()), (10, true, 1));
    }
}
