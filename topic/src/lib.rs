//! The log: an ordered sequence of records per partition. [`kafka`] is the one door to Kafka (the only place that
//! names `rdkafka`), [`memory`] its twin for unit tests and the simulator; both pass the same suite
//! (`tests/suite.rs`).
//!
//! A consumer belongs to one thread, which both polls it and owns what it reads into. Rebalances are events like any
//! other: `Assigned` waits for the owner to call [`Consumer::start`], `Revoked` for [`Consumer::release`], so that the
//! owner finishes or abandons its work before a partition changes hands.

use std::fmt;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};
use tidemark_core::offset::{NextOffset, Offset, Partition};

/// The real clock, in milliseconds since the Unix epoch, as records' timestamps are.
pub fn now_ms() -> i64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
}

/// A record as the log holds it, borrowed from the client's fetch buffer.
#[derive(Clone, Copy, Debug)]
pub struct Record<'a> {
    pub offset: Offset,
    /// The record's own Kafka timestamp, milliseconds since the Unix epoch.
    pub timestamp_ms: i64,
    /// `None` is a record without a value (a tombstone).
    pub payload: Option<&'a [u8]>,
}

/// Everything that can come out of a poll.
#[derive(Clone, Debug)]
pub enum Happened<'a> {
    /// Records of one partition, at least one, in order: whoever reads them may look ahead.
    Records { partition: Partition, records: &'a [Record<'a>] },
    /// The record at `offset`, which is about to be handed over, says whose work it is (W3C Trace Context). Only where that
    /// is wanted.
    Traced { partition: Partition, offset: Offset, traceparent: &'a str },
    /// The partition has been read up to `next`, holes included: the log has no record between the last one delivered
    /// and `next`, and none above yet.
    End { partition: Partition, next: NextOffset },
    /// These partitions are now this consumer's. Nothing is read from them before [`Consumer::start`].
    Assigned(Vec<Partition>),
    /// These partitions go away; the group waits until [`Consumer::release`] is called for them.
    Revoked(Vec<Partition>),
    /// These partitions were lost without notice (session expired, fenced): they may already have another owner.
    Lost(Vec<Partition>),
}

/// Which partitions a consumer reads, and on whose behalf it commits.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Membership {
    /// Every partition of the topic that is in the share; partitions added later are found. Without a group there are
    /// no committed positions. With one, commits are not fenced: nobody else may use that group.
    All { group: Option<String>, share: Share },
    /// The partitions that the group gives to this member (cooperative, sticky).
    Group {
        group: String,
        /// A name that outlives the process (static membership): a restart within the session timeout keeps the
        /// partitions, and a second process of the same name fences the first.
        instance: Option<String>,
        /// How long the group keeps a silent member's partitions for it.
        session_timeout: Duration,
    },
}

impl Membership {
    /// The whole topic, and no committed positions.
    pub fn all() -> Self {
        Self::All { group: None, share: Share::default() }
    }
}

/// Which of a topic's partitions one of several consumers reads, where they divide them among themselves: every `of`-th,
/// from `number` on. The default is all.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Share {
    number: u32,
    of: NonZeroU32,
}

impl Default for Share {
    fn default() -> Self {
        Self { number: 0, of: NonZeroU32::MIN }
    }
}

impl Share {
    /// So many shares, which together are the topic.
    pub fn each(of: NonZeroU32) -> impl Iterator<Item = Self> {
        (0..of.get()).map(move |number| Self { number, of })
    }

    /// The partitions in the share, of a topic that has `count`.
    pub fn partitions(self, count: u32) -> impl Iterator<Item = Partition> {
        (self.number..count).step_by(usize::try_from(self.of.get()).unwrap_or(usize::MAX)).map(Partition)
    }
}

/// A group's committed position for one partition, with the owner's note.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Committed {
    pub next: NextOffset,
    pub metadata: String,
}

/// The log's retained extent for one partition: `[start, end)`. An open transaction is above the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Extent {
    pub start: NextOffset,
    pub end: NextOffset,
}

impl Extent {
    /// True if reading can begin at `at`.
    pub fn admits(&self, at: NextOffset) -> bool {
        self.start <= at && at <= self.end
    }
}

/// Which topic this is, whatever its name and address: a topic that was deleted and created again has another id, and so has
/// one of the same name in another cluster.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TopicIdentity {
    /// Empty if the brokers have none.
    pub cluster_id: String,
    /// Empty if the brokers have none (before Kafka 2.8).
    pub topic_id: String,
}

impl TopicIdentity {
    /// True unless both have an id and the ids differ.
    pub fn may_be(&self, other: &Self) -> bool {
        let agree = |one: &str, other: &str| one.is_empty() || other.is_empty() || one == other;
        agree(&self.cluster_id, &other.cluster_id) && agree(&self.topic_id, &other.topic_id)
    }
}

impl fmt::Display for TopicIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let known = |id: &str| if id.is_empty() { "unknown".to_owned() } else { id.to_owned() };
        write!(f, "topic id {}, cluster id {}", known(&self.topic_id), known(&self.cluster_id))
    }
}

/// The number of the topic's partitions, as the brokers last reported it. It can grow at any time. Clones share it.
#[derive(Clone, Debug)]
pub struct PartitionCount(Arc<AtomicU32>);

impl PartitionCount {
    pub fn new(count: u32) -> Self {
        Self(Arc::new(AtomicU32::new(count)))
    }

    pub fn get(&self) -> u32 {
        self.0.load(Ordering::Relaxed)
    }

    /// Takes in what the brokers say now; true if the topic has grown.
    pub fn raise(&self, count: u32) -> bool {
        self.0.fetch_max(count, Ordering::Relaxed) < count
    }
}

/// The topic of this name is not the one that history was counted from.
#[derive(Clone, Debug, thiserror::Error)]
#[error(
    "topic `{topic}` is not the one that this history was counted from: it has {found}, and history has {expected}. The topic was \
     deleted and created again, or kafka.bootstrap names another cluster. Name the cluster that has the topic, or run \
     `tidemark restore`, which compares this topic with history and says how to go on"
)]
pub struct OtherTopic {
    pub topic: String,
    pub expected: TopicIdentity,
    pub found: TopicIdentity,
}

/// What can go wrong at the log.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// The broker cannot be reached or did not answer in time; the call may be repeated.
    #[error("kafka at {broker} does not answer: {reason}")]
    Unavailable { broker: String, reason: String },
    /// This consumer is no longer the partition's owner: its generation has been replaced.
    #[error("this consumer no longer owns partition {partition}: {reason}")]
    Fenced { partition: Partition, reason: String },
    /// The position asked for is not in the log: retention has removed it, or the log was truncated or recreated.
    #[error("partition {partition}: offset {wanted} is outside the log, which holds [{}, {})", extent.start, extent.end)]
    OutOfRange { partition: Partition, wanted: NextOffset, extent: Extent },
    #[error("topic `{topic}` does not exist")]
    NoSuchTopic { topic: String },
    #[error(transparent)]
    OtherTopic(Box<OtherTopic>),
    /// The user has no right to that, and may be given it at any time.
    #[error("kafka does not let this user do that: {reason}")]
    Forbidden { reason: String },
    /// A setting or a record that the client or broker refuses; repeating will not help.
    #[error("kafka refused: {reason}")]
    Refused { reason: String },
}

/// Reads the log. Generic code takes `impl Consumer`; there is no dynamic dispatch on the path of a record.
pub trait Consumer {
    /// Waits until something has happened, a [`Waker`] has called, or `max_wait` is over, then hands over what is
    /// there (at most a batch) in order. Returns how many events were handed over. On an error what was handed over
    /// stands, nothing is skipped, and polling may go on: an error that concerns one partition
    /// (`OutOfRange`) stops that partition until it is started again.
    fn poll(&mut self, max_wait: Duration, deliver: impl FnMut(Happened<'_>)) -> Result<usize, Error>;

    /// Begins (or begins again) to read an assigned partition at `at`. Errors with `OutOfRange` if `at` lies outside
    /// the retained log (`at == end` is inside), `Fenced` if the partition is not (or no longer) this consumer's.
    fn start(&mut self, partition: Partition, at: NextOffset) -> Result<(), Error>;

    /// Stops reading these partitions and lets the group give them away. The group learns of it when the last
    /// partition of a revocation has been released; until then no further rebalance reaches this consumer.
    fn release(&mut self, partitions: &[Partition]) -> Result<(), Error>;

    /// Backpressure: stops fetching without giving the partition up; polling must go on.
    fn pause(&mut self, partitions: &[Partition]) -> Result<(), Error>;
    fn resume(&mut self, partitions: &[Partition]) -> Result<(), Error>;

    /// The group's committed position for a partition.
    fn committed(&mut self, partition: Partition) -> Result<Option<Committed>, Error>;

    /// Commits, fenced by the group's generation. On `Unavailable` the outcome is unknown.
    fn commit(&mut self, partition: Partition, committed: &Committed) -> Result<(), Error>;

    /// The log's end as of the last fetch: cheap, no round trip. `None` before the first fetch of the partition.
    fn known_end(&self, partition: Partition) -> Option<NextOffset>;

    /// Asks the broker for the partition's extent.
    fn extent(&mut self, partition: Partition) -> Result<Extent, Error>;

    /// A handle that interrupts `poll` from another thread.
    fn waker(&self) -> Waker;
}

mod control;
pub mod kafka;
pub mod memory;
mod producer;
mod throttled;
mod waker;
pub use control::Control;
pub use producer::{Outgoing, Position, Producer, SendError};
pub use throttled::Throttled;
pub use waker::Waker;
