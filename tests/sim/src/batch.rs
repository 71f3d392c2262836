//! The batch layer: the consumer group, and owners that drive the real lane and the real commit protocol.

use crate::engine::Engine;
use crate::executor::pause;
use crate::ground::{Ground, PARTITIONS, lock};
use crate::log::Log;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tidemark_batch_layer::commit::{Desk, Fenced, Note, commit_block};
use tidemark_batch_layer::lane::{BlockLimits, Lane};
use tidemark_batch_layer::position::{Resume, settle};
use tidemark_core::offset::{NextOffset, Offset, Partition};
use tidemark_history::ledger::Clock;
use tidemark_history::raw::recall;
use tidemark_topic::{Committed, Extent, Record};

#[derive(Clone, Debug)]
struct Membership {
    /// `None` once the group has lost it.
    committed: Option<Committed>,
    /// The farthest that it ever was.
    farthest: NextOffset,
    generation: u32,
}

/// The group's positions. Clones share it.
#[derive(Clone, Debug)]
pub struct Group {
    members: Arc<Mutex<Vec<Membership>>>,
}

impl Default for Group {
    fn default() -> Self {
        let none = Membership { committed: None, farthest: NextOffset::ZERO, generation: 0 };
        Self { members: Arc::new(Mutex::new(vec![none; PARTITIONS as usize])) }
    }
}

impl Group {
    pub fn committed(&self, partition: Partition) -> Option<Committed> {
        lock(&self.members)[partition.0 as usize].committed.clone()
    }

    /// H, as those see it who follow the group.
    pub fn position(&self, partition: Partition) -> NextOffset {
        self.committed(partition).map_or(NextOffset::ZERO, |committed| committed.next)
    }

    /// The farthest that H ever was: a closer that runs meanwhile does not know that the position is lost.
    pub fn farthest(&self, partition: Partition) -> NextOffset {
        lock(&self.members)[partition.0 as usize].farthest
    }

    /// Forgets the position, as Kafka does with a group that has had no members for long.
    pub fn lose_position(&self, partition: Partition) {
        lock(&self.members)[partition.0 as usize].committed = None;
    }

    /// Gives the partition to a new owner; commits of the former one are refused from now on.
    pub fn rebalance(&self, partition: Partition) -> u32 {
        let generation = &mut lock(&self.members)[partition.0 as usize].generation;
        *generation += 1;
        *generation
    }

    fn commit(&self, partition: Partition, generation: u32, committed: &Committed) -> Result<(), Fenced> {
        let member = &mut lock(&self.members)[partition.0 as usize];
        if member.generation != generation {
            return Err(Fenced(format!("generation {generation} is over")));
        }
        let before = member.committed.as_ref().map(|committed| committed.next);
        assert!(before <= Some(committed.next), "partition {partition}: H went from {before:?} back to {}", committed.next);
        member.committed = Some(committed.clone());
        member.farthest = member.farthest.max(committed.next);
        Ok(())
    }
}

struct SimulatedDesk {
    ground: Ground,
    group: Group,
    generation: u32,
}

impl Desk for SimulatedDesk {
    async fn commit(&mut self, partition: Partition, committed: &Committed) -> Result<(), Fenced> {
        pause().await;
        let outcome = self.group.commit(partition, self.generation, committed);
        let fenced = if outcome.is_err() { ": fenced" } else { "" };
        self.ground.say(format_args!("batch {partition}/{}: commit {} `{}`{fenced}", self.generation, committed.next, committed.metadata));
        pause().await;
        outcome
    }

    async fn failed(&mut self, _: u32, _: &tidemark_history::Error) -> Result<(), Fenced> {
        pause().await;
        Ok(())
    }
}

struct GroundClock(Ground);

impl Clock for GroundClock {
    fn now_ms(&self) -> i64 {
        self.0.now_ms()
    }

    fn sleep_until(&self, at_ms: i64) -> impl Future<Output = ()> + Send {
        self.0.sleep_until(at_ms)
    }
}

/// An owner of one partition: it ends when it finds out that it is the owner no more.
pub async fn own(ground: Ground, log: Log, group: Group, engine: Engine, partition: Partition, generation: u32) -> Fenced {
    let committed = loop {
        let extent = Extent { start: log.start(partition), end: log.end(partition) };
        let clock = GroundClock(ground.clone());
        match settle(&engine, &ground.rules, partition, group.committed(partition), extent, &clock).await {
            Ok(Ok(Resume::At(committed))) => break committed,
            Ok(Ok(Resume::AfterDeleting(next))) => {
                let committed = Note { intent: None, doubtful_below: extent.end }.at(next);
                if let Err(fenced) = group.commit(partition, generation, &committed) {
                    return fenced;
                }
                break committed;
            }
            Ok(Err(error)) => panic!("the log has everything, but: {error}"),
            Err(_) => pause().await,
        }
    };
    pause().await;
    let Note { intent, doubtful_below } = Note::of(&committed).expect("the group's notes are all Tidemark's");
    ground.say(format_args!("batch {partition}/{generation}: begins at {} `{}`", committed.next, committed.metadata));
    let mut lane = loop {
        let mut lane = Lane::new(&ground.rules, partition, committed.next, intent.clone());
        let (from, start) = (lane.begin_at(), log.start(partition));
        if from >= start {
            break lane;
        }
        if recall(&engine, &ground.rules, partition, from, start, |record| lane.recall(record, &ground.rules.limits)).await.is_ok() {
            lane.passed(start, Instant::now());
            break lane;
        }
        pause().await;
    }
    .doubting_below(doubtful_below);
    let mut desk = SimulatedDesk { ground: ground.clone(), group, generation };
    // Only differences between instants matter, so the machine's clock does not.
    let (origin, origin_ms) = (Instant::now(), ground.now_ms());
    let mut read = lane.begin_at();
    loop {
        let now = origin + Duration::from_millis(u64::try_from(ground.now_ms() - origin_ms).unwrap_or_default());
        let max_age = if ground.chance(400) { Duration::ZERO } else { Duration::from_secs(10) };
        let limits = BlockLimits { max_rows: 1 + ground.below(6) as u64, max_age, ..BlockLimits::default() };
        if log.start(partition) > read {
            return Fenced(format!("offset {read} is outside the log"));
        }
        let end = log.end(partition);
        let upto = end.get().min(read.get() + ground.below(8) as u64);
        for offset in (read.get()..upto).map(Offset::new) {
            if let Some(record) = log.get(partition, offset) {
                lane.take(&Record { offset, timestamp_ms: record.timestamp_ms, payload: record.payload.as_deref() }, now, &limits);
            }
        }
        read = NextOffset::new(upto);
        if read == end {
            lane.passed(end, now);
        }
        while let Some((block, intent)) = lane.due(now, &limits) {
            let doubt = lane.doubtful_below();
            if let Err(fenced) = commit_block(&mut desk, &engine, ground.rules.generation, &block, intent, doubt).await {
                return fenced;
            }
        }
        pause().await;
    }
}
