//! The one door to Kafka: the only place that names `rdkafka`.
//!
//! [`Kafka`] says where the topic is, and asks about it; `consumer`, `producer` and `admin` connect to it; `answers` knows who waits for
//! which acknowledgement; `native` has the calls that librdkafka offers and its wrapper does not.

mod admin;
mod answers;
mod consumer;
mod copy;
mod examine;
mod faults;
mod native;
mod positions;
mod producer;

pub use admin::{Admin, TopicInfo};
pub use consumer::{ConsumerOptions, KafkaConsumer};
pub use copy::{Copied, Copy, Copying, Original, Source, TopicRange};
pub use examine::{Examined, Group};
pub use positions::GroupPositions;
pub use producer::{KafkaProducer, ProducerOptions};

use crate::{Error, Extent, Membership, NextOffset, OtherTopic, Partition, Throttled, TopicIdentity};
use faults::Faults;
use rdkafka::admin::AdminClient;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::statistics::Statistics;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

/// How long a question to the broker (extent, committed position, metadata) may take.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

/// How often clients tell of themselves: of late it is asked only how long brokers made them wait.
const STATISTICS_EVERY: Duration = Duration::from_secs(5);

/// Settings on which exactness rests. Another value would be wrong, so it is refused rather than overridden.
const RESERVED: [&str; 19] = [
    "acks",
    "auto.offset.reset",
    "bootstrap.servers",
    "delivery.report.only.error",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "fetch.error.backoff.ms",
    "group.id",
    "group.instance.id",
    "group.protocol",
    "isolation.level",
    "metadata.broker.list",
    "partition.assignment.strategy",
    "partitioner",
    "request.required.acks",
    "session.timeout.ms",
    "transactional.id",
];

/// Where a record with a key goes, whoever writes it: as Kafka's own clients have it.
const PARTITIONER: (&str, &str) = ("partitioner", "murmur2_random");

/// Where a topic is, and how to speak to its brokers.
#[derive(Clone, Debug)]
pub struct Kafka {
    /// `host:port`, comma separated.
    pub bootstrap: String,
    pub topic: String,
    /// librdkafka settings passed through (security, timeouts, buffers). Those on which exactness rests are refused.
    pub client_options: BTreeMap<String, String>,
    /// If it is known which topic it must be: consumers take nothing from another one of the name.
    expected: Option<TopicIdentity>,
    /// For questions, made with the first one and shared by all clones. Not a consumer's client: a broker answers the requests of a
    /// connection in order, so that a question waits half a second behind a fetch that finds nothing.
    asking: Arc<OnceLock<Arc<AdminClient<Journal>>>>,
    /// What its clients have met.
    faults: Faults,
    throttled: Throttled,
}

impl Kafka {
    pub fn new(bootstrap: impl Into<String>, topic: impl Into<String>) -> Self {
        Self {
            bootstrap: bootstrap.into(),
            topic: topic.into(),
            client_options: BTreeMap::new(),
            expected: None,
            asking: Arc::default(),
            faults: Faults::default(),
            throttled: Throttled::default(),
        }
    }

    /// Another topic of the same cluster.
    #[must_use]
    pub fn of_topic(&self, topic: impl Into<String>) -> Self {
        Self { topic: topic.into(), expected: None, ..self.clone() }
    }

    /// Refuses settings that librdkafka, as it is built here, does not know or cannot do. Connects to nothing.
    pub fn validate(&self) -> Result<(), Error> {
        Self { bootstrap: String::new(), asking: Arc::default(), ..self.clone() }.asking().map(drop)
    }

    pub fn admin(&self) -> Result<Admin, Error> {
        Admin::new(self)
    }

    /// The client that asks.
    fn asking(&self) -> Result<Arc<AdminClient<Journal>>, Error> {
        if let Some(client) = self.asking.get() {
            return Ok(Arc::clone(client));
        }
        let client = AdminClient::from_config_and_context(&self.config(&[], &[])?, Journal::of(self))
            .map_err(|error| Error::Refused { reason: format!("making a client: {error}") })?;
        Ok(Arc::clone(self.asking.get_or_init(|| Arc::new(client))))
    }

    /// How long brokers make its clients wait.
    pub fn throttled(&self) -> Throttled {
        self.throttled.clone()
    }

    /// How far a group has come, without joining it.
    pub fn group_positions(&self, group: &str) -> Result<GroupPositions, Error> {
        GroupPositions::new(self, group)
    }

    pub fn consumer(&self, membership: Membership, options: ConsumerOptions) -> Result<KafkaConsumer, Error> {
        KafkaConsumer::new(self, membership, options)
    }

    pub fn producer(&self, options: ProducerOptions) -> Result<KafkaProducer, Error> {
        KafkaProducer::new(self, options)
    }

    /// The settings of a client: `defaults`, then the operator's, then `fixed`.
    fn config(&self, defaults: &[(&str, &str)], fixed: &[(&str, &str)]) -> Result<ClientConfig, Error> {
        if let Some(reserved) = RESERVED.iter().find(|&&key| self.client_options.contains_key(key)) {
            let reason = format!("the client option `{reserved}` is set by tidemark and cannot be configured");
            return Err(Error::Refused { reason });
        }
        let mut config = ClientConfig::new();
        config.set_log_level(RDKafkaLogLevel::Info);
        // A broker that is back is found within a second or two, not ten.
        config.set("reconnect.backoff.max.ms", "1000").set("socket.keepalive.enable", "true");
        config.set("statistics.interval.ms", STATISTICS_EVERY.as_millis().to_string());
        for (key, value) in defaults {
            config.set(*key, *value);
        }
        for (key, value) in &self.client_options {
            config.set(key, value);
        }
        for (key, value) in fixed {
            config.set(*key, *value);
        }
        config.set("bootstrap.servers", &self.bootstrap);
        Ok(config)
    }

    /// What an error code of the broker or the client means to the caller.
    fn error(&self, code: RDKafkaErrorCode, doing: &str) -> Error {
        let reason = format!("{doing}: {code}");
        match code {
            RDKafkaErrorCode::UnknownTopicOrPartition | RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownPartition => {
                Error::NoSuchTopic { topic: self.topic.clone() }
            }
            RDKafkaErrorCode::TopicAuthorizationFailed => Error::Forbidden {
                reason: format!("{reason}; it needs Create, Read, Write, Describe and DescribeConfigs on the topic `{}`", self.topic),
            },
            RDKafkaErrorCode::GroupAuthorizationFailed => Error::Forbidden {
                reason: format!("{reason}; it needs Read and Describe on the groups that begin with kafka.group and a dash"),
            },
            RDKafkaErrorCode::ClusterAuthorizationFailed | RDKafkaErrorCode::TransactionalIdAuthorizationFailed => {
                Error::Forbidden { reason: format!("{reason}; docs/operations.md lists the rights that it needs") }
            }
            _ if is_transient(code) => {
                let reason = self.faults.current().map_or(reason, |fault| format!("{doing}: {fault}"));
                Error::Unavailable { broker: self.bootstrap.clone(), reason }
            }
            _ => Error::Refused { reason },
        }
    }

    /// The same for the wrapper's errors.
    fn client_error(&self, error: &KafkaError, doing: &str) -> Error {
        let code = match error {
            KafkaError::AdminOp(code) => Some(*code),
            other => other.rdkafka_error_code(),
        };
        match code {
            Some(code) => self.error(code, doing),
            None => Error::Refused { reason: format!("{doing}: {error}") },
        }
    }

    /// Asks the broker for a partition's extent.
    fn extent(&self, partition: Partition, patience: Duration) -> Result<Extent, Error> {
        let (start, end) = self
            .asking()?
            .inner()
            .fetch_watermarks(&self.topic, number(partition), patience)
            .map_err(|error| self.client_error(&error, "asking for the extent of a partition"))?;
        let position = |offset: i64| {
            let reason = || Error::Refused { reason: format!("the broker gives {offset} as a limit of partition {partition}") };
            u64::try_from(offset).map(NextOffset::new).map_err(|_| reason())
        };
        Ok(Extent { start: position(start)?, end: position(end)? })
    }

    /// Asks the brokers which topic this is, and how many partitions it has.
    fn describe(&self, cluster_id: String, timeout: Duration) -> Result<Description, Error> {
        let doing = "asking for the topic's id";
        let name = native::c_name(&self.topic).ok_or_else(|| Error::NoSuchTopic { topic: self.topic.clone() })?;
        let found = native::describe_topic(self.asking()?.inner(), &name, timeout).map_err(|code| self.error(code, doing))?;
        let partitions = u32::try_from(found.partitions).unwrap_or(u32::MAX);
        Ok(Description { identity: TopicIdentity { cluster_id, topic_id: found.id }, partitions })
    }

    /// Refuses another topic of the name than the one that is expected.
    fn must_be_expected(&self, found: &TopicIdentity) -> Result<(), Error> {
        match &self.expected {
            Some(expected) if !expected.may_be(found) => {
                let (topic, expected, found) = (self.topic.clone(), expected.clone(), found.clone());
                Err(Error::OtherTopic(Box::new(OtherTopic { topic, expected, found })))
            }
            _ => Ok(()),
        }
    }

    /// Asks the brokers whether the topic is still the one that is expected, if one is.
    fn confirm(&self, timeout: Duration) -> Result<(), Error> {
        if self.expected.is_none() {
            return Ok(());
        }
        self.must_be_expected(&self.describe(String::new(), timeout)?.identity)
    }

    /// The topic's partitions; `NoSuchTopic` if there is no such topic.
    fn partitions(&self, patience: Duration) -> Result<Partitions, Error> {
        let doing = "asking for the topic's partitions";
        let asking = self.asking()?;
        let metadata = asking.inner().fetch_metadata(Some(&self.topic), patience).map_err(|error| self.client_error(&error, doing))?;
        let topic = metadata.topics().iter().find(|topic| topic.name() == self.topic);
        let topic = topic.ok_or_else(|| Error::NoSuchTopic { topic: self.topic.clone() })?;
        if let Some(code) = topic.error() {
            return Err(self.error(code.into(), doing));
        }
        let led = topic.partitions().iter().all(|partition| partition.leader() >= 0 && partition.error().is_none());
        Ok(Partitions { count: u32::try_from(topic.partitions().len()).unwrap_or(u32::MAX), led })
    }
}

/// Which topic it is, and its partitions.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Description {
    pub identity: TopicIdentity,
    pub partitions: u32,
}

/// Which librdkafka this is, and what it can do: security, compression.
pub fn client_version() -> String {
    let (_, version) = rdkafka::util::get_rdkafka_version();
    let features = ClientConfig::new().create_native_config().and_then(|config| config.get("builtin.features"));
    let features = features.unwrap_or_default().trim_end_matches('\0').replace(',', ", ");
    format!("librdkafka {version} ({features})")
}

/// What metadata says of the topic.
struct Partitions {
    count: u32,
    /// Every partition has a leader.
    led: bool,
}

/// librdkafka's partition number. Partitions come from Kafka, which numbers them with a non-negative i32.
fn number(partition: Partition) -> i32 {
    i32::try_from(partition.0).expect("Kafka numbers partitions with an i32")
}

/// The broker cannot be reached, or is not ready: repeating may help.
fn is_transient(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as E;
    matches!(
        code,
        E::AllBrokersDown
            | E::BrokerDestroy
            | E::BrokerNotAvailable
            | E::BrokerTransportFailure
            | E::CoordinatorLoadInProgress
            | E::CoordinatorNotAvailable
            // The client lets go of a connection because the cluster has another address for it.
            | E::DestroyBroker
            | E::Fail
            | E::InProgress
            | E::KafkaStorageError
            | E::LeaderNotAvailable
            | E::MessageTimedOut
            | E::NetworkException
            | E::NodeUpdate
            | E::NotController
            | E::NotCoordinator
            | E::NotEnoughReplicas
            | E::NotEnoughReplicasAfterAppend
            | E::NotLeaderForPartition
            | E::OffsetNotAvailable
            | E::OperationTimedOut
            | E::Outdated
            | E::PreviousInProgress
            | E::RebalanceInProgress
            | E::ReplicaNotAvailable
            | E::RequestTimedOut
            | E::Resolve
            | E::Retry
            | E::TimedOutQueue
            | E::WaitCache
            | E::WaitingForCoordinator
    )
}

/// librdkafka's log lines and connection errors, in tracing. An outage is logged once, when it begins and when it ends.
#[derive(Debug, Default)]
struct Journal {
    outage: AtomicBool,
    faults: Faults,
    throttled: Throttled,
}

impl ClientContext for Journal {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // Connection failures come again with every attempt; `error` tells of them once.
        if matches!(facility, "FAIL" | "ERROR") {
            tracing::debug!(target: "kafka", facility, "{message}");
            return;
        }
        match level {
            RDKafkaLogLevel::Emerg | RDKafkaLogLevel::Alert | RDKafkaLogLevel::Critical | RDKafkaLogLevel::Error => {
                tracing::error!(target: "kafka", facility, "{message}");
            }
            RDKafkaLogLevel::Warning => tracing::warn!(target: "kafka", facility, "{message}"),
            RDKafkaLogLevel::Notice | RDKafkaLogLevel::Info => tracing::info!(target: "kafka", facility, "{message}"),
            RDKafkaLogLevel::Debug => tracing::debug!(target: "kafka", facility, "{message}"),
        }
    }

    fn stats(&self, statistics: Statistics) {
        let longest = statistics.brokers.values().filter_map(|broker| Some(broker.throttle.as_ref()?.max)).max();
        self.throttled.note(Duration::from_millis(longest.map_or(0, i64::unsigned_abs)), STATISTICS_EVERY);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.faults.note(reason);
        match error.rdkafka_error_code() {
            Some(code) if is_transient(code) => {
                if !self.outage.swap(true, Ordering::Relaxed) {
                    tracing::warn!(target: "kafka", "the broker cannot be reached, trying again: {reason}");
                }
            }
            _ => tracing::error!(target: "kafka", "{error}: {reason}"),
        }
    }
}

impl Journal {
    fn of(kafka: &Kafka) -> Self {
        Self { faults: kafka.faults.clone(), throttled: kafka.throttled.clone(), ..Self::default() }
    }

    /// The broker has answered.
    fn reached(&self) {
        self.faults.clear();
        if self.outage.load(Ordering::Relaxed) && self.outage.swap(false, Ordering::Relaxed) {
            tracing::info!(target: "kafka", "the broker answers again");
        }
    }
}
