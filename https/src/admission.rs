//! Admission control: how much work goes on at a time, how much waits for its turn and how long, and how much memory it takes.
//!
//! A server that takes on everything serves nobody in time. Beyond what it can do at once, a request waits in a queue of bounded
//! length for a bounded time, and is refused early, while its client can still go elsewhere or come again.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::task::JoinError;
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument as _;

/// One kind of work: so much of it at a time.
#[derive(Debug)]
pub struct Gate {
    turns: Semaphore,
    limit: usize,
    queue: Queue,
    waiting: AtomicUsize,
    refused: AtomicU64,
}

/// Before a request that finds the queue full is refused: most clients that are refused at once ask again at once, and refusing
/// costs work, too.
const REFUSAL_PAUSE: Duration = Duration::from_millis(250);

/// What waits at a gate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Queue {
    /// More are refused after a moment.
    pub length: usize,
    /// A request that has waited so long is refused.
    pub patience: Duration,
}

/// The queue is full, or the wait was too long.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Busy;

/// The right to work, until dropped.
#[derive(Debug)]
pub struct Turn<'g>(#[expect(dead_code, reason = "held, not read")] SemaphorePermit<'g>);

impl Gate {
    /// Lets `limit` in at a time, at least one.
    pub fn new(limit: usize, queue: Queue) -> Self {
        let limit = limit.max(1);
        Self { turns: Semaphore::new(limit), limit, queue, waiting: AtomicUsize::new(0), refused: AtomicU64::new(0) }
    }

    /// Waits for a turn, as long as the queue allows. Turns are given in the order of asking.
    pub async fn enter(&self) -> Result<Turn<'_>, Busy> {
        if let Ok(turn) = self.turns.try_acquire() {
            return Ok(Turn(turn));
        }
        if let Some(_waiting) = Waiting::begin(&self.waiting, self.queue.length) {
            if let Some(turn) = self.patiently().await {
                return Ok(turn);
            }
        } else {
            tokio::time::sleep(REFUSAL_PAUSE).await;
        }
        self.refused.fetch_add(1, Ordering::Relaxed);
        Err(Busy)
    }

    async fn patiently(&self) -> Option<Turn<'_>> {
        if self.queue.patience == Duration::MAX {
            return self.turns.acquire().await.ok().map(Turn);
        }
        tokio::time::timeout(self.queue.patience, self.turns.acquire()).await.ok()?.ok().map(Turn)
    }

    /// Does long work, in its turn, on a thread that may be blocked.
    pub async fn apart<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Busy> {
        let _turn = self.enter().await?;
        Ok(done(tokio::task::spawn_blocking(work).await).await)
    }

    /// Turns that are taken.
    pub fn taken(&self) -> usize {
        self.limit.saturating_sub(self.turns.available_permits())
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn waiting(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// How many have been refused.
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

impl Queue {
    /// For those who have a deadline of their own.
    pub const UNBOUNDED: Self = Self { length: usize::MAX, patience: Duration::MAX };
}

/// Counts one who waits, until dropped.
struct Waiting<'g>(&'g AtomicUsize);

impl<'g> Waiting<'g> {
    /// `None` if enough wait already.
    fn begin(count: &'g AtomicUsize, most: usize) -> Option<Self> {
        let waiting = Self(count);
        (count.fetch_add(1, Ordering::Relaxed) < most).then_some(waiting)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The runtime that does the work of a server whose connections have one of their own: what these do is short, so that however
/// much work there is, a request is read, and refused if need be.
#[derive(Clone, Debug)]
pub struct Elsewhere(Option<Handle>);

impl Elsewhere {
    /// The runtime that this is called in; without one, work is done where it is asked for.
    pub fn here() -> Self {
        Self(Handle::try_current().ok())
    }

    /// Does work there, until it is done or the caller stops waiting for it.
    pub async fn run<T: Send + 'static>(&self, work: impl Future<Output = T> + Send + 'static) -> T {
        let Some(runtime) = &self.0 else { return work.await };
        // A trace of the request goes on there.
        done(AbortOnDropHandle::new(runtime.spawn(work.in_current_span())).await).await
    }
}

/// What work came to. A panic goes on here; work that ended with its runtime never comes to anything.
async fn done<T>(outcome: Result<T, JoinError>) -> T {
    match outcome.map_err(JoinError::try_into_panic) {
        Ok(done) => done,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_cancelled)) => std::future::pending().await,
    }
}

/// In what portions memory is counted, rounded up: what a request costs besides what it holds.
const PORTION_BYTES: usize = 4096;

/// Memory for one kind of work. Clones share it.
#[derive(Clone)]
pub struct Memory {
    portions: Arc<Semaphore>,
    limit: usize,
    patience: Duration,
}

impl fmt::Debug for Memory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} bytes", self.used(), self.limit())
    }
}

/// Memory that is taken, until dropped.
#[derive(Debug)]
pub struct Taken(OwnedSemaphorePermit);

impl Memory {
    /// A request that finds no room within the patience is refused: two that each hold a part of what they need must not wait for each
    /// other without end.
    pub fn new(bytes: usize, patience: Duration) -> Self {
        let limit = portions(bytes);
        Self { portions: Arc::new(Semaphore::new(limit)), limit, patience }
    }

    /// Takes memory, at least a portion; more than there is in all is never given.
    pub async fn take(&self, bytes: usize) -> Result<Taken, Busy> {
        if let Ok(taken) = self.take_now(bytes) {
            return Ok(taken);
        }
        let taken = Arc::clone(&self.portions).acquire_many_owned(permits(bytes));
        tokio::time::timeout(self.patience, taken).await.map_err(|_elapsed| Busy)?.map(Taken).map_err(|_closed| Busy)
    }

    /// The same without waiting.
    pub fn take_now(&self, bytes: usize) -> Result<Taken, Busy> {
        Arc::clone(&self.portions).try_acquire_many_owned(permits(bytes)).map(Taken).map_err(|_full| Busy)
    }

    pub fn limit(&self) -> usize {
        self.limit * PORTION_BYTES
    }

    pub fn used(&self) -> usize {
        self.limit.saturating_sub(self.portions.available_permits()) * PORTION_BYTES
    }
}

impl Taken {
    pub fn bytes(&self) -> usize {
        self.0.num_permits() * PORTION_BYTES
    }

    pub fn merge(&mut self, more: Self) {
        self.0.merge(more.0);
    }

    /// Gives back what is beyond so many bytes.
    pub fn shrink_to(&mut self, bytes: usize) {
        drop(self.0.split(self.0.num_permits().saturating_sub(portions(bytes))));
    }
}

fn portions(bytes: usize) -> usize {
    bytes.div_ceil(PORTION_BYTES).max(1)
}

fn permits(bytes: usize) -> u32 {
    u32::try_from(portions(bytes)).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_queue_has_a_length_and_a_patience_and_lets_in_in_order() {
        let gate = Gate::new(1, Queue { length: 2, patience: Duration::from_secs(2) });
        let first = gate.enter().await.expect("a turn");
        let entered = parking_lot::Mutex::new(Vec::new());
        let next = async |name| {
            let turn = gate.enter().await;
            entered.lock().push((name, turn.is_ok()));
        };
        let crowd = async {
            tokio::join!(biased; next("second"), next("third"), next("fourth"));
        };
        let leave = async {
            tokio::time::sleep(Duration::from_secs(1)).await;
            assert_eq!((gate.taken(), gate.waiting(), gate.refused()), (1, 2, 1), "one too many does not wait");
            drop(first);
        };
        tokio::join!(biased; crowd, leave);
        assert_eq!(*entered.lock(), [("fourth", false), ("second", true), ("third", true)]);

        let _held = gate.enter().await.expect("a turn");
        let began = tokio::time::Instant::now();
        assert!(gate.enter().await.is_err());
        assert_eq!(began.elapsed(), Duration::from_secs(2));
        assert_eq!((gate.taken(), gate.waiting(), gate.refused()), (1, 0, 2));
    }

    #[tokio::test(start_paused = true)]
    async fn memory_is_taken_given_back_and_refused() {
        let memory = Memory::new(10 * PORTION_BYTES, Duration::from_secs(2));
        let mut taken = memory.take(1).await.expect("room");
        taken.merge(memory.take(8 * PORTION_BYTES).await.expect("room"));
        assert_eq!((taken.bytes(), memory.used()), (9 * PORTION_BYTES, 9 * PORTION_BYTES));
        assert!(memory.take(2 * PORTION_BYTES).await.is_err(), "after the patience");
        taken.shrink_to(PORTION_BYTES + 1);
        assert_eq!(memory.used(), 2 * PORTION_BYTES);
        let more = memory.take_now(8 * PORTION_BYTES).expect("room");
        assert!(memory.take_now(1).is_err());
        drop((taken, more));
        assert_eq!((memory.used(), memory.limit()), (0, 10 * PORTION_BYTES));
    }
}
