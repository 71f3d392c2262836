//! One Apache Kafka node (KRaft, broker and controller in one process) on loopback, from the jars that set-up brought.
//!
//! Its data survives a kill like any Kafka's: at the next start it checks the newest segments and goes on.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::child::{Launch, Probe, Supervisor, run_to_end};
use crate::error::Error;
use crate::locate::Engines;

/// A JVM on two busy cores, and checking segments after a kill, take a while.
const START_LIMIT: Duration = Duration::from_secs(120);
/// From SIGTERM to SIGKILL: a clean stop flushes, and takes one to three seconds.
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Any valid id does: a node on loopback meets no other cluster. Fixed, so that a formatted directory is known again.
const CLUSTER_ID: &str = "VGlkZW1hcmstLWxvY2FsLQ";

const LOG4J: &str = include_str!("../engines/log4j2.properties");

/// Where and how large.
#[derive(Debug, Clone)]
pub struct BrokerOptions {
    /// Its data and configuration.
    pub dir: PathBuf,
    /// Its logs.
    pub logs: PathBuf,
    /// For clients, on 127.0.0.1.
    pub port: u16,
    /// For itself, on 127.0.0.1.
    pub controller_port: u16,
    /// Largest heap. The page cache, not the heap, holds the data.
    pub heap_mib: u32,
}

impl BrokerOptions {
    /// Enough for some tens of partitions; measured in ENGINES.md.
    pub const DEFAULT_HEAP_MIB: u32 = 512;
}

/// The broker, seen from its parent.
#[derive(Debug)]
pub struct Broker;

impl Broker {
    /// Writes the configuration, formats a new directory, starts the node and waits until it answers.
    ///
    /// # Errors
    /// [`Error::PortTaken`], [`Error::EndedAtStart`], [`Error::NotReady`], [`Error::Spawn`] and [`Error::File`].
    pub async fn start(engines: &Engines, options: &BrokerOptions) -> Result<Supervisor, Error> {
        let properties = options.dir.join("node.properties");
        let log4j = options.dir.join("log4j2.properties");
        for (path, text) in [(&properties, node_properties(options)), (&log4j, LOG4J.to_owned())] {
            fs::write(path, text).map_err(Error::file("write", path))?;
        }
        if !is_formatted(&options.dir) {
            format(engines, options, &properties).await?;
        }
        let mut launch = java(engines, options, "Kafka");
        launch.args.extend(["kafka.Kafka".into(), properties.into()]);
        Supervisor::start(launch).await
    }
}

fn data(dir: &Path) -> PathBuf {
    dir.join("data")
}

/// The formatter writes `meta.properties` last.
fn is_formatted(dir: &Path) -> bool {
    data(dir).join("meta.properties").is_file()
}

async fn format(engines: &Engines, options: &BrokerOptions, properties: &Path) -> Result<(), Error> {
    let mut launch = java(engines, options, "Kafka's formatter");
    launch.log = options.logs.join("kafka-format.log");
    let words = ["kafka.tools.StorageTool", "format", "--ignore-formatted", "--cluster-id", CLUSTER_ID, "--config"];
    launch.args.extend(words.map(OsString::from));
    launch.args.push(properties.into());
    run_to_end(&launch).await
}

/// `java` with its flags, up to the class to run.
///
/// Serial collection, the first compiler alone and a heap that grows, measured on two cores with 6 million records twice:
/// ready in 1.6 s with 168 MiB, 4.3 s of CPU for the second 6 million, against 1.9 s, 198 MiB and 7.3 s with both compilers,
/// and 1.9 s, 209 MiB with G1. The archive of classes that set-up makes saves 0.9 s of that, and 1 s of CPU; without one, or with
/// one for other jars or another Java, the node starts as well.
fn java(engines: &Engines, options: &BrokerOptions, name: &'static str) -> Launch {
    let mut class_path = OsString::from(&engines.kafka_lib);
    class_path.push("/*");
    let mut classes = OsString::from("-XX:SharedArchiveFile=");
    classes.push(engines.kafka_classes());
    let mut args: Vec<OsString> = vec![
        "-Xms64m".into(),
        format!("-Xmx{}m", options.heap_mib).into(),
        "-XX:+UseSerialGC".into(),
        "-XX:TieredStopAtLevel=1".into(),
        "-XX:+ExitOnOutOfMemoryError".into(),
        "-Xshare:auto".into(),
        classes,
        "-Djava.awt.headless=true".into(),
    ];
    let property = |name: &str, path: PathBuf| {
        let mut argument = OsString::from(format!("-D{name}="));
        argument.push(path);
        argument
    };
    args.push(property("tidemark.logs", options.logs.clone()));
    args.push(property("log4j2.configurationFile", options.dir.join("log4j2.properties")));
    args.push("-cp".into());
    args.push(class_path);
    Launch {
        name,
        program: engines.java.clone(),
        args,
        log: options.logs.join("kafka.out"),
        ports: vec![options.port, options.controller_port],
        probe: Probe::Kafka,
        start_limit: START_LIMIT,
        stop_limit: STOP_LIMIT,
        // JAVA_TOOL_OPTIONS and the like are the user's to set.
        bare: false,
    }
}

fn node_properties(options: &BrokerOptions) -> String {
    let BrokerOptions { port, controller_port, .. } = options;
    let data = data(&options.dir);
    format!(
        "# Written at every start; changes are lost.
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@127.0.0.1:{controller_port}
listeners=PLAINTEXT://127.0.0.1:{port},CONTROLLER://127.0.0.1:{controller_port}
advertised.listeners=PLAINTEXT://127.0.0.1:{port}
controller.listener.names=CONTROLLER
inter.broker.listener.name=PLAINTEXT
log.dirs={data}
num.partitions=4
auto.create.topics.enable=false
# One machine: one copy, small segments (a check after a kill reads the newest of each partition), few threads.
default.replication.factor=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
transaction.state.log.num.partitions=4
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
share.coordinator.state.topic.num.partitions=1
log.segment.bytes=134217728
num.recovery.threads.per.data.dir=2
num.network.threads=2
num.io.threads=4
log.cleaner.dedupe.buffer.size=16777216
# After a kill, the node may join again only when its former life's session is over: 9 s by default.
broker.session.timeout.ms=3000
broker.heartbeat.interval.ms=500
# Kept until a topic's own retention says otherwise. Records carry the time of sending, never an event's.
log.retention.hours=-1
log.message.timestamp.type=CreateTime
# Committed positions outlive a long pause: a year.
offsets.retention.minutes=525600
# One process joins: no need to wait for others. Sessions may be as short as 6 s, so that a dead owner is noticed.
group.initial.rebalance.delay.ms=0
group.min.session.timeout.ms=1000
group.consumer.min.session.timeout.ms=1000
group.consumer.min.heartbeat.interval.ms=300
",
        data = data.display()
    )
}
