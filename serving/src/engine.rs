//! Answering: the speed layer's snapshot first, then history below the snapshot's mark, merged.
//!
//! The order matters. Closed epochs do not change, so history's part can be read at any time after the snapshot, and
//! answers are cached under the mark, and under the revision, which rises when damage below the mark is found or repaired: no
//! expiry and no staleness.

use crate::admission::{Admission, ROW_BYTES};
use crate::answer::{Answer, Source, arrange};
use crate::kept::Kept;
use crate::ledger::Ledger;
use crate::live::{Live, LiveError};
use crate::measure::Measure;
use crate::metrics::Meters;
use crate::plan::{At, Plan};
use moka::future::Cache;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tidemark_batch_layer::Batch;
use tidemark_core::cell::Cell;
use tidemark_core::cut::Cut;
use tidemark_core::epoch::Mark;
use tidemark_core::generation::Rules;
use tidemark_core::offset::Partition;
use tidemark_core::question::{Groups, RowKey, Rows};
use tidemark_core::view::ViewId;
use tidemark_core::watermark::{Shown, watermark};
use tidemark_history::raw::RawAnswer;
use tidemark_history::{History, Marks};
use tidemark_https::admission::{Taken, Turn};
use tidemark_speed_layer::Speed;
use tidemark_speed_layer::run::PartitionStatus;
use tidemark_topic::PartitionCount;
use tokio::sync::watch;
use tracing::{Instrument as _, trace_span};

/// Cells that the cache may hold, over all cached answers: about 300 bytes each.
const CACHED_CELLS: u64 = 100_000;

/// An answer that nobody has asked for so long goes: most are of former marks.
const CACHED_FOR: Duration = Duration::from_secs(300);

/// Rows that one answer may have: beyond it a client has asked for something else than it wants.
const MAX_ROWS: usize = 1_000_000;

/// Live groups of a top list that history is asked for by name.
const MAX_LIVE_GROUPS: usize = 100;

/// What is expected of late events where nothing else is said.
const LATENESS: Duration = Duration::from_secs(300);

/// Before it is looked again whether a position can be answered, where nothing tells: a repair is over, Redis is back.
const LOOK: Duration = Duration::from_millis(250);

/// Within this, a process hears of the log's end.
const HEARD_WITHIN: Duration = Duration::from_secs(2);

/// What history has been asked: a question, the groups needed, the marks, and its revision.
type Asked = (String, Groups, Vec<u64>);

/// Answers queries. One for the process.
#[derive(Debug)]
pub struct Engine {
    pub rules: Arc<Rules>,
    pub topic: String,
    pub partitions: PartitionCount,
    pub live: Live,
    /// H.
    pub reached: watch::Receiver<Cut>,
    pub history: Arc<dyn History>,
    /// The layers that run in this process.
    pub layers: Layers,
    pub kept: Kept,
    pub admission: Arc<Admission>,
    /// How long after a window's end, in event time, late events are expected.
    pub lateness: Duration,
    pub meters: Meters,
    /// What status says of it.
    pub(crate) ledger: Ledger,
    cache: Cache<Asked, Arc<Rows>>,
}

/// The layers of this process, for those who steer them.
#[derive(Clone, Debug, Default)]
pub struct Layers {
    pub speed: Option<Arc<Speed>>,
    pub batch: Option<Batch>,
}

/// Why there is no answer. Never a partial one.
#[derive(Clone, Debug, thiserror::Error)]
pub enum AnswerError {
    #[error("{0}")]
    Starting(String),
    #[error("history cannot be asked: {0}")]
    History(String),
    #[error("the server has more questions than it can answer now")]
    Busy,
    #[error("{0}")]
    Damaged(String),
    #[error("the position {wanted} has not been reached in time; counted so far: {reached}")]
    TimedOut { wanted: Cut, reached: Cut },
    #[error("the position or cut names partition {0}, which the topic does not have")]
    NoSuchPartition(u32),
    #[error("partition {partition} ends at offset {end}, below the cut's {at}")]
    BeyondTheEnd { partition: u32, at: u64, end: u64 },
    #[error("the answer would have {0} rows, more than {MAX_ROWS}; ask for a shorter range, a longer step or fewer dimensions")]
    TooManyRows(usize),
    #[error("the answer would be too large; ask for a shorter range, a longer step or fewer dimensions")]
    TooLarge,
    #[error("the question would read more than {0} rows of history; ask for a shorter range, or declare a view with its dimensions")]
    TooDear(u64),
    #[error("the number comes from too many epochs to show them; explain a shorter range")]
    TooManyEpochs,
    #[error("the number is {number}, and its raw events are {events}: one of them is wrong. `tidemark recount` says which, by the topic")]
    DoesNotAddUp { number: u64, events: u64 },
    #[error("{0}")]
    Buckets(String),
}

impl From<tidemark_history::Error> for AnswerError {
    fn from(error: tidemark_history::Error) -> Self {
        match error {
            tidemark_history::Error::TooLarge => Self::TooLarge,
            tidemark_history::Error::TooDear { rows } => Self::TooDear(rows),
            tidemark_history::Error::Busy => Self::Busy,
            damaged @ tidemark_history::Error::Damaged { .. } => Self::Damaged(damaged.to_string()),
            other => Self::History(other.to_string()),
        }
    }
}

impl Engine {
    pub fn new(
        rules: Arc<Rules>,
        topic: String,
        partitions: PartitionCount,
        live: Live,
        reached: watch::Receiver<Cut>,
        history: Arc<dyn History>,
        layers: Layers,
    ) -> Self {
        let weight = |_: &Asked, rows: &Arc<Rows>| u32::try_from(rows.len() + 1).unwrap_or(u32::MAX);
        let cache = Cache::builder().max_capacity(CACHED_CELLS).weigher(weight).time_to_idle(CACHED_FOR).build();
        let (kept, meters, ledger) = (Kept::default(), Meters::default(), Ledger::default());
        let admission = Arc::default();
        Self { rules, topic, partitions, live, reached, history, layers, kept, admission, lateness: LATENESS, meters, ledger, cache }
    }

    /// Shares turns and memory with the other engines of the process.
    #[must_use]
    pub fn admitted_by(self, admission: Arc<Admission>) -> Self {
        Self { admission, ..self }
    }

    #[must_use]
    pub fn with_lateness(self, lateness: Duration) -> Self {
        Self { lateness, ..self }
    }

    /// True while a new answer from both layers would be exact at the same cut, of the same partitions.
    pub fn is_still_at(&self, cut: &Cut, mark: &Cut, end: &Cut) -> bool {
        cut.iter().len() == self.partitions.get() as usize && self.live.is_still_at(cut, mark, end)
    }

    /// How far event time has come.
    pub fn watermark_ms(&self, now_ms: i64) -> Option<i64> {
        let shown = |at: PartitionStatus| {
            let lag = at.end.since(at.waterline.position);
            Shown { event_ms: at.event_ms, counted_ms: at.counted_ms, lag }
        };
        watermark(self.live.status().into_values().map(shown), now_ms)
    }

    /// Answers, if need be once the position that the plan wants has been reached, by whichever way comes to it first.
    pub async fn answer(&self, plan: &Plan) -> Result<Answer, AnswerError> {
        let until = Instant::now() + plan.timeout;
        loop {
            let answer = match plan.view {
                _ if let Some(at) = &plan.at => self.answer_at(at, plan, until).await,
                Some(view) => self.answer_by_view(view, plan, until).await,
                None => self.answer_by_history(None, plan, until).await,
            };
            if !matches!(answer, Err(AnswerError::TimedOut { .. })) || Instant::now() + LOOK >= until {
                return answer;
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    async fn answer_by_view(&self, view: ViewId, plan: &Plan, until: Instant) -> Result<Answer, AnswerError> {
        if let Live::InRedis(snapshots) = &self.live
            && snapshots.trouble().is_some()
        {
            return self.answer_by_history(Some(view), plan, until.min(Instant::now() + LOOK)).await;
        }
        if let Some(wanted) = &plan.at_least {
            self.wait_for(wanted, until, self.live.changes(), || self.live.positions()).await?;
        }
        let snapshot = match self.live.snapshot(view, &plan.question, self.partitions.get(), &self.admission).await {
            Ok(snapshot) => snapshot,
            Err(LiveError::Elsewhere(why)) => {
                tracing::debug!("answered from history alone: {why}");
                return self.answer_by_history(Some(view), plan, until.min(Instant::now() + LOOK)).await;
            }
            Err(LiveError::Buckets(error)) => return Err(AnswerError::Buckets(error.to_string())),
            Err(LiveError::Busy) => return Err(AnswerError::Busy),
            Err(error @ LiveError::Starting) => return Err(AnswerError::Starting(error.to_string())),
        };
        let revision = self.history.revision();
        let marks: Marks = snapshot.waterlines.iter().map(|(&p, line)| (p, line.mark)).collect();
        let (history, source) = self.history(view, plan, needed_groups(plan, &snapshot.rows), &marks, revision).await?;
        let (rows, memory) = self.arranged(plan, snapshot.rows, history).await?;
        Ok(Answer {
            rows,
            memory: Some(memory),
            cut: snapshot.waterlines.iter().map(|(&p, line)| (p, line.position)).collect(),
            mark: self.mark_of(&marks),
            end: snapshot.ends,
            generation: self.rules.generation,
            revision,
            revised: Vec::new(),
            source,
        })
    }

    fn mark_of(&self, marks: &Marks) -> Cut {
        let at = |partition| marks.get(&partition).copied().unwrap_or(Mark::START).position(self.rules.epoch_bits);
        (0..self.partitions.get()).map(Partition).map(|partition| (partition, at(partition))).collect()
    }

    /// History's part, from the cache unless the mark has moved, or history below it has changed. Equal questions that come at once
    /// are asked once.
    async fn history(
        &self,
        view: ViewId,
        plan: &Plan,
        groups: Groups,
        marks: &Marks,
        revision: u64,
    ) -> Result<(Arc<Rows>, Source), AnswerError> {
        let key = (plan.identity.clone(), groups.clone(), marks.values().map(|mark| mark.oldest_open().0).chain([revision]).collect());
        let asked = AtomicBool::new(false);
        let ask = async {
            asked.store(true, Ordering::Relaxed);
            let _turn = self.admission.history.enter().await?;
            let asking = trace_span!("closed part", otel.kind = "client", db.system.name = "clickhouse");
            let rows = self.history.answer(view, &plan.question, &groups, marks).instrument(asking).await;
            rows.map(Arc::new).map_err(AnswerError::from)
        };
        let rows = self.cache.try_get_with(key, ask).await.map_err(|error: Arc<AnswerError>| (*error).clone())?;
        Ok((rows, if asked.into_inner() { Source::History } else { Source::Cache }))
    }

    /// A question that no view covers, or whose live part cannot be had: from history alone at the cut H, a few seconds
    /// older and as exact.
    async fn answer_by_history(&self, view: Option<ViewId>, plan: &Plan, until: Instant) -> Result<Answer, AnswerError> {
        let reached = || self.reached.borrow().clone();
        if let Some(wanted) = &plan.at_least {
            self.wait_for(wanted, until, self.reached.clone(), reached).await?;
        }
        let reached = reached();
        if reached.iter().len() < self.partitions.get() as usize {
            return Err(AnswerError::Starting("how far history is, is not known of every partition yet".into()));
        }
        let revision = self.history.revision();
        let turn = self.turn(view).await?;
        let asking = trace_span!("history alone", otel.kind = "client", db.system.name = "clickhouse");
        let answer = tidemark_history::raw::answer(&*self.history, &self.rules, view, &plan.question, &reached).instrument(asking).await;
        let RawAnswer { rows, cut, marks } = answer?;
        drop(turn);
        // An epoch that is being repaired is left out, with all above it.
        if let Some(wanted) = plan.at_least.as_ref().filter(|wanted| !cut.reaches(wanted)) {
            return Err(AnswerError::TimedOut { wanted: wanted.clone(), reached: cut });
        }
        let mut end = self.live.ends();
        cut.iter().for_each(|(partition, position)| end.raise(partition, position));
        let (rows, memory) = self.arranged(plan, Rows::new(), Arc::new(rows)).await?;
        let (mark, generation, revised) = (self.mark_of(&marks), self.rules.generation, Vec::new());
        Ok(Answer { rows, memory: Some(memory), cut, mark, end, generation, revision, revised, source: Source::Raw })
    }

    /// A question at a cut that was: from history alone, once it has come so far.
    async fn answer_at(&self, At { generation, revision: since, cut }: &At, plan: &Plan, until: Instant) -> Result<Answer, AnswerError> {
        self.must_be_in_the_log(cut, until).await?;
        let reached = self.reached.borrow().clone();
        let damage = self.history.damage().await?;
        let turn = self.turn(plan.view).await?;
        let asking = trace_span!("history at a cut", otel.kind = "client", db.system.name = "clickhouse");
        let needed = |open: &Rows| needed_groups(plan, open);
        let answer = tidemark_history::raw::answer_at(&*self.history, &self.rules, plan.view, &plan.question, needed, &reached, cut);
        let answer = answer.instrument(asking).await?;
        let Some(rows) = answer else { return Err(AnswerError::TimedOut { wanted: cut.clone(), reached }) };
        drop(turn);
        let (rows, memory) = self.arranged(plan, Rows::new(), Arc::new(rows)).await?;
        let (mark, end) = Default::default();
        let revised = if generation.is_some() { damage.since(*since).to_vec() } else { Vec::new() };
        let (cut, generation, revision) = (cut.clone(), self.rules.generation, damage.revision());
        Ok(Answer { rows, memory: Some(memory), cut, mark, end, generation, revision, revised, source: Source::Pinned })
    }

    /// For a question to history: to its roll-ups, or to raw events alone.
    async fn turn(&self, view: Option<ViewId>) -> Result<Turn<'_>, AnswerError> {
        let gate = if view.is_some() { &self.admission.history } else { &self.admission.raw };
        Ok(gate.enter().await?)
    }

    /// Merges what both layers have said, and takes memory for it.
    async fn arranged(&self, plan: &Plan, speed: Rows, history: Arc<Rows>) -> Result<(Vec<(RowKey, Cell)>, Taken), AnswerError> {
        let many = speed.len() + history.len();
        let mut memory = self.admission.memory_for(many).await?;
        let plan = plan.clone();
        let rows = self.admission.work(many, move || arrange(&plan, &speed, &history)).await?;
        if rows.len() > MAX_ROWS {
            return Err(AnswerError::TooManyRows(rows.len()));
        }
        memory.shrink_to(rows.len() * ROW_BYTES);
        Ok((rows, memory))
    }

    /// Refuses a cut that no answer can have had. What was heard of the log's end is waited for, as it may be old; while the live part
    /// is in trouble it is old, and nothing can be said.
    async fn must_be_in_the_log(&self, cut: &Cut, until: Instant) -> Result<(), AnswerError> {
        self.must_have_partitions(cut, until).await?;
        let until = until.min(Instant::now() + HEARD_WITHIN);
        loop {
            let ends = self.live.ends();
            // Of a partition whose end is not known, nothing can be said; to wait for history does no harm.
            let beyond =
                cut.iter().find(|&(p, at)| ends.iter().any(|(known, end)| known == p && end < at) && self.reached.borrow().get(p) < at);
            let Some((partition, at)) = beyond else { return Ok(()) };
            if Instant::now() + LOOK >= until {
                if self.live.trouble().is_some() {
                    return Ok(());
                }
                return Err(AnswerError::BeyondTheEnd { partition: partition.0, at: at.get(), end: ends.get(partition).get() });
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Refuses a cut of a partition that the topic does not have. A new partition is waited for: this process finds it
    /// a little later than the process that wrote to it.
    async fn must_have_partitions(&self, cut: &Cut, until: Instant) -> Result<(), AnswerError> {
        let until = until.min(Instant::now() + HEARD_WITHIN);
        while let Some((beyond, _)) = cut.iter().find(|(p, _)| p.0 >= self.partitions.get()) {
            if Instant::now() + LOOK >= until {
                return Err(AnswerError::NoSuchPartition(beyond.0));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Waits until a position has been reached: read your own writes.
    async fn wait_for<T>(
        &self,
        wanted: &Cut,
        until: Instant,
        mut changes: watch::Receiver<T>,
        at: impl Fn() -> Cut,
    ) -> Result<(), AnswerError> {
        self.must_have_partitions(wanted, until).await?;
        let reached = async {
            loop {
                changes.mark_unchanged();
                if at().reaches(wanted) {
                    return;
                }
                if changes.changed().await.is_err() {
                    std::future::pending::<()>().await;
                }
            }
        };
        let waited = tokio::time::timeout_at(until.into(), reached).await;
        waited.map_err(|_| AnswerError::TimedOut { wanted: wanted.clone(), reached: at() })
    }
}

/// For a top list, history need not tell of all groups. Where many groups are live, though, they would be other ones
/// with every answer; then all are asked for, once for each mark.
fn needed_groups(plan: &Plan, live: &Rows) -> Groups {
    match plan.top {
        Some((n, Measure::Count)) => Groups::for_the_largest(n, live, MAX_LIVE_GROUPS),
        _ => Groups::All,
    }
}
