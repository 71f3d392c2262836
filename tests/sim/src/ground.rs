//! What everything in a world shares: the rules, the clock, the dice, the trace, the counts.

use crate::executor::pause;
use rand::rngs::ChaCha8Rng;
use rand::{RngExt, SeedableRng};
use std::collections::VecDeque;
use std::fmt::Arguments;
use std::hash::{DefaultHasher, Hasher};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, MutexGuard, PoisonError};
use tidemark_core::epoch::EpochBits;
use tidemark_core::event::Limits;
use tidemark_core::generation::{Generation, Rules};
use tidemark_core::view::Views;

/// Partitions of the topic.
pub const PARTITIONS: u32 = 2;
/// Epochs of 8 offsets: they fill, close and are repaired many times in a run.
pub const EPOCH_BITS: u8 = 3;
pub const SPAN: u64 = 1 << EPOCH_BITS;

/// 2013-02-02T00:00:00Z, where every simulated clock starts.
const START_MS: i64 = 1_359_763_200_000;

/// Lines of the trace that a failure shows.
const SHOWN: usize = 40;

/// `TIDEMARK_SIM_TRACE=all` shows all of them.
static WHOLE: LazyLock<bool> = LazyLock::new(|| std::env::var_os("TIDEMARK_SIM_TRACE").is_some());

/// Shared state that only one thread ever touches; a panic elsewhere must not hide it.
pub fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What happened in a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Totals {
    pub answers: u64,
    /// Answers at a cut that was given, which are not among those.
    pub pinned: u64,
    pub epochs_closed: u64,
    pub repairs: u64,
    /// First repairs of an epoch that found raw rows missing, or too many.
    pub rows_lost: u64,
    pub rows_doubled: u64,
    pub kills: u64,
    pub lost_answers: u64,
    pub rebalances: u64,
    pub crashes: u64,
    pub lost_positions: u64,
    /// Closed epochs that were damaged, and that were written again.
    pub damaged: u64,
    pub closed_repaired: u64,
    /// Questions that were refused, for what they ask was damaged.
    pub refused: u64,
    /// Open epochs that retention removed from the log during a repair.
    pub forgotten_open: u64,
    pub records: u64,
}

impl Totals {
    pub fn add(&mut self, other: &Self) {
        self.answers += other.answers;
        self.pinned += other.pinned;
        self.epochs_closed += other.epochs_closed;
        self.damaged += other.damaged;
        self.closed_repaired += other.closed_repaired;
        self.refused += other.refused;
        self.repairs += other.repairs;
        self.rows_lost += other.rows_lost;
        self.rows_doubled += other.rows_doubled;
        self.kills += other.kills;
        self.lost_answers += other.lost_answers;
        self.rebalances += other.rebalances;
        self.crashes += other.crashes;
        self.lost_positions += other.lost_positions;
        self.forgotten_open += other.forgotten_open;
        self.records += other.records;
    }
}

#[derive(Debug, Default)]
struct Trace {
    hash: DefaultHasher,
    last: VecDeque<String>,
    lines: u64,
}

/// Clones share everything but the rules' `Arc`, which they share too.
#[derive(Clone, Debug)]
pub struct Ground {
    pub rules: Arc<Rules>,
    clock_ms: Arc<AtomicI64>,
    dice: Arc<Mutex<ChaCha8Rng>>,
    trace: Arc<Mutex<Trace>>,
    totals: Arc<Mutex<Totals>>,
    /// No more faults: what is under way must come to its end.
    calm: Arc<AtomicBool>,
    /// How many times as often as usual answers get lost.
    pub losses: usize,
}

impl Ground {
    pub fn new(seed: u64) -> Self {
        let views =
            Views::declare([("by_type", vec!["event_type"]), ("by_product", vec!["event_type", "product_id"])]).expect("two sound views");
        let epoch_bits = EpochBits::new(EPOCH_BITS).expect("in range");
        let mut dice = ChaCha8Rng::seed_from_u64(seed);
        let losses = [0, 1, 1, 4][dice.random_range(0..4)];
        Self {
            losses,
            rules: Arc::new(Rules { generation: Generation(1), widens: None, epoch_bits, views, limits: Limits::default(), dedup: true }),
            clock_ms: Arc::new(AtomicI64::new(START_MS)),
            dice: Arc::new(Mutex::new(dice)),
            trace: Arc::default(),
            totals: Arc::default(),
            calm: Arc::default(),
        }
    }

    /// The same, but for what the dice say.
    pub fn with_dice(&self, seed: u64) -> Self {
        Self { dice: Arc::new(Mutex::new(ChaCha8Rng::seed_from_u64(seed))), ..self.clone() }
    }

    pub fn now_ms(&self) -> i64 {
        self.clock_ms.load(Ordering::Relaxed)
    }

    pub async fn sleep_until(&self, at_ms: i64) {
        while self.now_ms() < at_ms {
            pause().await;
        }
    }

    pub fn advance(&self, ms: i64) {
        self.clock_ms.fetch_add(ms, Ordering::Relaxed);
    }

    /// One of `0..n`.
    pub fn below(&self, n: usize) -> usize {
        lock(&self.dice).random_range(0..n.max(1))
    }

    pub fn chance(&self, per_mille: usize) -> bool {
        self.below(1000) < per_mille
    }

    /// Something gets lost: so often in usual weather, and never once the world is calm.
    pub fn fault(&self, per_mille: usize) -> bool {
        !self.is_calm() && self.chance(per_mille * self.losses)
    }

    pub fn is_calm(&self) -> bool {
        self.calm.load(Ordering::Relaxed)
    }

    pub fn calm_down(&self) {
        self.calm.store(true, Ordering::Relaxed);
    }

    pub fn say(&self, line: Arguments<'_>) {
        let line = line.to_string();
        let trace = &mut *lock(&self.trace);
        trace.hash.write(line.as_bytes());
        trace.hash.write_u8(b'\n');
        trace.lines += 1;
        if trace.last.len() == SHOWN && !*WHOLE {
            trace.last.pop_front();
        }
        trace.last.push_back(format!("{:>5}  {line}", trace.lines));
    }

    pub fn count(&self, add: impl FnOnce(&mut Totals)) {
        add(&mut lock(&self.totals));
    }

    pub fn totals(&self) -> Totals {
        *lock(&self.totals)
    }

    pub fn trace_hash(&self) -> u64 {
        lock(&self.trace).hash.finish()
    }

    pub fn last_lines(&self) -> Vec<String> {
        lock(&self.trace).last.iter().cloned().collect()
    }
}
