//! How far a group has come, for those who are not in it: to follow it, or to set it back.

use super::{ANSWER_DEADLINE, Journal, Kafka, number};
use crate::{Error, NextOffset, Partition};
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::topic_partition_list::{Offset as RawOffset, TopicPartitionList};
use std::collections::BTreeMap;
use std::sync::Arc;

impl ConsumerContext for Journal {}

/// Asks for a group's committed positions without joining it. Cheap to clone.
#[derive(Clone)]
pub struct GroupPositions {
    pub(super) kafka: Kafka,
    pub(super) group: String,
    pub(super) client: Arc<BaseConsumer<Journal>>,
}

impl std::fmt::Debug for GroupPositions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupPositions").field("kafka", &self.kafka).finish_non_exhaustive()
    }
}

impl GroupPositions {
    pub(super) fn new(kafka: &Kafka, group: &str) -> Result<Self, Error> {
        let config = kafka.config(&[], &[("group.id", group), ("enable.auto.commit", "false")])?;
        let client = BaseConsumer::from_config_and_context(&config, Journal::of(kafka))
            .map_err(|error| Error::Refused { reason: format!("making a client: {error}") })?;
        Ok(Self { kafka: kafka.clone(), group: group.to_owned(), client: Arc::new(client) })
    }

    /// The group's position in partitions `0..partitions`; the log's beginning where it has committed none.
    pub async fn look(&self, partitions: u32) -> Result<BTreeMap<Partition, NextOffset>, Error> {
        self.blocking(move |this| this.ask(partitions)).await
    }

    /// How many members the group has.
    pub async fn members(&self) -> Result<usize, Error> {
        Ok(self.group().await?.members)
    }

    /// Sets the group's positions, as nobody's who is in it: Kafka refuses that while it has members.
    pub async fn set(&self, positions: BTreeMap<Partition, NextOffset>) -> Result<(), Error> {
        self.blocking(move |this| {
            let doing = "setting a group's positions";
            let mut list = TopicPartitionList::new();
            for (partition, next) in positions {
                let offset =
                    i64::try_from(next.get()).map_err(|_| Error::Refused { reason: format!("{next} is not an offset of Kafka") })?;
                list.add_partition_offset(&this.kafka.topic, number(partition), RawOffset::Offset(offset))
                    .map_err(|error| this.kafka.client_error(&error, doing))?;
            }
            this.client.commit(&list, CommitMode::Sync).map_err(|error| this.kafka.client_error(&error, doing))
        })
        .await
    }

    /// Calls of the client that wait for the broker's answer run where they may block.
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        ask: impl FnOnce(&Self) -> Result<T, Error> + Send + 'static,
    ) -> Result<T, Error> {
        let this = self.clone();
        let answer = tokio::task::spawn_blocking(move || ask(&this)).await;
        answer.unwrap_or_else(|stopped| Err(Error::Unavailable { broker: self.kafka.bootstrap.clone(), reason: stopped.to_string() }))
    }

    fn ask(&self, partitions: u32) -> Result<BTreeMap<Partition, NextOffset>, Error> {
        let doing = "asking for a group's positions";
        let mut list = TopicPartitionList::new();
        for partition in (0..partitions).map(Partition) {
            list.add_partition(&self.kafka.topic, number(partition));
        }
        let answer = self.client.committed_offsets(list, ANSWER_DEADLINE);
        let answer = answer.map_err(|error| self.kafka.client_error(&error, doing))?;
        let mut positions = BTreeMap::new();
        for element in answer.elements() {
            element.error().map_err(|error| self.kafka.client_error(&error, doing))?;
            let next = match element.offset() {
                RawOffset::Offset(offset) => u64::try_from(offset).map(NextOffset::new).unwrap_or_default(),
                _ => NextOffset::ZERO,
            };
            positions.insert(Partition(element.partition().unsigned_abs()), next);
        }
        Ok(positions)
    }
}
