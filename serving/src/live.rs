//! The live part of an answer: the open epochs, from the speed layer in this process, or from its snapshots in Redis.

use crate::admission::Admission;
use crate::snapshots::Snapshots;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_core::cut::Cut;
use tidemark_core::offset::Partition;
use tidemark_core::question::Question;
use tidemark_core::view::ViewId;
use tidemark_core::window::BucketError;
use tidemark_https::admission::Busy;
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
    #[error("the server is busy")]
    Busy,
}

impl From<Busy> for LiveError {
    fn from(_: Busy) -> Self {
        Self::Busy
    }
}

impl Live {
    /// Answers from the open epochs of all partitions, in its turn.
    pub async fn snapshot(&self, view: ViewId, question: &Question, partitions: u32, admission: &Admission) -> Result<Snapshot, LiveError> {
        match self {
            Self::Here(speed) => {
                let reading = trace_span!("live part");
                let snapshot = if speed.is_long_to_answer() {
                    let (speed, question) = (Arc::clone(speed), question.clone());
                    admission.long.apart(move || reading.in_scope(|| speed.snapshot(view, &question, partitions))).await?
                } else {
                    let _turn = admission.short.enter().await?;
                    reading.in_scope(|| speed.snapshot(view, question, partitions))
                };
                snapshot?.ok_or(LiveError::Starting)
            }
            Self::InRedis(snapshots) => {
                let _turn = admission.redis.enter().await?;
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

    /// How many partitions can answer.
    pub fn ready(&self) -> usize {
        match self {
            Self::Here(speed) => speed.ready(),
            Self::InRedis(snapshots) => snapshots.positions().iter().len(),
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
