//! `tidemark doctor`: looks at everything that counting rests on, and says what to do. It is called when something does not
//! work: so each look is bounded in time, what does not answer is a finding, and nothing is made or changed.
//!
//! Each of the other files looks at one thing and judges it, by functions of what was seen.

mod disk;
mod finding;
mod history;
mod machine;
mod running;
mod snapshots;
mod topic;

use super::output::Output;
use super::{Caller, Source, Stores};
use crate::config::Config;
use crate::exit::Exit;
use anyhow::Result;
use finding::{Finding, Level, Report};
use running::Expected;
use serde_json::Value;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tidemark_client::ClientError;
use tidemark_core::generation::Rules;
use tidemark_core::skew::Skew;
use tidemark_embedded::Runtime;

/// How long one look may take. There are two, one after the other: what the second asks for depends on the first.
const LOOK: Duration = Duration::from_secs(5);

#[derive(clap::Args)]
#[command(after_help = "Ends with 0 if all is well, 6 if there are warnings, 3 if something does not work.

Examples:
  tidemark doctor
  tidemark doctor --config tidemark.toml --url http://serve.example:8080
  tidemark doctor --json | jq '.checks[] | select(.level != \"ok\")'")]
pub struct Arguments {
    /// The data directory of a `tidemark up` [default: tidemark-data]
    #[arg(long)]
    data: Option<PathBuf>,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    stores: Stores,
    #[command(flatten)]
    caller: Caller,
}

pub fn run(arguments: Arguments) -> Result<()> {
    // What servers' clients log comes again as findings.
    super::log_at("doctor", "off")?;
    let output = arguments.output;
    let runtime = super::runtime()?;
    let report = runtime.block_on(examine(arguments));
    // A client may wait for a server that does not answer; nobody waits for it.
    runtime.shutdown_background();
    let report = report?;
    output.print(&report)?;
    match report.worst {
        Level::Ok => Ok(()),
        Level::Warning => Err(Exit::Warned.because("there are warnings")),
        Level::Failure => Err(Exit::Found.because("something does not work, or will lose something")),
    }
}

/// Where everything is, as far as it is known.
struct Place {
    config: Config,
    /// Empty if not known.
    kafka: String,
    clickhouse: String,
    /// Kafka and ClickHouse are those that `tidemark up` brings along.
    own_kafka: bool,
    own_clickhouse: bool,
    /// A `tidemark up` runs on the data directory.
    up: bool,
    url: String,
    expected: Expected,
}

impl Place {
    fn find(config: Config, caller_url: Option<&String>) -> Self {
        let runtime = Runtime::read(&config.data).filter(|found| Path::new(&format!("/proc/{}", found.pid)).exists());
        let (own_kafka, own_clickhouse) = (config.kafka.bootstrap.is_empty(), config.clickhouse.url.is_empty());
        let here = runtime.clone().unwrap_or_default();
        let kafka = if own_kafka { here.kafka } else { config.kafka.bootstrap.clone() };
        let clickhouse = if own_clickhouse { here.clickhouse } else { config.clickhouse.url.clone() };
        let up = runtime.is_some();
        let expected = if caller_url.is_some() || up { Expected::Here } else { Expected::Perhaps };
        let url = caller_url.cloned().or(here.http).unwrap_or_else(|| own_url(&config));
        Self { config, kafka, clickhouse, own_kafka, own_clickhouse, up, url, expected }
    }
}

/// Where a process with this configuration answers on this machine.
fn own_url(config: &Config) -> String {
    let Ok(mut address) = config.listen.parse::<SocketAddr>() else { return Caller::DEFAULT_URL.to_owned() };
    if address.ip().is_unspecified() {
        address.set_ip(Ipv4Addr::LOCALHOST.into());
    }
    format!("{}://{address}", if config.tls.is_off() { "http" } else { "https" })
}

async fn examine(arguments: Arguments) -> Result<Report> {
    let Arguments { data, output: _, source, stores, caller } = arguments;
    let mut config = source.load()?;
    stores.put_into(&mut config);
    config.data = data.unwrap_or(config.data);
    let place = Place::find(config, caller.url.as_ref());
    let api = caller.api(Some(place.url.clone()))?;
    let seen = See::look(&place, &api).await;
    Ok(Report::of(seen.judge(&place).await))
}

/// What there was to see.
struct See {
    access: Finding,
    ports: Option<Finding>,
    status: Result<Value, ClientError>,
    /// `None` where it is not known where one is.
    topic: Option<Result<topic::Found, tidemark_topic::Error>>,
    history: Option<history::Found>,
    redis: Option<Result<tidemark_snapshot::Examined, tidemark_snapshot::Error>>,
}

/// Waits no longer than a look may take.
async fn within<T>(look: impl Future<Output = T>) -> Result<T, ()> {
    tokio::time::timeout(LOOK, look).await.map_err(|_| ())
}

fn late() -> String {
    format!("no answer within {} s", LOOK.as_secs())
}

impl See {
    /// All at once.
    async fn look(place: &Place, api: &tidemark_client::Client) -> Self {
        let Place { config, kafka, clickhouse, url, .. } = place;
        let ports = machine::ports(kafka, clickhouse, &config.redis.urls);
        let status = async {
            let late = |()| ClientError::Unavailable { url: url.clone(), reason: late() };
            within(api.get("/v1/status", &[])).await.map_err(late).flatten()
        };
        let topic = async {
            if kafka.is_empty() {
                return None;
            }
            let late = |()| tidemark_topic::Error::Unavailable { broker: kafka.clone(), reason: late() };
            Some(within(topic::look(&config.kafka.connect(kafka))).await.map_err(late).flatten())
        };
        let history = async { if clickhouse.is_empty() { None } else { Some(history::look(config, clickhouse, LOOK).await) } };
        let (access, ports, status, topic, history, redis) =
            tokio::join!(machine::access(config), machine::open_ports(&ports), status, topic, history, redis(config));
        Self { access, ports, status, topic, history, redis }
    }

    async fn judge(self, place: &Place) -> Vec<Finding> {
        let Place { config, url, expected, .. } = place;
        let mut findings = vec![machine::configuration(config), self.access.clone()];
        findings.extend(self.ports.clone());
        findings.push(running::server(url, &config.kafka.topic, *expected, &self.status));
        match &self.status {
            Ok(status) => findings.push(running::speed_lag(status)),
            Err(_) if *expected == Expected::Perhaps => findings.extend(running::free(&config.listen)),
            Err(_) => {}
        }
        let progress = self.judge_topic(place, &mut findings).await;
        self.judge_history(place, progress.as_ref(), &mut findings);
        findings.push(snapshots::redis(self.redis.as_ref()));
        if let Some(Ok(redis)) = &self.redis {
            findings.extend([snapshots::memory(redis), snapshots::persistence(redis)]);
        }
        if place.own_kafka || place.own_clickhouse {
            findings.push(disk::of_directory("disk", &config.data, None));
        }
        findings.push(machine::clocks(&self.clocks()));
        findings
    }

    /// The rules of what answers, else those of the configuration.
    fn rules(&self, config: &Config) -> Option<Rules> {
        let standing = self.history.as_ref().and_then(history::Found::standing);
        standing.map(|standing| (**standing.generations.live()).clone()).or_else(|| config.rules().ok())
    }

    async fn judge_topic(&self, place: &Place, findings: &mut Vec<Finding>) -> Option<topic::Progress> {
        let Place { config, kafka, own_kafka, .. } = place;
        let found = match &self.topic {
            None => {
                findings.push(nowhere("topic", "Kafka", "kafka.bootstrap or --kafka HOST:PORT"));
                return None;
            }
            Some(Err(error)) => {
                findings.push(topic::absent(&config.kafka.topic, kafka, error));
                return None;
            }
            Some(Ok(found)) => found,
        };
        let examined = &found.examined;
        findings.push(topic::topic(&config.kafka.topic, config.kafka.partitions, examined));
        findings.push(topic::replication(examined, *own_kafka));
        findings.push(topic::positions(examined));
        let rules = self.rules(config)?;
        findings.extend(topic::message_size(
            examined,
            rules.limits.max_bytes.try_into().unwrap_or(u64::MAX),
            config.kafka.client.get("message.max.bytes"),
        ));
        let connected = config.kafka.connect(kafka);
        match within(topic::follow(&connected, examined.partitions, groups(config, &rules, self.speed_in_group(place)))).await {
            Ok(Ok(progress)) => {
                findings.push(topic::retention(found, &progress));
                findings.push(topic::groups(&progress, self.status.is_ok()));
                findings.push(topic::lag(found, &progress, rules.epoch_bits));
                Some(progress)
            }
            failed => {
                let reason = failed.map_or_else(|()| late(), |asked| asked.err().map(|error| error.to_string()).unwrap_or_default());
                findings.push(topic::retention(found, &topic::Progress::default()));
                findings.push(Finding::failure(
                    "groups",
                    format!("the groups cannot be asked for: {reason}"),
                    "look at the brokers: a coordinator may be missing, or this principal may not describe groups",
                ));
                None
            }
        }
    }

    /// In one process, the speed layer is in no group.
    fn speed_in_group(&self, place: &Place) -> bool {
        self.redis.is_some() && !place.up && !self.status.as_ref().is_ok_and(|status| status["live"]["from"] == "memory")
    }

    fn judge_history(&self, place: &Place, progress: Option<&topic::Progress>, findings: &mut Vec<Finding>) {
        let config = &place.config;
        let tables = config.clickhouse.tables();
        let Some(found) = &self.history else {
            return findings.push(nowhere("clickhouse", "ClickHouse", "clickhouse.url or --clickhouse URL"));
        };
        findings.push(history::servers(found));
        findings.extend(history::settings(found, &tables, place.own_clickhouse));
        findings.extend(history::tables(found, &tables));
        findings.extend(history::disks(found));
        if let (Some(standing), Ok(ours)) = (found.standing(), config.rules()) {
            if let Some(Ok(topic)) = &self.topic {
                let group = config.kafka.batch_group(standing.generations.live());
                findings.push(topic::input(&config.kafka.topic, &group, standing.input.as_ref(), &topic.examined.identity));
            }
            findings.push(history::rules(standing, &ours));
            findings.push(history::reconciliation(standing, progress, standing.generations.live().epoch_bits));
        }
    }

    fn clocks(&self) -> Vec<(String, Skew)> {
        let servers = self.history.iter().flat_map(history::Found::answered);
        let clickhouse = servers.map(|(at, found)| (format!("ClickHouse at {at}"), found.clock));
        let redis = self.redis.as_ref().and_then(|redis| Some(("Redis".to_owned(), redis.as_ref().ok()?.clock?)));
        clickhouse.chain(redis).collect()
    }
}

fn nowhere(check: &'static str, what: &str, names: &str) -> Finding {
    Finding::warning(
        check,
        format!("no {what} is named, and no `tidemark up` runs on this data directory: there is nothing to look at"),
        format!("start `tidemark up`, or name it with {names}, or --data the directory of one that runs"),
    )
}

/// The groups that should have members.
fn groups(config: &Config, rules: &Rules, speed: bool) -> Vec<String> {
    let speed = speed.then(|| config.kafka.speed_group(rules));
    [config.kafka.batch_group(rules)].into_iter().chain(speed).collect()
}

async fn redis(config: &Config) -> Option<Result<tidemark_snapshot::Examined, tidemark_snapshot::Error>> {
    if config.redis.urls.is_empty() {
        return None;
    }
    let at = "the configured address".to_owned();
    let server = match config.redis.server() {
        Ok(server) => server,
        Err(error) => return Some(Err(tidemark_snapshot::Error::Refused { at, reason: error.to_string() })),
    };
    let late = |()| tidemark_snapshot::Error::Unavailable { at, reason: late() };
    Some(within(tidemark_snapshot::examine(&server)).await.map_err(late).flatten())
}
