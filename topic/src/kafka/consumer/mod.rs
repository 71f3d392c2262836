//! Reads the topic in batches, as a member of a group or alone.
//!
//! Everything lives in one [`KafkaConsumer`], by the one thread that polls it; the files say what it does with it:
//! [`client`] connects, [`rebalance`] attends to the group, [`fetch`] reads, [`commit`] commits.
//!
//! Each partition's position is kept here ([`Reading::next`]) and is the truth: a record below it is a fetch that
//! librdkafka repeats after a pause (its own or ours) and is dropped; at a doubt the partition is sought to it again.

mod client;
mod commit;
mod fetch;
mod rebalance;

use super::native::{self, Committing};
use super::{ANSWER_DEADLINE, Kafka, number};
use crate::waker::Parking;
use crate::{Committed, Consumer, Error, Extent, Happened, Membership, NextOffset, Partition, Share, Waker};
use client::Connected;
use fetch::Reading;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::Consumer as _;
use rdkafka::topic_partition_list::{Offset as RawOffset, TopicPartitionList};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ffi::CString;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The group id of a consumer without a group: librdkafka wants one before it assigns. Nothing is committed under it.
const NO_GROUP: &str = "tidemark-without-group";

/// How a consumer fetches.
#[derive(Clone, Debug)]
pub struct ConsumerOptions {
    /// Fetched bytes that wait to be polled, for all partitions together. Full, fetching stops. Little is better than
    /// much: what waits should still be in the processor's cache when it is read.
    pub queued_kbytes: u32,
    /// Compares each record batch with its checksum.
    pub check_crcs: bool,
    /// Looks at each record's headers for a `traceparent` ([`Happened::Traced`]).
    pub traced: bool,
}

impl Default for ConsumerOptions {
    fn default() -> Self {
        Self { queued_kbytes: 4 * 1024, check_crcs: true, traced: false }
    }
}

/// Reads a topic of a Kafka cluster.
pub struct KafkaConsumer {
    kafka: Kafka,
    topic: CString,
    /// What a client is made with.
    config: ClientConfig,
    traced: bool,
    group: Option<String>,
    role: Role,
    /// A commit whose answer has not come: the next one waits for it, so that two never overtake each other. It holds a
    /// queue of the client, so it comes before it.
    in_doubt: Option<Committing>,
    client: Connected,
    parking: Arc<Parking>,
    /// Partitions that the group, or the topic, has given to this consumer.
    owned: BTreeSet<Partition>,
    /// Revoked and not yet released; while there are any, the group waits.
    leaving: BTreeSet<Partition>,
    /// The group waits for an answer to a revocation.
    answer_owed: bool,
    /// Indexed by partition.
    reading: Vec<Option<Reading>>,
    paused: BTreeSet<Partition>,
    /// What librdkafka is fetching, or has fetched, and not been told to forget.
    assigned: BTreeSet<Partition>,
    /// Of `assigned`: to be forgotten as soon as no revocation is open (see `settle`).
    idle: BTreeSet<Partition>,
    /// librdkafka gave up on the position of these; to be looked into.
    doubtful: BTreeSet<Partition>,
    /// Rebalances that wait to be handed over.
    pending: VecDeque<Happened<'static>>,
    /// An error that waits to be handed over.
    failed: Option<Error>,
    /// Why this consumer can never go on.
    dead: Option<String>,
}

/// How this consumer gets its partitions.
enum Role {
    /// The group gives them. `id` is the membership under which they were given, `at` when it is next looked whether
    /// it still stands.
    Member { id: Option<String>, at: Instant },
    /// Looks for partitions itself; `at` is when it looks next.
    Alone { share: Share, at: Instant },
}

impl std::fmt::Debug for KafkaConsumer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let reading: BTreeMap<_, _> = self.reading().map(|(partition, reading)| (partition, reading.next)).collect();
        f.debug_struct("KafkaConsumer")
            .field("kafka", &self.kafka)
            .field("owned", &self.owned)
            .field("reading", &reading)
            .finish_non_exhaustive()
    }
}

impl KafkaConsumer {
    pub(super) fn new(kafka: &Kafka, membership: Membership, options: ConsumerOptions) -> Result<Self, Error> {
        let queued_kbytes = options.queued_kbytes.to_string();
        let defaults = [
            // The broker answers at the first byte, so a long wait costs no latency.
            ("fetch.min.bytes", "1"),
            ("fetch.wait.max.ms", "500"),
            ("fetch.message.max.bytes", "2097152"),
            // After the queue was full: the default of a second would starve a fast reader.
            ("fetch.queue.backoff.ms", "2"),
            ("queued.min.messages", "200000"),
            ("queued.max.messages.kbytes", queued_kbytes.as_str()),
            ("check.crcs", if options.check_crcs { "true" } else { "false" }),
            // How soon a member learns that others come and go: a hand-over takes two such rounds.
            ("heartbeat.interval.ms", "300"),
            // How soon a member learns of partitions added to the topic.
            ("topic.metadata.refresh.interval.ms", "5000"),
        ];
        let mut fixed = vec![
            ("auto.offset.reset", "error"),
            ("enable.auto.commit", "false"),
            ("enable.auto.offset.store", "false"),
            // `End` is made here: with these events on, librdkafka's batch calls take the event for a record when
            // they note the position from which a pause resumes, and skip a record (see the suite).
            ("enable.partition.eof", "false"),
            ("isolation.level", "read_committed"),
            ("fetch.error.backoff.ms", fetch::FETCH_ERROR_BACKOFF_MS),
        ];
        let session_ms;
        let (group, role) = match &membership {
            Membership::All { group, share } => {
                fixed.push(("group.id", group.as_deref().unwrap_or(NO_GROUP)));
                (group.clone(), Role::Alone { share: *share, at: Instant::now() })
            }
            Membership::Group { group, instance, session_timeout } => {
                session_ms = session_timeout.as_millis().to_string();
                fixed.push(("group.id", group));
                fixed.push(("partition.assignment.strategy", "cooperative-sticky"));
                fixed.push(("session.timeout.ms", &session_ms));
                if let Some(instance) = instance {
                    fixed.push(("group.instance.id", instance));
                }
                (Some(group.clone()), Role::Member { id: None, at: Instant::now() })
            }
        };
        let config = kafka.config(&defaults, &fixed)?;
        let topic = native::c_name(&kafka.topic)
            .ok_or_else(|| Error::Refused { reason: format!("`{}` is not the name of a topic", kafka.topic.escape_default()) })?;
        let parking = Arc::new(Parking::default());
        let client =
            Connected::new(kafka, &config, &parking, options.traced, matches!(role, Role::Member { .. }).then_some(kafka.topic.as_str()))?;
        Ok(Self {
            kafka: kafka.clone(),
            topic,
            config,
            traced: options.traced,
            group,
            role,
            in_doubt: None,
            client,
            parking,
            owned: BTreeSet::new(),
            leaving: BTreeSet::new(),
            answer_owed: false,
            reading: Vec::new(),
            paused: BTreeSet::new(),
            assigned: BTreeSet::new(),
            idle: BTreeSet::new(),
            doubtful: BTreeSet::new(),
            pending: VecDeque::new(),
            failed: None,
            dead: None,
        })
    }

    fn reading(&self) -> impl Iterator<Item = (Partition, &Reading)> {
        let numbered = (0..).map(Partition).zip(&self.reading);
        numbered.filter_map(|(partition, reading)| Some((partition, reading.as_ref()?)))
    }

    fn is_reading(&self, partition: Partition) -> bool {
        slot(&self.reading, partition).is_some()
    }

    fn stop_reading(&mut self, partition: Partition) -> Option<Reading> {
        self.doubtful.remove(&partition);
        self.reading.get_mut(index(partition))?.take()
    }

    fn list(&self, partitions: impl IntoIterator<Item = Partition>) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for partition in partitions {
            list.add_partition(&self.kafka.topic, number(partition));
        }
        list
    }

    fn list_at(&self, partition: Partition, at: NextOffset, metadata: Option<&str>) -> Result<TopicPartitionList, Error> {
        let refused = |reason: String| Error::Refused { reason };
        let offset = i64::try_from(at.get()).map_err(|_| refused(format!("{at} is not an offset of Kafka")))?;
        let mut list = TopicPartitionList::with_capacity(1);
        let mut element = list.add_partition(&self.kafka.topic, number(partition));
        element.set_offset(RawOffset::Offset(offset)).map_err(|error| refused(error.to_string()))?;
        if let Some(metadata) = metadata {
            element.set_metadata(metadata);
        }
        Ok(list)
    }
}

impl Consumer for KafkaConsumer {
    fn poll(&mut self, max_wait: Duration, mut deliver: impl FnMut(Happened<'_>)) -> Result<usize, Error> {
        let deadline = Instant::now().checked_add(max_wait);
        loop {
            let woken = self.parking.begin();
            self.attend();
            self.look_for_partitions();
            let mut handed = 0;
            while let Some(event) = self.pending.pop_front() {
                deliver(event);
                handed += 1;
            }
            handed += self.read(&mut deliver);
            self.resolve_doubts()?;
            if let Some(error) = self.failed.take() {
                return Err(error);
            }
            if let Some(reason) = &self.dead {
                return Err(Error::Refused { reason: reason.clone() });
            }
            if handed > 0 || woken {
                return Ok(handed);
            }
            let until = [deadline, self.next_look()].into_iter().flatten().min();
            if !self.parking.park(until) && deadline.is_some_and(|at| at <= Instant::now()) {
                return Ok(0);
            }
        }
    }

    fn start(&mut self, partition: Partition, at: NextOffset) -> Result<(), Error> {
        if !self.owned.contains(&partition) || self.leaving.contains(&partition) {
            return Err(Self::fenced(partition, "it is not assigned to this consumer"));
        }
        self.kafka.confirm(ANSWER_DEADLINE)?;
        let extent = self.extent(partition)?;
        if !extent.admits(at) {
            return Err(Error::OutOfRange { partition, wanted: at, extent });
        }
        self.begin(partition, at, extent)
    }

    fn release(&mut self, partitions: &[Partition]) -> Result<(), Error> {
        for &partition in partitions {
            self.stop_reading(partition);
            if self.leaving.remove(&partition) {
                self.owned.remove(&partition);
            }
            if self.assigned.contains(&partition) {
                self.idle.insert(partition);
            }
        }
        self.settle();
        Ok(())
    }

    fn pause(&mut self, partitions: &[Partition]) -> Result<(), Error> {
        let running: Vec<_> = partitions.iter().copied().filter(|&p| self.is_reading(p) && !self.paused.contains(&p)).collect();
        if !running.is_empty() {
            let doing = "pausing partitions";
            self.client.base.pause(&self.list(running.iter().copied())).map_err(|error| self.kafka.client_error(&error, doing))?;
            self.paused.extend(running);
        }
        Ok(())
    }

    fn resume(&mut self, partitions: &[Partition]) -> Result<(), Error> {
        self.unpause(&partitions.iter().copied().collect());
        Ok(())
    }

    fn committed(&mut self, partition: Partition) -> Result<Option<Committed>, Error> {
        self.committed_position(partition)
    }

    fn commit(&mut self, partition: Partition, committed: &Committed) -> Result<(), Error> {
        self.commit_position(partition, committed)
    }

    fn known_end(&self, partition: Partition) -> Option<NextOffset> {
        let at_start = slot(&self.reading, partition).map(|reading| reading.end_at_start);
        let fetched = native::fetched_end(self.client.base.client(), &self.topic, partition).map(NextOffset::new);
        fetched.max(at_start)
    }

    fn extent(&mut self, partition: Partition) -> Result<Extent, Error> {
        let extent = self.kafka.extent(partition, ANSWER_DEADLINE)?;
        self.client.base.context().journal.reached();
        Ok(extent)
    }

    fn waker(&self) -> Waker {
        Waker::new(Arc::clone(&self.parking))
    }
}

fn slot(reading: &[Option<Reading>], partition: Partition) -> Option<&Reading> {
    reading.get(index(partition))?.as_ref()
}

fn index(partition: Partition) -> usize {
    usize::try_from(partition.0).expect("a u32 is an index on every platform that Kafka clients run on")
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}
