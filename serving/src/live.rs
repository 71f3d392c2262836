//! The live part of an answer: the open epochs, from the speed layer in this process, or from its snapshots in Redis.

use crate::snapshots::Snapshots;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_core::cut::Cut;
use tidemark_core::offset::Partition;
use tidemark_core::question::Question;
use tidemark_core::view::ViewId;
use tidemark_core::window::BucketError;
use tidemark_speed_layer::run::PartitionStatus;
use tidemark_speed_layer::{Snapshot, Speed};
use tokio::sync::watch;
use tracing::{Instrument as _, trace_span};

/// Where open epochs are counted.
#[derive(Clone, Debug)]
pub enum Live {
    Here(Arc<Speed>),
    InRedis(Arc<Snapshots>),
}

/// Why there is no live part now.
#[derive(Debug, thiserror::Error)]
pub enum LiveError {
    #[error(transparent)]
    Buckets(#[from] BucketError),
    /// Some partition is not ready to answer here.
    #[error("the layers have not caught up with their own start yet; they read the log from the mark")]
    Starting,
    /// What another process has counted cannot be read: history alone can answer.
    #[error("{0}")]
    Elsewhere(String),
}

impl Live {
    /// Answers from the open epochs of all partitions.
    pub async fn snapshot(&self, view: ViewId, question: &Question, partitions: u32) -> Result<Snapshot, LiveError> {
        match self {
            Self::Here(speed) => {
                let snapshot = trace_span!("live part").in_scope(|| speed.snapshot(view, question, partitions));
                snapshot?.ok_or(LiveError::Starting)
            }
            Self::InRedis(snapshots) => {
                let reading = trace_span!("live part", otel.kind = "client", db.system.name = "redis");
                snapshots.snapshot(view, question).instrument(reading).await
            }
        }
    }

    /// True while [`Live::snapshot`] would find what an answer says of itself.
    pub fn is_still_at(&self, cut: &Cut, mark: &Cut, end: &Cut) -> bool {
        match self {
            Self::Here(speed) => speed.is_still_at(cut, mark, end),
            Self::InRedis(snapshots) => snapshots.is_still_at(cut, mark, end),
        }
    }

    /// S of each partition that can answer.
    pub fn positions(&self) -> Cut {
        match self {
            Self::Here(speed) => speed.positions(),
            Self::InRedis(snapshots) => snapshots.positions(),
        }
    }

    /// The log's end of each partition, as last heard.
    pub fn ends(&self) -> Cut {
        match self {
            Self::Here(speed) => speed.ends(),
            Self::InRedis(snapshots) => snapshots.ends(),
        }
    }

    /// Changes when [`Live::positions`] may have.
    pub fn changes(&self) -> watch::Receiver<u64> {
        match self {
            Self::Here(speed) => speed.changes(),
            Self::InRedis(snapshots) => snapshots.changes(),
        }
    }

    pub fn status(&self) -> BTreeMap<Partition, PartitionStatus> {
        match self {
            Self::Here(speed) => speed.status(),
            Self::InRedis(snapshots) => snapshots.status(),
        }
    }

    /// What holds the live part up, in words.
    pub fn trouble(&self) -> Option<String> {
        match self {
            Self::Here(speed) => speed.control.current_trouble(),
            Self::InRedis(snapshots) => snapshots.trouble(),
        }
    }
}
