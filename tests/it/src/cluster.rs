//! The servers that scaled-out roles share, as processes of the test's own: Kafka brokers, the ClickHouse engine, Redis.

use crate::client::Client;
use crate::proxy::{Proxy, Weather};
use crate::redis::Redis;
use crate::server::{binary, free_port, freeze};
use crate::slots::Slots;
use crate::wait;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

const DEADLINE: Duration = Duration::from_secs(120);

/// One of the servers. Dropped, it is killed.
#[derive(Debug)]
struct Node {
    command: Vec<String>,
    log: PathBuf,
    child: Child,
}

impl Node {
    fn start(command: Vec<String>, log: PathBuf) -> Self {
        let child = spawned(&command, &log, &[]);
        Self { command, log, child }
    }

    fn kill(&mut self) {
        self.child.kill().expect("killing a child");
        self.child.wait().expect("waiting for a killed child");
    }

    /// Another process, with these variables besides those of this one.
    fn restart(&mut self, environment: &[(String, String)]) {
        self.child = spawned(&self.command, &self.log, environment);
    }
}

fn spawned(command: &[String], log: &Path, environment: &[(String, String)]) -> Child {
    let file = File::options().create(true).append(true).open(log).expect("opening a log");
    let mut spawned = Command::new(&command[0]);
    spawned
        .args(&command[1..])
        .envs(environment.iter().cloned())
        .stdin(Stdio::null())
        .stdout(file.try_clone().expect("a second handle"))
        .stderr(file);
    spawned.spawn().unwrap_or_else(|error| panic!("{} cannot be started: {error}", command[0]))
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Where a role finds the servers.
#[derive(Clone, Debug)]
pub struct Endpoints {
    pub kafka: String,
    pub clickhouse: String,
    pub redis: String,
}

/// All servers of a deployment, answering.
#[derive(Debug)]
pub struct Cluster {
    dir: tempfile::TempDir,
    brokers: Vec<Node>,
    ports: Vec<u16>,
    /// For each door a proxy for each broker: where the broker sends clients that have come through this door.
    doors: Vec<Vec<Proxy>>,
    /// For each broker the way that the other brokers take to it, if [`Extra::between`] asked for one.
    between: Vec<Proxy>,
    engine: Node,
    engine_port: u16,
    pub redis: Redis,
    _slots: Slots,
}

impl Cluster {
    /// Several brokers take all slots.
    pub fn start(brokers: u16) -> Self {
        Self::with(brokers, |_| Extra::default())
    }

    /// With settings and users that the test gives, which gets the directory.
    pub fn with(brokers: u16, extra: impl FnOnce(&Path) -> Extra) -> Self {
        let slots = if brokers == 1 { Slots::one() } else { Slots::all() };
        let dir = tempfile::Builder::new().prefix("tidemark-cluster-").tempdir().expect("a temporary directory");
        let engines = engines();
        let extra = extra(dir.path());
        let (mut doors, mut between): (Vec<Vec<Proxy>>, _) = ((0..extra.doors.max(1)).map(|_| Vec::new()).collect(), Vec::new());
        let mut proxied = |proxies: &mut Vec<Proxy>| {
            let port = free_port();
            proxies.push(Proxy::to_kafka(port));
            Proxied { port, proxy: proxies[proxies.len() - 1].port() }
        };
        let listeners: Vec<Listeners> = (0..brokers)
            .map(|_| Listeners {
                own: free_port(),
                controller: free_port(),
                doors: doors.iter_mut().map(&mut proxied).collect(),
                between: extra.between.then(|| proxied(&mut between)),
            })
            .collect();
        let ports = listeners.iter().map(|of| of.own).collect();
        let nodes = (0..listeners.len()).map(|n| broker(dir.path(), &engines, n, &listeners, &extra)).collect();
        let engine_port = free_port();
        let engine = [
            binary().display().to_string(),
            "__engine".into(),
            "--library".into(),
            engines.join("chdb/libchdb.so").display().to_string(),
            "--data".into(),
            dir.path().join("clickhouse").display().to_string(),
            "--port".into(),
            engine_port.to_string(),
        ];
        let engine = Node::start(engine.to_vec(), dir.path().join("engine.log"));
        let redis = Redis::start();
        let cluster = Self { dir, brokers: nodes, ports, doors, between, engine, engine_port, redis, _slots: slots };
        cluster.wait_kafka();
        cluster.wait_engine();
        cluster
    }

    pub fn kafka(&self) -> String {
        bootstrap(self.ports.iter().copied())
    }

    /// Kafka by way of the proxies of a door, whose weather [`Cluster::set_door`] makes.
    pub fn kafka_by_door(&self, door: usize) -> String {
        bootstrap(self.doors[door].iter().map(Proxy::port))
    }

    pub fn set_door(&self, door: usize, weather: Weather) {
        self.doors[door].iter().for_each(|proxy| proxy.set(weather));
    }

    /// What happens to the other brokers' bytes on their way to this one.
    pub fn set_between(&self, broker: usize, weather: Weather) {
        self.between[broker].set(weather);
    }

    pub fn endpoints(&self) -> Endpoints {
        Endpoints { kafka: self.kafka(), clickhouse: self.clickhouse(), redis: self.redis.url() }
    }

    pub fn clickhouse_port(&self) -> u16 {
        self.engine_port
    }

    pub fn clickhouse(&self) -> String {
        format!("http://127.0.0.1:{}", self.engine_port)
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    fn wait_kafka(&self) {
        let client: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", self.kafka())
            .set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg)
            .create()
            .expect("a client");
        wait::until("all brokers answer", DEADLINE, || {
            let metadata = client.fetch_metadata(None, Duration::from_secs(2)).ok()?;
            (metadata.brokers().len() == self.ports.len()).then_some(())
        });
    }

    fn wait_engine(&self) {
        let client = Client::new(self.clickhouse());
        wait::until("the engine answers", DEADLINE, || client.try_get("/ping").ok().filter(|reply| reply.status == 200));
    }

    /// Runs one of Kafka's own tools.
    pub fn kafka_tool(&self, class: &str, arguments: &[&str]) {
        let mut command = Command::new("java");
        command.arg("-cp").arg(engines().join("kafka/lib/*")).arg(class).args(["--bootstrap-server", &self.kafka()]).args(arguments);
        let output = command.stdin(Stdio::null()).output().expect("started");
        let said = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{class} {arguments:?}: {said}");
    }

    pub fn kill_engine(&mut self) {
        self.engine.kill();
    }

    pub fn restart_engine(&mut self) {
        self.restart_engine_with(&[]);
    }

    /// As its supervisor does in `tidemark up`, if it has ended by itself.
    pub fn supervise_engine(&mut self) {
        if self.engine.child.try_wait().expect("waiting for a child").is_some() {
            self.restart_engine();
        }
    }

    /// With these variables in its environment.
    pub fn restart_engine_with(&mut self, environment: &[(String, String)]) {
        self.engine.restart(environment);
        self.wait_engine();
    }

    /// Stands still without closing its connections, or goes on.
    pub fn freeze_engine(&self, frozen: bool) {
        freeze(self.engine.child.id(), frozen);
    }

    /// What people ask ClickHouse directly.
    pub fn try_sql(&self, statement: &str) -> Result<Vec<Vec<String>>, String> {
        Client::new(self.clickhouse()).try_sql(statement)
    }

    pub fn kill_broker(&mut self, n: usize) {
        self.brokers[n].kill();
    }

    pub fn restart_broker(&mut self, n: usize) {
        self.restart_broker_with(n, &[]);
    }

    /// With these variables in its environment.
    pub fn restart_broker_with(&mut self, n: usize, environment: &[(String, String)]) {
        self.brokers[n].restart(environment);
        self.wait_kafka();
    }

    /// Stands still without closing its connections, or goes on.
    pub fn freeze_broker(&self, n: usize, frozen: bool) {
        freeze(self.brokers[n].child.id(), frozen);
    }
}

fn bootstrap(ports: impl Iterator<Item = u16>) -> String {
    ports.map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
}

impl Drop for Cluster {
    /// What a failed test leaves behind is worth a look.
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.dir.disable_cleanup(true);
            println!("logs are left in {}", self.dir.path().display());
        }
    }
}

/// Where `scripts/setup.sh` has put Kafka and the engine's library.
fn engines() -> PathBuf {
    let given = std::env::var_os("TIDEMARK_ENGINES").map(PathBuf::from);
    let engines = given.unwrap_or_else(|| concat!(env!("CARGO_MANIFEST_DIR"), "/../../engines").into());
    // Java takes the archive of classes for jars of the very same path.
    engines.canonicalize().unwrap_or(engines)
}

/// What a test wants of its brokers besides what all have.
#[derive(Debug, Default)]
pub struct Extra {
    /// Listeners, as `NAME:PROTOCOL` and a port.
    pub listeners: Vec<(&'static str, &'static str, u16)>,
    /// Lines of the broker's settings.
    pub settings: String,
    /// Further arguments when a broker's directory is formatted.
    pub format: Vec<String>,
    /// Further arguments of its Java.
    pub java: Vec<String>,
    /// Listeners behind proxies, each with a weather of its own. One, if none is asked for.
    pub doors: usize,
    /// Brokers reach each other by proxies, too.
    pub between: bool,
}

/// A broker's ports: its own, its controller's, and those behind proxies.
#[derive(Debug)]
struct Listeners {
    own: u16,
    controller: u16,
    doors: Vec<Proxied>,
    between: Option<Proxied>,
}

/// A port, and the proxy's that leads to it.
#[derive(Debug)]
struct Proxied {
    port: u16,
    proxy: u16,
}

/// A broker that is also a controller, as `embedded/src/broker.rs` has it, the n-th of these.
fn broker(dir: &Path, engines: &Path, n: usize, all: &[Listeners], extra: &Extra) -> Node {
    let voters = all.iter().enumerate().map(|(n, of)| format!("{}@127.0.0.1:{}", n + 1, of.controller)).collect::<Vec<_>>().join(",");
    let copies = all.len().min(3);
    let Listeners { own, controller, doors, between } = &all[n];
    let (data, id) = (dir.join(format!("kafka-{}", n + 1)), n + 1);
    // Name, protocol, port, and the port that clients are told.
    let mut more: Vec<(String, &str, u16, u16)> = vec![("PLAINTEXT".into(), "PLAINTEXT", *own, *own)];
    more.extend(doors.iter().enumerate().map(|(n, door)| (format!("DOOR{n}"), "PLAINTEXT", door.port, door.proxy)));
    more.extend(between.iter().map(|between| ("BROKERS".into(), "PLAINTEXT", between.port, between.proxy)));
    more.extend(extra.listeners.iter().map(|(name, protocol, port)| ((*name).to_owned(), *protocol, *port, *port)));
    let joined = |each: fn(&(String, &str, u16, u16)) -> String| more.iter().map(each).collect::<Vec<_>>().join(",");
    let listeners = joined(|(name, _, port, _)| format!("{name}://127.0.0.1:{port}"));
    let advertised = joined(|(name, _, _, told)| format!("{name}://127.0.0.1:{told}"));
    let protocols = joined(|(name, protocol, ..)| format!("{name}:{protocol}"));
    let between = if between.is_some() { "BROKERS" } else { "PLAINTEXT" };
    let properties = format!(
        "process.roles=broker,controller\nnode.id={id}\ncontroller.quorum.voters={voters}\n\
         listeners={listeners},CONTROLLER://127.0.0.1:{controller}\n\
         listener.security.protocol.map={protocols},CONTROLLER:PLAINTEXT\n\
         advertised.listeners={advertised}\ncontroller.listener.names=CONTROLLER\ninter.broker.listener.name={between}\n\
         log.dirs={data}\nauto.create.topics.enable=false\ndefault.replication.factor={copies}\nmin.insync.replicas={insync}\n\
         offsets.topic.replication.factor={copies}\noffsets.topic.num.partitions=4\ntransaction.state.log.replication.factor={copies}\n\
         transaction.state.log.min.isr={insync}\ntransaction.state.log.num.partitions=4\nlog.segment.bytes=134217728\n\
         num.network.threads=2\nnum.io.threads=4\nlog.cleaner.dedupe.buffer.size=16777216\nlog.retention.hours=-1\n\
         log.message.timestamp.type=CreateTime\ngroup.initial.rebalance.delay.ms=0\ngroup.min.session.timeout.ms=1000\n\
         broker.session.timeout.ms=6000\n{settings}",
        settings = extra.settings,
        data = data.display(),
        insync = copies.div_ceil(2),
    );
    let file = dir.join(format!("kafka-{id}.properties"));
    fs::write(&file, properties).expect("writing a broker's settings");
    let java = |arguments: &[&str]| -> Vec<String> {
        let classes = format!("{}/kafka/lib/*", engines.display());
        let flags = ["java", "-Xms64m", "-Xmx384m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true"];
        let logging = concat!("-Dlog4j2.configurationFile=", env!("CARGO_MANIFEST_DIR"), "/../../embedded/engines/log4j2.properties");
        let archive = format!("-XX:SharedArchiveFile={}/kafka/classes.jsa", engines.display());
        let logs = format!("-Dtidemark.logs={}", dir.join(format!("kafka-{id}-logs")).display());
        flags
            .iter()
            .copied()
            .chain([archive.as_str(), &logs, logging])
            .chain(extra.java.iter().map(String::as_str))
            .chain(["-cp", &classes])
            .chain(arguments.iter().copied())
            .map(str::to_owned)
            .collect()
    };
    let settings = file.display().to_string();
    let format = ["kafka.tools.StorageTool", "format", "--cluster-id", "VGlkZW1hcmstdGVzdHMtMQ", "--config", &settings];
    let format = java(&format.into_iter().chain(extra.format.iter().map(String::as_str)).collect::<Vec<_>>());
    let log = dir.join(format!("kafka-{id}.log"));
    let formatted = spawned(&format, &log, &[]).wait().expect("waiting for a child");
    assert!(formatted.success(), "formatting a broker's directory: {}", fs::read_to_string(&log).unwrap_or_default());
    Node::start(java(&["kafka.Kafka", &settings]), log)
}
