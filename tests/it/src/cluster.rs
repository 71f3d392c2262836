//! The servers that scaled-out roles share, as processes of the test's own: Kafka brokers, the ClickHouse engine, Redis.

use crate::proxy::Proxy;
use crate::redis::Redis;
use crate::server::{binary, free_port};
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
        let child = spawned(&command, &log);
        Self { command, log, child }
    }

    fn kill(&mut self) {
        self.child.kill().expect("killing a child");
        self.child.wait().expect("waiting for a killed child");
    }

    fn restart(&mut self) {
        self.child = spawned(&self.command, &self.log);
    }
}

fn spawned(command: &[String], log: &Path) -> Child {
    let file = File::options().create(true).append(true).open(log).expect("opening a log");
    let mut spawned = Command::new(&command[0]);
    spawned.args(&command[1..]).stdin(Stdio::null()).stdout(file.try_clone().expect("a second handle")).stderr(file);
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
    /// Where each broker sends clients that have come by `proxies`.
    proxies: Vec<Proxy>,
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
        let ports: Vec<u16> = (0..brokers).map(|_| free_port()).collect();
        let controllers: Vec<u16> = (0..brokers).map(|_| free_port()).collect();
        let doors: Vec<u16> = (0..brokers).map(|_| free_port()).collect();
        let proxies: Vec<Proxy> = doors.iter().map(|port| Proxy::to(*port)).collect();
        let listeners: Vec<Listeners> = (0..usize::from(brokers))
            .map(|n| Listeners { own: ports[n], controller: controllers[n], door: doors[n], proxy: proxies[n].port() })
            .collect();
        let extra = extra(dir.path());
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
        let cluster = Self { dir, brokers: nodes, ports, proxies, engine, engine_port, redis: Redis::start(), _slots: slots };
        cluster.wait_kafka();
        cluster.wait_engine();
        cluster
    }

    pub fn kafka(&self) -> String {
        self.ports.iter().map(|port| format!("127.0.0.1:{port}")).collect::<Vec<_>>().join(",")
    }

    /// Kafka by way of proxies, which [`Cluster::silence_kafka`] silences.
    pub fn kafka_by_proxies(&self) -> String {
        self.proxies.iter().map(|proxy| format!("127.0.0.1:{}", proxy.port())).collect::<Vec<_>>().join(",")
    }

    pub fn silence_kafka(&self, silent: bool) {
        self.proxies.iter().for_each(|proxy| proxy.silence(silent));
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
        let client = crate::client::Client::new(self.clickhouse());
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
        self.engine.restart();
        self.wait_engine();
    }

    pub fn kill_broker(&mut self, n: usize) {
        self.brokers[n].kill();
    }

    pub fn restart_broker(&mut self, n: usize) {
        self.brokers[n].restart();
        self.wait_kafka();
    }
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
}

/// A broker's ports: its own, its controller's, and the door behind its proxy.
#[derive(Debug)]
struct Listeners {
    own: u16,
    controller: u16,
    door: u16,
    proxy: u16,
}

/// A broker that is also a controller, as `embedded/src/broker.rs` has it, the n-th of these.
fn broker(dir: &Path, engines: &Path, n: usize, all: &[Listeners], extra: &Extra) -> Node {
    let voters = all.iter().enumerate().map(|(n, of)| format!("{}@127.0.0.1:{}", n + 1, of.controller)).collect::<Vec<_>>().join(",");
    let copies = all.len().min(3);
    let Listeners { own, controller, door, proxy } = &all[n];
    let (data, id) = (dir.join(format!("kafka-{}", n + 1)), n + 1);
    let more = |each: fn(&(&str, &str, u16)) -> String| extra.listeners.iter().map(each).collect::<String>();
    let listeners = more(|(name, _, port)| format!(",{name}://127.0.0.1:{port}"));
    let protocols = more(|(name, protocol, _)| format!(",{name}:{protocol}"));
    let properties = format!(
        "process.roles=broker,controller\nnode.id={id}\ncontroller.quorum.voters={voters}\n\
         listeners=PLAINTEXT://127.0.0.1:{own},DOOR://127.0.0.1:{door},CONTROLLER://127.0.0.1:{controller}{listeners}\n\
         listener.security.protocol.map=PLAINTEXT:PLAINTEXT,DOOR:PLAINTEXT,CONTROLLER:PLAINTEXT{protocols}\n\
         advertised.listeners=PLAINTEXT://127.0.0.1:{own},DOOR://127.0.0.1:{proxy}{listeners}\ncontroller.listener.names=CONTROLLER\ninter.broker.listener.name=PLAINTEXT\n\
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
    let formatted = spawned(&format, &log).wait().expect("waiting for a child");
    assert!(formatted.success(), "formatting a broker's directory: {}", fs::read_to_string(&log).unwrap_or_default());
    Node::start(java(&["kafka.Kafka", &settings]), log)
}
