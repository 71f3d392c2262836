//! A world: everything that one seed decides, step by step.

use crate::batch::{Group, own};
use crate::engine::Engine;
use crate::executor::{Task, at_once};
use crate::ground::{Ground, PARTITIONS, SPAN, Totals};
use crate::log::Log;
use crate::pinned::Pinned;
use crate::query::Query;
use crate::recount::{Asked, Counted, Kind, plain, recount};
use crate::speed::{Audit, Closer, Owner};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tidemark_batch_layer::commit::Fenced;
use tidemark_core::cell::Tally;
use tidemark_core::epoch::{Epoch, Mark};
use tidemark_core::offset::{Offset, Partition};
use tidemark_core::view::ViewId;
use tidemark_core::window::Level;
use tidemark_history::ledger::Entry;
use tidemark_history::rows::{PartKey, RowCount};
use tidemark_history::{EpochCells, History, Marks};
use tidemark_speed_layer::reconcile::Closing;

/// Steps of a run before it calms down.
const STEPS: usize = 800;
/// Steps within which a calm world must have closed all that can be closed.
const SETTLE_STEPS: usize = 30_000;
/// Owners of a partition, the present one included, and closers of former owners, that may be about.
const STALLED: usize = 3;

/// What a seed came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Outcome {
    pub totals: Totals,
    pub trace_hash: u64,
}

/// One partition's actors.
#[derive(Debug)]
struct Side {
    partition: Partition,
    /// Former owners stall where they are and may wake; the last is the present one.
    batch: Vec<Task<Fenced>>,
    /// What the ledger said when the owner to come looked.
    starting: Option<Marks>,
    speed: Option<Owner>,
    stalled: Vec<Closer>,
    /// The mark last seen in the ledger.
    mark: Mark,
}

#[derive(Debug)]
struct World {
    ground: Ground,
    log: Log,
    group: Group,
    engine: Engine,
    sides: Vec<Side>,
    queries: Vec<Query>,
    audits: Vec<Audit>,
    pinned: Pinned,
    weather: Weather,
}

/// What can happen next.
#[derive(Clone, Copy, Debug)]
enum Move {
    Append,
    Batch,
    Engine,
    Speed,
    Ask,
    Query,
    /// A former owner wakes for a step.
    StalledBatch,
    StalledCloser,
    Clock,
    Minute,
    RebalanceBatch,
    CrashBatch,
    RebalanceSpeed,
    CrashSpeed,
    Kill,
    LosePosition,
    /// An accident changes rows of a closed epoch, and an audit finds that.
    Damage,
    Audit,
    /// Retention removes an epoch from the log that history has, or that a repair has staged.
    Forget,
}

/// How often each thing happens: every seed has its own weather, so that some worlds are all storms of one kind.
#[derive(Debug)]
struct Weather(Vec<(Move, usize)>);

impl Weather {
    const USUAL: [(Move, usize); 19] = [
        (Move::Append, 180),
        (Move::Batch, 220),
        (Move::Engine, 180),
        (Move::Speed, 220),
        (Move::Ask, 50),
        (Move::Query, 55),
        (Move::StalledBatch, 20),
        (Move::StalledCloser, 40),
        (Move::Clock, 25),
        (Move::Minute, 6),
        (Move::RebalanceBatch, 6),
        (Move::CrashBatch, 4),
        (Move::RebalanceSpeed, 10),
        (Move::CrashSpeed, 4),
        (Move::Kill, 4),
        (Move::LosePosition, 2),
        (Move::Damage, 40),
        (Move::Audit, 150),
        (Move::Forget, 10),
    ];

    fn of(ground: &Ground) -> Self {
        Self(Self::USUAL.into_iter().map(|(what, often)| (what, often * [1, 1, 2, 4][ground.below(4)] / 2)).collect())
    }

    fn next(&self, ground: &Ground) -> Move {
        let mut at = ground.below(self.0.iter().map(|(_, often)| often).sum());
        let chosen = self.0.iter().find(|(_, often)| {
            let here = at < *often;
            at = at.saturating_sub(*often);
            here
        });
        chosen.map_or(Move::Append, |(what, _)| *what)
    }
}

/// Runs a seed to its end. On a failure: what was wrong, and the last lines of the trace.
pub fn run(seed: u64) -> Result<Outcome, String> {
    let ground = Ground::new(seed);
    let mut world = World::new(ground.clone(), seed);
    let ran = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..STEPS {
            world.step();
        }
        world.settle();
        world.audit();
    }));
    ran.map(|()| Outcome { totals: ground.totals(), trace_hash: ground.trace_hash() }).map_err(|panic| {
        let what = panic.downcast_ref::<String>().cloned().or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string));
        format!("seed {seed}: {}\n{}", what.unwrap_or_default(), ground.last_lines().join("\n"))
    })
}

impl World {
    fn new(ground: Ground, seed: u64) -> Self {
        let side = |partition| Side { partition, batch: Vec::new(), starting: None, speed: None, stalled: Vec::new(), mark: Mark::START };
        let engine = Engine::new(ground.clone());
        let weather = Weather::of(&ground);
        let sides = (0..PARTITIONS).map(Partition).map(side).collect();
        let pinned = Pinned::new(&ground, seed);
        let mut world = Self {
            ground,
            log: Log::default(),
            group: Group::default(),
            engine,
            sides,
            queries: Vec::new(),
            audits: Vec::new(),
            pinned,
            weather,
        };
        (0..world.sides.len()).for_each(|at| world.new_batch_owner(at));
        world
    }

    fn new_batch_owner(&mut self, at: usize) {
        let side = &mut self.sides[at];
        let generation = self.group.rebalance(side.partition);
        let owner = own(self.ground.clone(), self.log.clone(), self.group.clone(), self.engine.clone(), side.partition, generation);
        side.batch.push(Task::new(owner));
        if side.batch.len() > STALLED {
            side.batch.remove(0);
        }
    }

    fn step(&mut self) {
        let reached = || self.sides.iter().map(|side| (side.partition, self.group.position(side.partition))).collect();
        self.pinned.step(&self.engine, &self.log, reached);
        let at = self.ground.below(self.sides.len());
        match self.weather.next(&self.ground) {
            Move::Append => self.log.append(&self.ground),
            Move::Batch => self.step_batch(at, self.sides[at].batch.len().saturating_sub(1)),
            Move::Engine => (0..3).for_each(|_| self.engine.step()),
            Move::Speed => self.step_speed(at),
            Move::Ask => self.ask(),
            Move::Query => self.step_query(),
            Move::StalledBatch => self.step_batch(at, 0),
            Move::StalledCloser => self.step_stalled_closer(at),
            Move::Clock => self.engine.advance(100 + i64::try_from(self.ground.below(15_000)).unwrap_or_default()),
            Move::Minute => self.engine.advance(60_000),
            Move::RebalanceBatch => self.rebalance_batch(at),
            Move::CrashBatch => self.crash_batch(at),
            Move::RebalanceSpeed => self.rebalance_speed(at),
            Move::CrashSpeed => self.crash_speed(at),
            Move::Kill => self.engine.kill(),
            Move::LosePosition => self.lose_position(at),
            Move::Damage => self.damage(at),
            Move::Audit => self.step_audit(),
            Move::Forget => while self.forget(at) {},
        }
    }

    fn step_batch(&mut self, at: usize, nth: usize) {
        let Some(owner) = self.sides[at].batch.get_mut(nth) else { return };
        if let Some(fenced) = owner.step() {
            self.ground.say(format_args!("batch {at}: an owner ends: {fenced}"));
            drop(self.sides[at].batch.remove(nth));
            // One that is not fenced begins again.
            if nth == self.sides[at].batch.len() {
                self.new_batch_owner(at);
            }
        }
        self.engine.notice();
    }

    fn rebalance_batch(&mut self, at: usize) {
        self.ground.say(format_args!("batch {at}: rebalance"));
        self.ground.count(|totals| totals.rebalances += 1);
        self.new_batch_owner(at);
    }

    fn crash_batch(&mut self, at: usize) {
        self.ground.say(format_args!("batch {at}: crash"));
        self.ground.count(|totals| totals.crashes += 1);
        drop(self.sides[at].batch.pop());
        self.new_batch_owner(at);
    }

    /// The group forgets how far it was. Kafka does that only to a group that has had no members for long, so no former owner
    /// is about, and none of their statements runs; a new owner finds nothing.
    fn lose_position(&mut self, at: usize) {
        let partition = self.sides[at].partition;
        if self.log.start(partition) > self.sides[at].mark.position(self.ground.rules.epoch_bits) {
            // Writing would go on at the mark, where the log has nothing any more: that is for people to decide.
            return;
        }
        self.ground.say(format_args!("batch {at}: the group's position is lost"));
        self.ground.count(|totals| totals.lost_positions += 1);
        self.sides[at].batch.clear();
        self.engine.advance(60_000);
        self.group.lose_position(self.sides[at].partition);
        self.new_batch_owner(at);
    }

    /// Rows of a closed epoch are lost, or altered. Until that has been found answers may be wrong, so it is found at once.
    fn damage(&mut self, at: usize) {
        let partition = self.sides[at].partition;
        let marks = at_once(self.engine.marks()).expect("the twin has a ledger");
        let closed = marks.get(&partition).map_or(0, |mark| mark.oldest_open().0);
        if closed == 0 {
            return;
        }
        let epoch = Epoch(self.ground.below(usize::try_from(closed).unwrap_or(usize::MAX)) as u64);
        let offset = Offset::new(self.ground.rules.epoch_bits.start_of(epoch).get() + self.ground.below(4) as u64);
        let (view, level) = (ViewId(self.ground.below(2)), Level::ALL[self.ground.below(3)]);
        // Raw rows that are lost come back from the log alone.
        let is_in_the_log = self.log.start(partition) <= self.ground.rules.epoch_bits.start_of(epoch);
        match self.ground.below(3) {
            0 if is_in_the_log => self.engine.twin.lose_raw(partition, offset),
            1 if is_in_the_log => self.engine.twin.alter_raw(partition, offset),
            _ => self.engine.twin.lose_cells(EpochCells { view, level, partition, epoch }),
        }
        self.ground.say(format_args!("{partition} epoch {epoch} is damaged"));
        self.ground.count(|totals| totals.damaged += 1);
        Audit::record(&self.ground, &self.engine, partition, epoch);
    }

    /// Retention removes the oldest epoch of the log. It must be in history; if it is not closed yet, history may hold it by a
    /// repair's staging tables alone, and if those have it all, that is enough. False if it must stay.
    fn forget(&mut self, at: usize) -> bool {
        let side = &self.sides[at];
        let (partition, bits) = (side.partition, self.ground.rules.epoch_bits);
        let epoch = bits.epoch_at(self.log.start(partition));
        let (range, end) = (bits.range_of(epoch), bits.end_of(epoch));
        let damage = at_once(self.engine.twin.damage()).expect("the twin tells of damage");
        let is_read = side.speed.as_ref().is_none_or(|owner| owner.tide.is_taught() && owner.tide.waterline().position >= end);
        // An epoch that is damaged comes back from the log alone, with the ids of the one before.
        let is_needed = damage.damaged.iter().any(|of| of.partition == partition && of.epoch <= epoch.next())
            || self.audits.iter().any(|audit| audit.partition == partition);
        if self.group.position(partition) < end || !is_read || is_needed {
            return false;
        }
        let marks = at_once(self.engine.twin.marks()).expect("the twin has a ledger");
        let is_closed = marks.get(&partition).is_some_and(|mark| mark.is_closed(epoch));
        let (_, events, dead) = self.recount_epoch(partition, epoch);
        let staged = at_once(self.engine.twin.staged(partition, range)).expect("the twin answers");
        let is_staged = staged.values().map(|count| count.rows).sum::<u64>() == events.rows + dead.rows;
        if !is_closed && !is_staged {
            return false;
        }
        self.ground.say(format_args!("log {partition}: retention removes epoch {epoch}{}", if is_closed { "" } else { ", which is open" }));
        self.ground.count(|totals| totals.forgotten_open += u64::from(!is_closed));
        self.log.forget(partition, end);
        true
    }

    /// Goes on with an audit, or begins one of a damaged epoch.
    fn step_audit(&mut self) {
        let damage = at_once(self.engine.twin.damage()).expect("the twin tells of damage");
        if self.audits.len() < if self.ground.is_calm() { 1 } else { STALLED }
            && let Some(of) = damage.damaged.get(self.ground.below(damage.damaged.len().max(1)))
        {
            self.audits.push(Audit::new(&self.ground, &self.log, &self.engine, of.partition, of.epoch));
        }
        if !self.audits.is_empty() {
            let nth = self.ground.below(self.audits.len());
            if self.audits[nth].step(&self.ground) {
                drop(self.audits.swap_remove(nth));
            }
            self.engine.notice();
        }
    }

    fn step_speed(&mut self, at: usize) {
        let side = &mut self.sides[at];
        let partition = side.partition;
        let Some(owner) = &mut side.speed else {
            match side.starting.take() {
                None => side.starting = Some(at_once(self.engine.marks()).expect("the twin has a ledger")),
                Some(marks) => {
                    let (mark, history) = (marks.get(&partition).copied().unwrap_or(Mark::START), self.group.position(partition));
                    side.speed = Owner::new(&self.ground, &self.log, &self.engine, partition, mark, history);
                }
            }
            return;
        };
        if self.ground.chance(if owner.closer.is_some() { 350 } else { 700 }) {
            return owner.apply(&self.ground, &self.log, partition);
        }
        let history = self.group.position(partition);
        let closed = owner.close(&self.ground, &self.log, &self.engine, partition, history);
        if let Some(epoch) = closed {
            let line = owner.tide.waterline();
            let end = self.ground.rules.epoch_bits.end_of(epoch);
            assert!(
                line.mark.oldest_open() == epoch.next() && end <= self.group.farthest(partition) && end <= line.position,
                "I2: {line:?} after closing {epoch} at H={history}"
            );
            self.ground.count(|totals| totals.epochs_closed += 1);
            self.check_closed(at, epoch);
        } else if self.ground.chance(150) {
            // Retention strikes while an epoch is compared, or repaired.
            while self.forget(at) {}
        }
        self.engine.notice();
    }

    fn step_stalled_closer(&mut self, at: usize) {
        let side = &mut self.sides[at];
        if side.stalled.is_empty() {
            return;
        }
        let nth = self.ground.below(side.stalled.len());
        let outcome = side.stalled[nth].step(&self.ground);
        self.engine.notice();
        if let Some(outcome) = outcome {
            let closer = side.stalled.remove(nth);
            if matches!(outcome, Ok(Closing::Closed)) {
                self.check_closed(at, closer.epoch);
            }
        }
    }

    /// A new owner begins; what the former one has begun to close stalls, and may wake.
    fn rebalance_speed(&mut self, at: usize) {
        self.ground.say(format_args!("speed {at}: rebalance"));
        self.ground.count(|totals| totals.rebalances += 1);
        let side = &mut self.sides[at];
        side.starting = None;
        side.stalled.extend(side.speed.take().and_then(|owner| owner.closer));
        if side.stalled.len() > STALLED {
            side.stalled.remove(0);
        }
    }

    fn crash_speed(&mut self, at: usize) {
        self.ground.say(format_args!("speed {at}: crash"));
        self.ground.count(|totals| totals.crashes += 1);
        self.sides[at].starting = None;
        self.sides[at].speed = None;
    }

    fn ask(&mut self) {
        let tides = || {
            self.sides
                .iter()
                .filter_map(|side| side.speed.as_ref().map(|owner| (side.partition, &owner.tide)))
                .filter(|(_, tide)| tide.is_taught())
        };
        if self.queries.len() < 8 && self.ground.chance(250) {
            let reached = self.sides.iter().map(|side| (side.partition, self.group.position(side.partition))).collect();
            self.queries.push(Query::ask_history_alone(&self.ground, reached));
        } else if self.queries.len() < 8 && tides().count() == self.sides.len() {
            let query = Query::ask(&self.ground, tides());
            self.queries.push(query);
        }
    }

    fn step_query(&mut self) {
        let nth = self.ground.below(self.queries.len());
        while let Some(query) = self.queries.get_mut(nth) {
            if query.step(&self.ground, &self.engine, &self.log) {
                drop(self.queries.swap_remove(nth));
                return;
            }
        }
    }

    /// No more faults: what is under way must come to its end, and the mark to the log's.
    fn settle(&mut self) {
        self.ground.say(format_args!("calm"));
        self.ground.calm_down();
        for _ in 0..SETTLE_STEPS {
            let at = self.ground.below(self.sides.len());
            match self.ground.below(100) {
                0..30 => self.step_batch(at, self.sides[at].batch.len().saturating_sub(1)),
                30..60 => self.engine.step(),
                60..90 => self.step_speed(at),
                90..93 => self.step_batch(at, 0),
                93..94 => self.step_stalled_closer(at),
                94..97 => self.step_audit(),
                _ => self.engine.advance(8_000),
            }
            if self.is_settled() {
                break;
            }
        }
        assert!(
            self.is_settled(),
            "a calm world has not come to rest: {:?}",
            self.sides.iter().map(|side| (side.mark, self.group.committed(side.partition))).collect::<Vec<_>>()
        );
        self.ask();
        while !self.queries.is_empty() {
            self.step_query();
        }
    }

    fn is_settled(&self) -> bool {
        let damage = at_once(self.engine.twin.damage()).expect("the twin tells of damage");
        damage.damaged.is_empty()
            && self.audits.is_empty()
            && self.sides.iter().all(|side| {
                let end = self.log.end(side.partition);
                let committed = self.group.committed(side.partition);
                let line = side.speed.as_ref().map(|owner| owner.tide.waterline());
                committed.is_some_and(|committed| committed.next == end)
                    && line
                        .is_some_and(|line| line.position == end && line.mark.oldest_open() == self.ground.rules.epoch_bits.epoch_at(end))
            })
    }

    /// Invariants I2 and I3, when an epoch has been closed.
    fn check_closed(&mut self, at: usize, epoch: Epoch) {
        let partition = self.sides[at].partition;
        let marks = at_once(self.engine.marks()).expect("the twin has a ledger");
        let mark = marks.get(&partition).copied().unwrap_or(Mark::START);
        assert!(mark >= self.sides[at].mark, "I2: the mark of {partition} went from {:?} back to {mark:?}", self.sides[at].mark);
        assert!(mark.is_closed(epoch), "{partition}: epoch {epoch} closed, but the ledger has {mark:?}");
        self.sides[at].mark = mark;
        let rows = at_once(self.engine.twin.ledger(partition, epoch)).expect("the twin has a ledger");
        let (tally, events, _) = self.recount_epoch(partition, epoch);
        for row in rows.iter().filter(|row| row.entry == Entry::Closed) {
            assert!(
                row.tally.span() == SPAN && row.tally == tally && row.fold == events.fold,
                "I3: {partition} epoch {epoch}: {row:?}, but the recount {tally:?} {events:?}"
            );
        }
    }

    /// What an epoch holds: the tally, its events and its dead letters, duplicates included.
    fn recount_epoch(&self, partition: Partition, epoch: Epoch) -> (Tally, RowCount, RowCount) {
        let range = self.ground.rules.epoch_bits.range_of(epoch);
        let (mut tally, mut events, mut dead) = (Tally::default(), RowCount::default(), RowCount::default());
        self.log.judged(partition, range.from()..range.to(), |log| {
            for (offset, judged) in log {
                match judged.kind {
                    Kind::Hole => tally.holes += 1,
                    Kind::DeadLetter => tally.dead_letters += 1,
                    Kind::Duplicate => tally.duplicates += 1,
                    Kind::Event => tally.events += 1,
                }
                match judged.kind {
                    Kind::Hole => {}
                    Kind::Event => events.add(offset),
                    Kind::DeadLetter | Kind::Duplicate => dead.add(offset),
                }
            }
        });
        (tally, events, dead)
    }

    /// Invariant I4 for every closed epoch: raw rows and dead letters there once, roll-ups of every level right.
    fn audit(&self) {
        for side in &self.sides {
            let closed = (0..side.mark.oldest_open().0).map(Epoch);
            closed.for_each(|epoch| self.audit_epoch(side.partition, epoch));
        }
    }

    fn audit_epoch(&self, partition: Partition, epoch: Epoch) {
        let twin = &self.engine.twin;
        let range = self.ground.rules.epoch_bits.range_of(epoch);
        let (_, events, dead) = self.recount_epoch(partition, epoch);
        let found = at_once(twin.found(partition, range)).expect("the twin answers");
        let (mut found_events, mut found_dead) = (RowCount::default(), RowCount::default());
        for (part, count) in found {
            if part == PartKey::DeadLetters { found_dead.merge(count) } else { found_events.merge(count) }
        }
        assert!(
            found_events == events && found_dead == dead,
            "I4: {partition} epoch {epoch}: raw {found_events:?} and {found_dead:?}, but the recount {events:?} and {dead:?}"
        );
        for (view, names) in self.ground.rules.views.ids().zip([vec!["event_type"], vec!["event_type", "product_id"]]) {
            for (level, width_ms) in Level::ALL.into_iter().zip([300_000, 3_600_000, 86_400_000]) {
                let rows = at_once(twin.cells(EpochCells { view, level, partition, epoch })).expect("the twin answers");
                let asked = Asked { width_ms: Some(width_ms), group_by: names.clone(), ..Asked::default() };
                let mut expected = Counted::new();
                self.log.judged(partition, range.from()..range.to(), |log| recount(log, &asked, &mut expected));
                let rows = plain(&rows);
                assert!(rows == expected, "I4: {partition} epoch {epoch} {level:?} of {names:?}: {rows:?}, but the recount {expected:?}");
            }
        }
    }
}
