//! A librdkafka consumer with its queues, and what it calls back.

use crate::kafka::native::{self, ControlQueue, DataQueue};
use crate::kafka::{Journal, Kafka};
use crate::waker::Parking;
use crate::{Error, Partition};
use parking_lot::Mutex;
use rdkafka::client::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext, RDKafkaLogLevel};
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// A client and its queues, which come first: they must be gone before the client is.
pub(super) struct Connected {
    pub(super) data: DataQueue,
    pub(super) control: ControlQueue,
    pub(super) base: BaseConsumer<Context>,
}

impl Connected {
    /// A new client; a member subscribes to the topic.
    pub(super) fn new(
        kafka: &Kafka,
        config: &ClientConfig,
        parking: &Arc<Parking>,
        traced: bool,
        subscribe: Option<&str>,
    ) -> Result<Self, Error> {
        native::keep_freed_memory();
        let refused = |error: KafkaError| Error::Refused { reason: format!("making a consumer: {error}") };
        let mut base = BaseConsumer::from_config_and_context(config, Context { journal: Journal::of(kafka), ..Context::default() })
            .map_err(refused)?;
        base.set_nonempty_callback({
            let parking = Arc::clone(parking);
            move || parking.ready()
        });
        let data = DataQueue::new(base.client(), Arc::clone(parking), traced);
        let control = ControlQueue::of(base.client());
        if let Some(topic) = subscribe {
            base.subscribe(&[topic]).map_err(refused)?;
        }
        Ok(Self { data, control, base })
    }
}

impl Drop for Connected {
    /// Leaves the group (a static member does not: its partitions wait for its return).
    fn drop(&mut self) {
        self.base.context().closing.store(true, Ordering::Relaxed);
        // The answer to a revocation that is open; without one the client would wait for it for good.
        if let Err(error) = self.base.incremental_unassign(&TopicPartitionList::new()) {
            tracing::debug!(target: "kafka", "leaving the group: {error}");
        }
    }
}

/// A rebalance, as the group announced it.
#[derive(Debug)]
pub(super) enum Change {
    Assigned(Vec<Partition>),
    Revoked(Vec<Partition>),
    Lost(Vec<Partition>),
}

/// What the client calls back. A rebalance is only written down: the consumer answers it after the poll that brought it.
#[derive(Debug, Default)]
pub(super) struct Context {
    pub(super) journal: Journal,
    /// Guards the rebalances that came with the current poll.
    pub(super) changes: Mutex<Vec<Change>>,
    /// The consumer is going away: rebalances are answered here.
    closing: AtomicBool,
}

impl ClientContext for Context {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        self.journal.log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.journal.stats(statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        self.journal.error(error, reason);
    }
}

impl ConsumerContext for Context {
    fn rebalance(&self, base: &BaseConsumer<Self>, kind: RDKafkaRespErr, partitions: &mut TopicPartitionList) {
        if self.closing.load(Ordering::Relaxed) {
            // While closing, librdkafka takes any answer for "none at all".
            if let Err(error) = base.unassign() {
                tracing::debug!(target: "kafka", "leaving the group: {error}");
            }
            return;
        }
        let partitions = partitions.elements().iter().map(|element| Partition(element.partition().unsigned_abs())).collect();
        let change = if kind == RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS {
            Change::Assigned(partitions)
        } else if base.assignment_lost() {
            Change::Lost(partitions)
        } else {
            Change::Revoked(partitions)
        };
        self.changes.lock().push(change);
    }
}
