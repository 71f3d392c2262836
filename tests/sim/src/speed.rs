//! The speed layer: owners with a real tide, and closers that run the real reconciliation beside it.

use crate::engine::Engine;
use crate::executor::{Task, at_once};
use crate::ground::Ground;
use crate::log::Log;
use std::sync::Arc;
use tidemark_core::epoch::{Epoch, Mark};
use tidemark_core::judge::Judge;
use tidemark_core::offset::{NextOffset, Offset, Partition};
use tidemark_history::Error;
use tidemark_history::History;
use tidemark_history::audit::{Change, Entry};
use tidemark_history::block::{Block, BlockBuilder};
use tidemark_history::ledger::Clock;
use tidemark_history::memory::MemoryHistory;
use tidemark_history::raw::recall;
use tidemark_speed_layer::audit::{Audited, Auditor, Mode, Outcome};
use tidemark_speed_layer::reconcile::{CloseError, Closing, Difference, Yard, close};
use tidemark_speed_layer::segment::Segment;
use tidemark_speed_layer::tide::Tide;

struct SimulatedYard {
    ground: Ground,
    log: Log,
    engine: Engine,
}

impl Clock for SimulatedYard {
    fn now_ms(&self) -> i64 {
        self.ground.now_ms()
    }

    fn sleep_until(&self, at_ms: i64) -> impl Future<Output = ()> + Send {
        self.ground.sleep_until(at_ms)
    }
}

impl Yard for SimulatedYard {
    async fn confirm_log(&self) -> Result<(), CloseError> {
        crate::executor::pause().await;
        Ok(())
    }

    async fn reread(&self, partition: Partition, epoch: Epoch) -> Result<Vec<Block>, CloseError> {
        crate::executor::pause().await;
        if self.ground.fault(20) {
            return Err(CloseError::Log("the log does not answer".into()));
        }
        let rules = &self.ground.rules;
        let range = rules.epoch_bits.range_of(epoch);
        let (lookback, start) = (Judge::lookback(rules, range.from()), self.log.start(partition));
        if start > range.from() {
            return Err(CloseError::Log(format!("the log begins at {start}")));
        }
        let mut judge = Judge::new(rules);
        if start > lookback {
            let learned = recall(&self.engine, rules, partition, lookback, start, |record| {
                let examined = judge.examined(record.decoded(&rules.limits));
                judge.judge(record.offset, &examined);
            });
            learned.await.map_err(|error| CloseError::Log(error.to_string()))?;
        }
        let mut builder = BlockBuilder::new(partition, range.from());
        let mut blocks = Vec::new();
        for offset in (lookback.max(start).get()..range.to().get()).map(Offset::new) {
            // Retention may go on meanwhile.
            if self.log.start(partition).includes(offset) {
                return Err(CloseError::Log(format!("the log has forgotten {offset}")));
            }
            let Some(record) = self.log.get(partition, offset) else { continue };
            let examined = judge.examine(record.payload.as_deref(), record.timestamp_ms);
            let verdict = judge.judge(offset, &examined);
            if range.contains(offset) {
                builder.push(offset, verdict, record.payload.as_deref(), record.timestamp_ms);
                if self.ground.chance(150) {
                    let (block, next) = builder.finish();
                    blocks.extend(block);
                    builder = next;
                }
            }
        }
        builder.skip_to(range.to());
        blocks.extend(builder.finish().0);
        Ok(blocks)
    }
}

/// A look at a closed epoch that was damaged. It outlives its owner where that only stalls.
#[derive(Debug)]
pub struct Audit {
    pub partition: Partition,
    task: Task<Result<Vec<Audited>, Error>>,
}

impl Audit {
    pub fn new(ground: &Ground, log: &Log, engine: &Engine, partition: Partition, epoch: Epoch) -> Self {
        let engine = engine.clone();
        let yard = SimulatedYard { ground: ground.clone(), log: log.clone(), engine: engine.clone() };
        let audit = async move {
            let auditor = Auditor { yard: &yard, history: &engine, rules: &yard.ground.rules, mode: Mode::Repair };
            auditor.audit(partition, epoch..epoch.next()).await
        };
        Self { partition, task: Task::new(audit) }
    }

    /// One step; true if it was the last.
    pub fn step(&mut self, ground: &Ground) -> bool {
        let Some(outcome) = self.task.step() else { return false };
        ground.say(format_args!("audit {}: {outcome:?}", self.partition));
        let repaired = |audited: &&Audited| matches!(audited.outcome, Outcome::Repaired(_));
        let repaired = outcome.iter().flatten().filter(repaired).count() as u64;
        ground.count(|totals| totals.closed_repaired += repaired);
        true
    }

    /// Somebody looks at an epoch, and records what is wrong, also if that is known; nothing goes wrong meanwhile.
    pub fn record(ground: &Ground, engine: &Engine, partition: Partition, epoch: Epoch) {
        let sums = at_once(engine.twin.sums(partition, epoch..epoch.next())).expect("the twin answers").pop();
        let found = sums.and_then(|sums| sums.finding(|view, level| format!("view {} {}", view.0, level.suffix())));
        ground.say(format_args!("audit {partition} epoch {epoch}: found {found:?}"));
        let Some(finding) = found else { return };
        let damage = at_once(engine.twin.damage()).expect("the twin tells of damage");
        let at_ms = damage.last_ms(partition, epoch).map_or(i64::MIN, |last| last + 1).max(ground.now_ms());
        let change = Change { partition, epoch, entry: Entry::Damaged(finding), at_ms, covers_ms: 0 };
        at_once(engine.twin.record_change(&change, None)).expect("the twin records it");
    }
}

/// An attempt to close an epoch. It outlives its owner where that only stalls.
#[derive(Debug)]
pub struct Closer {
    pub partition: Partition,
    pub epoch: Epoch,
    twin: MemoryHistory,
    task: Task<Result<Closing, CloseError>>,
}

impl Closer {
    fn new(ground: &Ground, log: &Log, engine: &Engine, partition: Partition, segment: Arc<Segment>) -> Self {
        let epoch = segment.epoch();
        let twin = engine.twin.clone();
        let engine = engine.clone();
        let yard = SimulatedYard { ground: ground.clone(), log: log.clone(), engine: engine.clone() };
        let task = Task::new(async move { close(&yard, &engine, &yard.ground.rules, partition, &segment).await });
        Self { partition, epoch, twin, task }
    }

    /// One step; says and counts what came of it.
    pub fn step(&mut self, ground: &Ground) -> Option<Result<Closing, CloseError>> {
        let outcome = self.task.step()?;
        ground.say(format_args!("speed {}: closing epoch {}: {outcome:?}", self.partition, self.epoch));
        if let Ok(Closing::Repaired { difference, .. }) = &outcome {
            let (found, expected) = match difference {
                Difference::Events { found, expected } => (found.rows, expected.rows),
                Difference::DeadLetters { found, expected } => (*found, *expected),
                Difference::Cells { .. } | Difference::RawCells { .. } => (0, 0),
            };
            // A repair may leave an epoch half written; what was there before the first is the commit protocol's work.
            let first = at_once(self.twin.ledger(self.partition, self.epoch)).is_ok_and(|rows| rows.len() == 1);
            ground.count(|totals| {
                totals.repairs += 1;
                totals.rows_lost += u64::from(first && found < expected);
                totals.rows_doubled += u64::from(first && found > expected);
            });
        }
        Some(outcome)
    }
}

/// One partition's owner.
#[derive(Debug)]
pub struct Owner {
    pub tide: Tide,
    read: NextOffset,
    pub closer: Option<Closer>,
}

impl Owner {
    /// As the ledger leaves the partition; what the log has forgotten comes from history, once that has passed it. `None` while
    /// history cannot tell.
    pub fn new(ground: &Ground, log: &Log, engine: &Engine, partition: Partition, mark: Mark, history: NextOffset) -> Option<Self> {
        let mut tide = Tide::new(partition, Arc::clone(&ground.rules), mark);
        let (from, start) = (tide.begin_at(), log.start(partition));
        if from < start {
            if history < start {
                return None;
            }
            let recalled = at_once(recall(&engine.twin, &ground.rules, partition, from, start, |record| tide.recall(record)));
            if let Err(error) = recalled {
                ground.say(format_args!("speed {partition}: {error}"));
                return None;
            }
            tide.passed(start);
        }
        ground.say(format_args!("speed {partition}: begins at mark {mark:?}, reading from {}", from.max(start)));
        Some(Self { read: from.max(start), tide, closer: None })
    }

    /// Counts a few records, or learns that there are none.
    pub fn apply(&mut self, ground: &Ground, log: &Log, partition: Partition) {
        let (end, before) = (log.end(partition), self.tide.waterline().position);
        let upto = end.get().min(self.read.get() + 1 + ground.below(3) as u64);
        // What it has not read, retention does not remove: H is not far ahead of S.
        for offset in (self.read.get()..upto).map(Offset::new) {
            if let Some(record) = log.get(partition, offset) {
                self.tide.apply(&[tidemark_topic::Record {
                    offset,
                    timestamp_ms: record.timestamp_ms,
                    payload: record.payload.as_deref(),
                }]);
            }
        }
        self.read = NextOffset::new(upto);
        if self.read == end {
            self.tide.passed(end);
        }
        if self.tide.waterline().position != before {
            ground.say(format_args!("speed {partition}: S={}", self.tide.waterline().position));
        }
    }

    /// Goes on closing; true if the oldest epoch has been closed by this step.
    pub fn close(&mut self, ground: &Ground, log: &Log, engine: &Engine, partition: Partition, history: NextOffset) -> Option<Epoch> {
        match &mut self.closer {
            None => {
                let segment = self.tide.closable(history)?;
                self.closer = Some(Closer::new(ground, log, engine, partition, segment));
                None
            }
            Some(closer) => {
                let (outcome, epoch) = (closer.step(ground)?, closer.epoch);
                self.closer = None;
                matches!(outcome, Ok(Closing::Closed)).then(|| {
                    self.tide.closed(epoch);
                    epoch
                })
            }
        }
    }
}
