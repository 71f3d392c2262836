//! The log's twin in memory, for unit tests and the simulator: the same behaviour as Kafka as far as the system can see
//! (`tests/suite.rs` holds both to it), deterministic, and steered by the test: what is written, retained, rebalanced
//! or lost happens when the test says so, in the order of its calls.
//!
//! [`MemoryLog`] is the cluster, shared by cloning; `consumer` and `group` read from it.

mod consumer;
mod group;

pub use consumer::MemoryConsumer;
pub use group::MemberId;

use crate::waker::Parking;
use crate::{Error, Extent, Membership, NextOffset, Offset, Outgoing, Partition, Position, Producer, SendError};
use group::Group;
use parking_lot::Mutex;
use std::collections::{BTreeMap, VecDeque};
use std::hash::{BuildHasher, BuildHasherDefault, DefaultHasher};
use std::sync::{Arc, Weak};

/// A cluster with one topic. Clones share it.
#[derive(Clone, Debug)]
pub struct MemoryLog {
    /// Guards the whole cluster; never held while a consumer delivers.
    cluster: Arc<Mutex<Cluster>>,
}

#[derive(Debug)]
struct Cluster {
    topic: String,
    partitions: Vec<PartitionLog>,
    groups: BTreeMap<String, Group>,
    /// To be signalled when anything changes.
    waiting: Vec<Weak<Parking>>,
    /// The brokers answer.
    reachable: bool,
    /// What becomes of the commits to come.
    commit_faults: VecDeque<CommitFault>,
}

/// A commit whose answer does not arrive: the committer sees `Unavailable`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CommitFault {
    /// The broker has committed, the answer is lost.
    AnswerLost,
    /// The request is lost.
    RequestLost,
}

/// One offset: a record, or a hole such as a transaction's marker.
#[derive(Clone, Debug)]
enum Entry {
    Record { timestamp_ms: i64, payload: Option<Arc<[u8]>> },
    Hole,
}

#[derive(Debug, Default)]
struct PartitionLog {
    start: u64,
    entries: VecDeque<Entry>,
}

impl PartitionLog {
    fn end(&self) -> u64 {
        self.start + self.entries.len() as u64
    }

    fn extent(&self) -> Extent {
        Extent { start: NextOffset::new(self.start), end: NextOffset::new(self.end()) }
    }

    /// The entry at an offset that is retained.
    fn get(&self, offset: u64) -> Option<&Entry> {
        self.entries.get(usize::try_from(offset.checked_sub(self.start)?).ok()?)
    }
}

impl MemoryLog {
    pub fn new(topic: impl Into<String>, partitions: u32) -> Self {
        let cluster = Cluster {
            topic: topic.into(),
            partitions: (0..partitions).map(|_| PartitionLog::default()).collect(),
            groups: BTreeMap::new(),
            waiting: Vec::new(),
            reachable: true,
            commit_faults: VecDeque::new(),
        };
        Self { cluster: Arc::new(Mutex::new(cluster)) }
    }

    /// A consumer; a member joins its group at once, and other members are asked to share.
    pub fn consumer(&self, membership: Membership) -> MemoryConsumer {
        MemoryConsumer::new(self.clone(), membership)
    }

    pub fn producer<C: Fn() -> i64 + Send + Sync>(&self, clock_ms: C) -> MemoryProducer<C> {
        MemoryProducer { log: self.clone(), clock_ms }
    }

    /// Does something to the cluster, then tells every consumer to look.
    fn change<T>(&self, change: impl FnOnce(&mut Cluster) -> T) -> T {
        let mut cluster = self.cluster.lock();
        let outcome = change(&mut cluster);
        cluster.waiting.retain(|parking| {
            parking.upgrade().is_some_and(|parking| {
                parking.ready();
                true
            })
        });
        outcome
    }

    /// Writes a record; `None` is a record without a value.
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn append(&self, partition: Partition, timestamp_ms: i64, payload: Option<&[u8]>) -> Offset {
        self.push(partition, Entry::Record { timestamp_ms, payload: payload.map(Arc::from) })
    }

    /// Skips an offset, as a transaction's marker does.
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn append_hole(&self, partition: Partition) -> Offset {
        self.push(partition, Entry::Hole)
    }

    fn push(&self, partition: Partition, entry: Entry) -> Offset {
        self.change(|cluster| {
            let log = cluster.partition_mut(partition).expect("a test writes to partitions that it has made");
            log.entries.push_back(entry);
            Offset::new(log.end() - 1)
        })
    }

    /// Drops what is below `start`, as retention does.
    ///
    /// # Panics
    /// If there is no such partition.
    pub fn truncate_front(&self, partition: Partition, start: NextOffset) {
        self.change(|cluster| {
            let log = cluster.partition_mut(partition).expect("a test truncates partitions that it has made");
            while log.start < start.get() && log.entries.pop_front().is_some() {
                log.start += 1;
            }
        });
    }

    /// Adds partitions to the topic.
    pub fn add_partitions(&self, more: u32) {
        self.change(|cluster| {
            cluster.partitions.extend((0..more).map(|_| PartitionLog::default()));
            let count = cluster.count();
            for group in cluster.groups.values_mut() {
                group.rebalance(count);
            }
        });
    }

    pub fn extent(&self, partition: Partition) -> Option<Extent> {
        Some(self.cluster.lock().partition(partition)?.extent())
    }

    /// Evens the partitions out among the group's members. Joining and leaving do it by themselves.
    pub fn rebalance(&self, group: &str) {
        self.change(|cluster| {
            let count = cluster.count();
            cluster.group(group).rebalance(count);
        });
    }

    /// Asks the present owner to give a partition to another member, and to nobody else until the next rebalance.
    pub fn move_partition(&self, group: &str, partition: Partition, to: MemberId) {
        self.change(|cluster| cluster.group(group).give(partition, to));
    }

    /// Ends a member's session without its knowledge: its partitions go to the others at once. It learns of it at its
    /// next poll, when it joins again, or by a commit that is fenced.
    pub fn expire(&self, group: &str, member: MemberId) {
        self.change(|cluster| {
            let count = cluster.count();
            cluster.group(group).expire(member, count);
        });
    }

    /// Who owns a partition, by the group's account.
    pub fn owner(&self, group: &str, partition: Partition) -> Option<MemberId> {
        self.cluster.lock().groups.get(group)?.owner(partition)
    }

    /// The position a group has committed.
    pub fn committed(&self, group: &str, partition: Partition) -> Option<crate::Committed> {
        self.cluster.lock().groups.get(group)?.committed.get(&partition).cloned()
    }

    /// Cuts the consumers off the brokers, or connects them again. Cut off, polls hand nothing over and calls answer
    /// `Unavailable`; appending goes on, for the test writes past the network.
    pub fn set_reachable(&self, reachable: bool) {
        self.change(|cluster| cluster.reachable = reachable);
    }

    /// Lets the next commit that would succeed go unanswered.
    pub fn fault_next_commit(&self, fault: CommitFault) {
        self.cluster.lock().commit_faults.push_back(fault);
    }
}

impl Cluster {
    fn count(&self) -> u32 {
        u32::try_from(self.partitions.len()).expect("partitions are numbered with a u32")
    }

    fn partition(&self, partition: Partition) -> Option<&PartitionLog> {
        self.partitions.get(usize::try_from(partition.0).ok()?)
    }

    fn partition_mut(&mut self, partition: Partition) -> Option<&mut PartitionLog> {
        self.partitions.get_mut(usize::try_from(partition.0).ok()?)
    }

    fn group(&mut self, group: &str) -> &mut Group {
        self.groups.entry(group.to_owned()).or_default()
    }

    fn no_such(&self) -> Error {
        Error::NoSuchTopic { topic: self.topic.clone() }
    }

    fn answer(&self) -> Result<(), Error> {
        if self.reachable {
            Ok(())
        } else {
            Err(Error::Unavailable { broker: "memory".to_owned(), reason: "cut off by the test".to_owned() })
        }
    }
}

/// Writes to a [`MemoryLog`], with the time that `clock_ms` tells as the record's timestamp.
#[derive(Clone, Debug)]
pub struct MemoryProducer<C> {
    log: MemoryLog,
    clock_ms: C,
}

impl<C: Fn() -> i64 + Send + Sync> MemoryProducer<C> {
    fn send(&self, record: &Outgoing<'_>) -> Result<Position, SendError> {
        let count = {
            let cluster = self.log.cluster.lock();
            cluster.answer().map_err(|error| SendError::Unavailable { reason: error.to_string() })?;
            cluster.count()
        };
        // Not Kafka's hash: which partition a key goes to is nobody's business, only that it is always the same.
        let hashed = || BuildHasherDefault::<DefaultHasher>::default().hash_one(record.key) % u64::from(count.max(1));
        let partition = match record.partition {
            Some(partition) => partition,
            None => Partition(u32::try_from(hashed()).expect("less than the number of partitions, a u32")),
        };
        if partition.0 >= count {
            return Err(SendError::Refused { reason: format!("there is no partition {partition}") });
        }
        let offset = self.log.append(partition, (self.clock_ms)(), record.payload);
        Ok(Position { partition, offset })
    }
}

impl<C: Fn() -> i64 + Send + Sync> Producer for MemoryProducer<C> {
    async fn send_batch(&self, records: &[Outgoing<'_>]) -> Vec<Result<Position, SendError>> {
        records.iter().map(|record| self.send(record)).collect()
    }
}
