//! Answering: the speed layer's snapshot first, then history below the snapshot's mark, merged.
//!
//! The order matters. Closed epochs never change, so history's part can be read at any time after the snapshot, and
//! answers are cached under the mark: no expiry and no staleness.

use crate::answer::{Answer, arrange};
use crate::plan::Plan;
use moka::future::Cache;
use std::sync::Arc;
use tidemark_batch_layer::Batch;
use tidemark_core::cut::Cut;
use tidemark_core::generation::Rules;
use tidemark_core::question::{Rows, merge_rows};
use tidemark_history::{History, Marks};
use tidemark_speed_layer::Speed;

/// Cells that the cache may hold, over all cached answers: about 200 bytes each.
const CACHED_CELLS: u64 = 250_000;

/// Rows that one answer may have: beyond it a client has asked for something else than it wants.
const MAX_ROWS: usize = 1_000_000;

/// Answers queries. One for the process.
#[derive(Debug)]
pub struct Engine<H> {
    pub rules: Arc<Rules>,
    pub topic: String,
    pub partitions: u32,
    pub speed: Arc<Speed>,
    pub batch: Batch,
    pub history: Arc<H>,
    cache: Cache<(String, Vec<u64>), Arc<Rows>>,
}

/// Why there is no answer. Never a partial one.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AnswerError {
    #[error("the speed layer has not caught up with its own start yet; it reads the log from the mark")]
    Starting,
    #[error("history cannot be asked: {0}")]
    History(String),
    #[error("the position {wanted} has not been reached in time; counted so far: {reached}")]
    TimedOut { wanted: Cut, reached: Cut },
    #[error("the position names partition {0}, which the topic does not have")]
    NoSuchPartition(u32),
    #[error("the answer would have {0} rows, more than {MAX_ROWS}; ask for a shorter range, a longer step or fewer dimensions")]
    TooManyRows(usize),
    #[error("{0}")]
    Buckets(String),
}

impl<H: History> Engine<H> {
    pub fn new(rules: Arc<Rules>, topic: String, partitions: u32, speed: Arc<Speed>, batch: Batch, history: Arc<H>) -> Self {
        let weight = |_: &(String, Vec<u64>), rows: &Arc<Rows>| u32::try_from(rows.len() + 1).unwrap_or(u32::MAX);
        let cache = Cache::builder().max_capacity(CACHED_CELLS).weigher(weight).build();
        Self { rules, topic, partitions, speed, batch, history, cache }
    }

    pub async fn answer(&self, plan: &Plan) -> Result<Answer, AnswerError> {
        if let Some(wanted) = &plan.at_least {
            self.wait_for(wanted, plan.timeout).await?;
        }
        let snapshot = self.speed.snapshot(&plan.question, self.partitions).map_err(|e| AnswerError::Buckets(e.to_string()))?;
        let snapshot = snapshot.ok_or(AnswerError::Starting)?;
        let marks: Marks = snapshot.waterlines.iter().map(|(&p, line)| (p, line.mark)).collect();
        let mut rows = snapshot.rows;
        merge_rows(&mut rows, (*self.history(plan, &marks).await?).clone());
        if rows.len() > MAX_ROWS {
            return Err(AnswerError::TooManyRows(rows.len()));
        }
        Ok(Answer {
            rows: arrange(plan, rows),
            cut: snapshot.waterlines.iter().map(|(&p, line)| (p, line.position)).collect(),
            mark: snapshot.waterlines.iter().map(|(&p, line)| (p, line.mark.position(self.rules.epoch_bits))).collect(),
            end: snapshot.ends,
            generation: self.rules.generation,
        })
    }

    /// History's part, from the cache unless the mark has moved. Equal questions that come at once are asked once.
    async fn history(&self, plan: &Plan, marks: &Marks) -> Result<Arc<Rows>, AnswerError> {
        let key = (plan.identity.clone(), marks.values().map(|mark| mark.oldest_open().0).collect());
        let ask = async {
            let rows = self.history.answer(&plan.question, marks).await;
            rows.map(Arc::new).map_err(|error| AnswerError::History(error.to_string()))
        };
        self.cache.try_get_with(key, ask).await.map_err(|error: Arc<AnswerError>| (*error).clone())
    }

    /// Waits until S has reached a position: read your own writes.
    async fn wait_for(&self, wanted: &Cut, timeout: std::time::Duration) -> Result<(), AnswerError> {
        if let Some((beyond, _)) = wanted.iter().find(|(p, _)| p.0 >= self.partitions) {
            return Err(AnswerError::NoSuchPartition(beyond.0));
        }
        let mut changes = self.speed.changes();
        let reached = async {
            loop {
                let _ = changes.borrow_and_update();
                if self.speed.positions().reaches(wanted) {
                    return;
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let waited = tokio::time::timeout(timeout, reached).await;
        waited.map_err(|_| AnswerError::TimedOut { wanted: wanted.clone(), reached: self.speed.positions() })
    }
}
