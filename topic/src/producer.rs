//! Writing to the log: records go in batches, and each is answered for by itself.

use crate::Throttled;
use std::future::Future;
use tidemark_core::offset::{Offset, Partition};

/// A record to be written. Its Kafka timestamp is the time of sending, because retention goes by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Outgoing<'a> {
    /// Records of one key keep their order: they go to the same partition. Without a key any partition may be chosen.
    pub key: Option<&'a [u8]>,
    /// `None` is a record without a value (a tombstone).
    pub payload: Option<&'a [u8]>,
    /// Goes to this partition, whatever the key.
    pub partition: Option<Partition>,
    /// Whose work this is, for traces: a header of this name (W3C Trace Context).
    pub traceparent: Option<&'a str>,
}

/// Where a record was written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Position {
    pub partition: Partition,
    pub offset: Offset,
}

/// Why a record is not known to be in the log.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum SendError {
    /// Certainly not written, because of what it is or who sends it: repeating will not help.
    #[error("kafka refused the record: {reason}")]
    Refused { reason: String },
    /// Certainly not written; it may be sent again.
    #[error("kafka cannot take the record now: {reason}")]
    Unavailable { reason: String },
    /// Written or not: no acknowledgement came. Sending it again may write it twice.
    #[error("the record may or may not be in kafka: {reason}")]
    Unknown { reason: String },
}

/// Writes to the log.
pub trait Producer {
    /// Writes a batch and waits until each record is acknowledged by all in-sync replicas or has failed; answers in
    /// the order of `records`. Waits while the buffer is full. If the future is dropped, what was handed over so far is
    /// written all the same.
    fn send_batch(&self, records: &[Outgoing<'_>]) -> impl Future<Output = Vec<Result<Position, SendError>>> + Send;

    /// How long brokers make it wait.
    fn throttled(&self) -> Throttled {
        Throttled::default()
    }
}
