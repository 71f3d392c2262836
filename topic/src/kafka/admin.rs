//! The topic itself: making it, its partitions, their extents.

use super::{ANSWER_DEADLINE, Description, Journal, Kafka, native, number};
use crate::{Error, Extent, NextOffset, Partition, TopicIdentity};
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication, TopicResult};
use rdkafka::error::{KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::{Offset as RawOffset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

/// How long a topic that was just made may take until every partition has a leader.
const READY_DEADLINE: Duration = Duration::from_secs(30);
/// Between two looks whether it has.
const READY_PAUSE: Duration = Duration::from_millis(20);

/// What [`Admin::ensure_topic`] found or made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct TopicInfo {
    /// As the topic has them: an existing topic keeps its own number.
    pub partitions: u32,
    pub created: bool,
}

/// Asks and changes what the brokers know of the topic. Cheap to clone.
#[derive(Clone)]
pub struct Admin {
    pub(super) kafka: Kafka,
    pub(super) client: Arc<AdminClient<Journal>>,
    /// Asked for once: the client keeps to the cluster that it was made for.
    cluster_id: Arc<OnceLock<String>>,
}

impl std::fmt::Debug for Admin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Admin").field("kafka", &self.kafka).finish_non_exhaustive()
    }
}

impl Admin {
    pub(super) fn new(kafka: &Kafka) -> Result<Self, Error> {
        Ok(Self { kafka: kafka.clone(), client: kafka.asking()?, cluster_id: Arc::default() })
    }

    /// The same, of this very topic if it is known which one.
    #[must_use]
    pub fn expecting(&self, expected: Option<TopicIdentity>) -> Self {
        Self { kafka: Kafka { expected, ..self.kafka.clone() }, ..self.clone() }
    }

    /// Makes consumers and producers that expect the same topic.
    pub fn kafka(&self) -> &Kafka {
        &self.kafka
    }

    /// Makes the topic if there is none, and waits until every partition can be used. An existing topic is left as it
    /// is, its number of partitions and its settings included.
    pub async fn ensure_topic(&self, partitions: u32, replication: u32, config: &[(&str, &str)]) -> Result<TopicInfo, Error> {
        let refused = |what: &str, n: u32| Error::Refused { reason: format!("{n} is not a number of {what}") };
        let count = i32::try_from(partitions).map_err(|_| refused("partitions", partitions))?;
        let replicas = i32::try_from(replication).map_err(|_| refused("replicas", replication))?;
        let mut topic = NewTopic::new(&self.kafka.topic, count, TopicReplication::Fixed(replicas));
        for (key, value) in config {
            topic = topic.set(key, value);
        }
        let answers = self.client.create_topics([&topic], &options()).await;
        let created = match self.only(answers, "making the topic") {
            Ok(()) => true,
            Err((Some(RDKafkaErrorCode::TopicAlreadyExists), _)) => false,
            Err((_, error)) => return Err(error),
        };
        Ok(TopicInfo { partitions: self.ready(Instant::now() + READY_DEADLINE).await?, created })
    }

    /// Waits until every partition has a leader that answers: metadata names a leader before it serves.
    async fn ready(&self, deadline: Instant) -> Result<u32, Error> {
        loop {
            let error = match self.answering().await {
                Ok(Some(count)) => return Ok(count),
                Ok(None) => None,
                Err(error @ (Error::NoSuchTopic { .. } | Error::Unavailable { .. })) => Some(error),
                Err(error) => return Err(error),
            };
            if Instant::now() >= deadline {
                let reason = "not every partition of the topic has a leader".to_owned();
                return Err(error.unwrap_or(Error::Unavailable { broker: self.kafka.bootstrap.clone(), reason }));
            }
            tokio::time::sleep(READY_PAUSE).await;
        }
    }

    /// The number of partitions if each has a leader, and each leader answers.
    async fn answering(&self) -> Result<Option<u32>, Error> {
        let found = self.look().await?;
        if found.count == 0 || !found.led {
            return Ok(None);
        }
        self.extents().await?;
        Ok(Some(found.count))
    }

    /// Which topic it is, and how many partitions it has; `NoSuchTopic` if there is none of the name, `OtherTopic` if it is not
    /// the one that is expected.
    pub async fn describe(&self) -> Result<Description, Error> {
        self.blocking(|admin| {
            let cluster_id = match admin.cluster_id.get() {
                Some(known) => known.clone(),
                None => {
                    let unavailable =
                        || Error::Unavailable { broker: admin.kafka.bootstrap.clone(), reason: "it tells no cluster id".into() };
                    let found = admin.client.inner().fetch_cluster_id(ANSWER_DEADLINE).ok_or_else(unavailable)?;
                    admin.cluster_id.get_or_init(|| found).clone()
                }
            };
            let found = admin.kafka.describe(cluster_id, ANSWER_DEADLINE)?;
            admin.kafka.faults.clear();
            admin.kafka.must_be_expected(&found.identity)?;
            Ok(found)
        })
        .await
    }

    /// True if there is such a topic. No topic is made by asking.
    pub async fn exists(&self) -> Result<bool, Error> {
        match self.describe().await {
            Err(Error::NoSuchTopic { .. }) => Ok(false),
            Ok(_) | Err(Error::OtherTopic(_)) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// The number of the topic's partitions.
    pub async fn partitions(&self) -> Result<u32, Error> {
        Ok(self.look().await?.count)
    }

    /// What each partition holds.
    pub async fn extents(&self) -> Result<BTreeMap<Partition, Extent>, Error> {
        self.blocking(|admin| {
            let count = admin.kafka.partitions(ANSWER_DEADLINE)?.count;
            (0..count).map(Partition).map(|partition| Ok((partition, admin.kafka.extent(partition, ANSWER_DEADLINE)?))).collect()
        })
        .await
    }

    /// Drops the topic and all it holds.
    pub async fn delete_topic(&self) -> Result<(), Error> {
        let answers = self.client.delete_topics(&[&self.kafka.topic], &options()).await;
        self.only(answers, "deleting the topic").map_err(|(_, error)| error)
    }

    /// Drops a partition's records below `start`, as retention does.
    pub async fn delete_records_below(&self, partition: Partition, start: NextOffset) -> Result<(), Error> {
        let doing = "deleting records";
        let mut list = TopicPartitionList::new();
        let offset = i64::try_from(start.get()).map_err(|_| Error::Refused { reason: format!("{start} is not an offset of Kafka") })?;
        list.add_partition_offset(&self.kafka.topic, number(partition), RawOffset::Offset(offset))
            .map_err(|error| self.kafka.client_error(&error, doing))?;
        let answer = self.client.delete_records(&list, &options()).await;
        let answer = answer.map_err(|error| self.kafka.client_error(&error, doing))?;
        for element in answer.elements() {
            element.error().map_err(|error| self.kafka.client_error(&error, doing))?;
        }
        Ok(())
    }

    async fn look(&self) -> Result<super::Partitions, Error> {
        self.blocking(|admin| admin.kafka.partitions(ANSWER_DEADLINE)).await
    }

    /// Calls of the client that wait for the broker's answer run where they may block.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let admin = self.clone();
        let asked = tokio::task::spawn_blocking(move || ask(&admin)).await;
        let asked = asked.map(|answer| answer.map_err(|error| self.explained(error)));
        asked.unwrap_or_else(|stopped| Err(Error::Unavailable { broker: self.kafka.bootstrap.clone(), reason: stopped.to_string() }))
    }

    /// Adds why the brokers do not answer, if a connection failed for a reason that can be mended.
    fn explained(&self, error: Error) -> Error {
        native::complaints(self.client.inner()).iter().for_each(|reason| self.kafka.faults.note(reason));
        match (error, self.kafka.faults.current()) {
            (Error::Unavailable { broker, .. }, Some(reason)) => Error::Unavailable { broker, reason },
            (error, _) => error,
        }
    }

    /// The answer for the one topic that was asked about.
    fn only(&self, answers: KafkaResult<Vec<TopicResult>>, doing: &str) -> Result<(), (Option<RDKafkaErrorCode>, Error)> {
        let answers = answers.map_err(|error| (error.rdkafka_error_code(), self.explained(self.kafka.client_error(&error, doing))))?;
        match answers.into_iter().next() {
            Some(Err((_, code))) => Err((Some(code), self.kafka.error(code, doing))),
            _ => Ok(()),
        }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ANSWER_DEADLINE)).operation_timeout(Some(ANSWER_DEADLINE))
}
