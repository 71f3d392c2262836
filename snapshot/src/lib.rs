//! Snapshots of the speed layer in Redis: what a partition's owner has counted, for serving nodes that ask and for the
//! owner that comes after. The only crate that names `redis`.
//!
//! Of a partition Redis holds, in keys of one hash tag (`{group/g1/topic/3}`), so that one script sees them together:
//!
//! | key | holds |
//! | --- | --- |
//! | *tag* | a hash: `owner`, the name of whoever may write; `name`, the cells that are valid; `head`, a [`Head`]; `first` and `last`, the open epochs; `number:`*name*, the last write of these cells |
//! | *tag*`:`*name*`:`*epoch*`:`*view* | a sorted set: the windows that have cells |
//! | *tag*`:`*name*`:`*epoch*`:`*view*`:`*window* | a hash from dimension values to cell |
//! | *tag*`:epochs` | a set: the names and epochs that may have keys, for cleaning up |
//!
//! What makes an answer from here exact:
//!
//! - **A write is one script.** Changed cells and the head that says at which cut they are right appear together.
//! - **Fenced.** Whoever takes a partition over writes a name of its own into `owner`; no write of another one counts.
//! - **Numbered.** Each write says which one it follows. After a failover that has lost writes, or a flush, the next does
//!   not fit, and the owner writes everything again, under a new name, in pieces; the head points to it when all is there.
//!   A write whose answer was lost is sent again as it was: it is done once.
//! - **Summed.** The cells of each view add up to the epoch's events and fold; a new owner that finds otherwise reads the log.

mod cells;
mod connection;
mod examine;
mod head;
mod store;

pub use cells::WindowCells;
pub use connection::{Kind, Server, Tls};
pub use examine::{Examined, examine};
pub use head::{Head, OpenEpoch};
pub use store::{Claim, Found, Store, Write, Written};

/// What can go wrong at Redis.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Error {
    /// It cannot be reached, or did not answer in time, or not as a Redis that is well: what was asked may have been done.
    #[error("redis at {at} does not answer: {reason}")]
    Unavailable { at: String, reason: String },
    /// A setting that will not do, here or there; asking again will not help.
    #[error("redis at {at} cannot be used: {reason}")]
    Refused { at: String, reason: String },
    /// What is in Redis is no snapshot of this deployment's.
    #[error("what redis holds of partition {partition} cannot be read: {reason}")]
    Malformed { partition: tidemark_core::offset::Partition, reason: String },
}

/// For `tests/fuzz`.
#[cfg(fuzzing)]
pub mod fuzzing {
    use crate::{Head, cells};

    pub fn read(bytes: &[u8]) {
        if let Ok(head) = Head::from_json(bytes) {
            let _ = head.open();
            assert_eq!(Head::from_json(head.to_json().as_bytes()), Ok(head));
        }
        for width in 1..4 {
            let _ = cells::values(bytes, width);
        }
        let _ = cells::cell(bytes);
    }
}
