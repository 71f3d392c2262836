//! How much is answered at a time: each kind of question has turns of its own, so that cheap ones do not wait behind dear ones, and
//! all answers under way have a bound of memory.
//!
//! A request that gets no turn in time is refused with a 503. Answers that are sent again as they are need none, and neither do
//! the health endpoints. Requests are served by a runtime of their own, whose work is short; answers are made by the runtime of the
//! layers ([`Elsewhere`]), so that however much that has to do, a request is read, and refused if need be.

use crate::engine::AnswerError;
use axum::body::{Body, Bytes};
use http_body_util::{BodyExt as _, Full};
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tidemark_https::admission::{Busy, Elsewhere, Gate, Memory, Queue, Taken};
use tidemark_metrics::{Collector, DescriptorEncoder, Page};

/// Answers whose open epochs are asked of Redis at a time.
const REDIS: usize = 32;

/// Answers of more rows are merged and written on threads of their own.
const MANY_ROWS: usize = 10_000;

/// Live queries that are answered at a time.
const LIVE: usize = 4;

/// How many wait for each kind of turn, and how long.
const QUEUE: Queue = Queue { length: 256, patience: Duration::from_secs(5) };

/// How long an answer waits for memory.
pub const MEMORY_PATIENCE: Duration = Duration::from_secs(2);

/// What a row takes in memory, about, as it comes from a layer and as it is in an answer.
pub(crate) const ROW_BYTES: usize = 300;

/// Smaller bodies are not counted while they are sent.
const SMALL_BODY: usize = 64 << 10;

/// For all engines of a process.
#[derive(Debug)]
pub struct Admission {
    /// Reading open epochs in memory, which takes the runtime's threads: more than they can do would make all else wait behind it.
    pub(crate) short: Gate,
    /// Long work on threads of its own.
    pub(crate) long: Gate,
    /// Open epochs in Redis.
    pub(crate) redis: Gate,
    /// Questions to history's roll-ups.
    pub(crate) history: Gate,
    /// Questions to raw events, which read much.
    pub(crate) raw: Gate,
    /// New answers for those who listen. They wait as long as it takes: they are not asked for.
    pub(crate) live: Gate,
    pub(crate) memory: Memory,
    /// Where answers are made.
    pub(crate) elsewhere: Elsewhere,
}

impl Admission {
    /// So many questions to history at a time (0: by the machine's cores), a quarter of them to raw events, and so much memory.
    /// Answers are made by the runtime that this is called in.
    pub fn new(questions: usize, memory_bytes: usize) -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let questions = if questions == 0 { (2 * cores).max(4) } else { questions };
        let raw = (questions / 4).max(1);
        Self {
            short: Gate::new(2 * cores, QUEUE),
            long: Gate::new(cores, QUEUE),
            redis: Gate::new(REDIS, QUEUE),
            history: Gate::new(questions.saturating_sub(raw), QUEUE),
            raw: Gate::new(raw, QUEUE),
            live: Gate::new(LIVE, Queue::UNBOUNDED),
            memory: Memory::new(memory_bytes, MEMORY_PATIENCE),
            elsewhere: Elsewhere::here(),
        }
    }

    /// Does work on so many rows, on a thread of its own if they are many.
    pub(crate) async fn work<T: Send + 'static>(&self, rows: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Busy> {
        if rows > MANY_ROWS { self.long.apart(work).await } else { Ok(work()) }
    }

    /// Memory for an answer that is merged of so many rows.
    pub(crate) async fn memory_for(&self, rows: usize) -> Result<Taken, AnswerError> {
        let bytes = rows * 2 * ROW_BYTES;
        if bytes > self.memory.limit() {
            return Err(AnswerError::TooLarge);
        }
        Ok(self.memory.take(bytes).await?)
    }

    /// A body that takes memory until it has been sent.
    pub(crate) fn body(&self, bytes: Bytes) -> Result<Body, AnswerError> {
        if bytes.len() <= SMALL_BODY {
            return Ok(Body::from(bytes));
        }
        let taken = self.memory.take_now(bytes.len())?;
        Ok(Body::new(Full::new(bytes).map_frame(move |frame| {
            let _until_sent = &taken;
            frame
        })))
    }

    fn gates(&self) -> [(&'static str, &Gate); 6] {
        let Self { short, long, redis, history, raw, live, .. } = self;
        [("short", short), ("long", long), ("redis", redis), ("history", history), ("raw", raw), ("live", live)]
    }
}

impl Default for Admission {
    fn default() -> Self {
        Self::new(0, 1 << 30)
    }
}

impl From<Busy> for AnswerError {
    fn from(_: Busy) -> Self {
        Self::Busy
    }
}

/// What it tells Prometheus.
#[derive(Debug)]
pub struct Admitted(pub Arc<Admission>);

impl Collector for Admitted {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (mut page, Self(admission)) = (Page(encoder), self);
        let gates = || admission.gates().into_iter();
        let help = "Work on answers that is going on: short and long work, questions to Redis, to roll-ups (history) and to raw events, live queries";
        page.gauges(("tidemark_answering", help), "class", gates().map(|(class, gate)| (class, gate.taken() as u64)))?;
        let help = "How much of it goes on at a time";
        page.gauges(("tidemark_answering_limit", help), "class", gates().map(|(class, gate)| (class, gate.limit() as u64)))?;
        let help = "Work on answers that waits for its turn";
        page.gauges(("tidemark_answering_waiting", help), "class", gates().map(|(class, gate)| (class, gate.waiting() as u64)))?;
        let help = "Answers that were refused with a 503 because their turn did not come in time";
        page.counters(("tidemark_answers_refused", help), "class", gates().map(|(class, gate)| (class, gate.refused())))?;
        page.gauge(("tidemark_answers_memory_used_bytes", "Memory that answers under way take"), admission.memory.used() as u64)?;
        page.gauge(("tidemark_answers_memory_limit_bytes", "Memory that they may take"), admission.memory.limit() as u64)
    }
}
