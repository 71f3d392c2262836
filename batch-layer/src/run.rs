//! The batch layer's loop: one thread that polls the log, owns the lanes and commits their blocks.

use crate::commit::{Desk, Fenced, Intent, IntentError, commit_block, intent_of};
use crate::lane::{BlockLimits, Lane, fit};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidemark_core::cut::Cut;
use tidemark_core::generation::Rules;
use tidemark_core::offset::{NextOffset, Partition};
use tidemark_history::History;
use tidemark_history::raw::recall;
use tidemark_topic::{Committed, Consumer, Control, Happened};
use tokio::sync::watch;

/// Longest wait in a poll; events end it earlier.
const POLL: Duration = Duration::from_millis(500);

/// Pauses between failures: from this, doubled with each, up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// What ends the loop other than being told to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Log(#[from] tidemark_topic::Error),
    #[error(transparent)]
    Intent(#[from] IntentError),
    #[error(
        "partition {partition}: the topic begins at {to}, but history has only been written up to {from}: retention has removed records that were never counted. \
         Give the topic a longer retention; to go on without them, start a new history (another data directory, or another clickhouse.database and kafka.group)"
    )]
    Gone { partition: Partition, from: NextOffset, to: NextOffset },
}

/// The batch layer as the rest of the system sees it.
#[derive(Clone, Debug)]
pub struct Batch {
    pub control: Control,
    /// H: every offset below is in history, roll-ups included.
    reached: watch::Sender<Cut>,
}

impl Default for Batch {
    fn default() -> Self {
        Self { control: Control::default(), reached: watch::Sender::new(Cut::default()) }
    }
}

impl Batch {
    /// H of each partition, as it grows.
    pub fn reached(&self) -> watch::Receiver<Cut> {
        self.reached.subscribe()
    }

    fn reach(&self, partition: Partition, committed: &Committed) {
        self.reached.send_if_modified(|cut| {
            let grown = committed.next > cut.get(partition) || cut.is_empty();
            cut.raise(partition, committed.next);
            grown
        });
    }
}

struct Loop<C, H> {
    consumer: C,
    history: Arc<H>,
    rules: Arc<Rules>,
    limits: BlockLimits,
    batch: Batch,
    runtime: tokio::runtime::Handle,
    lanes: BTreeMap<Partition, Lane>,
    paused: bool,
}

/// Runs until told to stop. Blocks: it wants a thread of its own, with `runtime` for history's calls.
pub fn run<C: Consumer, H: History>(
    consumer: C,
    history: Arc<H>,
    rules: Arc<Rules>,
    limits: BlockLimits,
    batch: Batch,
    runtime: tokio::runtime::Handle,
) -> Result<(), Error> {
    batch.control.wake_by(consumer.waker());
    let mut state = Loop { consumer, history, rules, limits, batch, runtime, lanes: BTreeMap::new(), paused: false };
    while !state.batch.control.is_stopping() {
        state.turn()?;
    }
    let owned: Vec<Partition> = state.lanes.keys().copied().collect();
    state.consumer.release(&owned).map_err(Error::from)
}

impl<C: Consumer, H: History> Loop<C, H> {
    fn turn(&mut self) -> Result<(), Error> {
        self.follow_pause()?;
        let now = Instant::now();
        let due_at = self.lanes.values().filter_map(|lane| lane.due_at(&self.limits)).min();
        let wait = due_at.filter(|_| !self.paused).map_or(POLL, |at| at.saturating_duration_since(now).min(POLL));
        let mut changes = Vec::new();
        let (lanes, limits) = (&mut self.lanes, &self.limits);
        self.consumer.poll(wait, |happened| match happened {
            Happened::Records { partition, records } => {
                if let Some(lane) = lanes.get_mut(&partition) {
                    records.iter().for_each(|record| lane.take(record, now, limits));
                }
            }
            Happened::End { partition, next } => {
                if let Some(lane) = lanes.get_mut(&partition) {
                    lane.passed(next, now);
                }
            }
            Happened::Assigned(partitions) => changes.push((partitions, true)),
            Happened::Revoked(partitions) | Happened::Lost(partitions) => changes.push((partitions, false)),
        })?;
        for (partitions, ours) in changes {
            if ours { self.assigned(&partitions)? } else { self.gone(&partitions)? }
        }
        fit(&mut self.lanes, self.limits.max_bytes);
        if !self.paused {
            self.commit_due()?;
        }
        Ok(())
    }

    fn follow_pause(&mut self) -> Result<(), Error> {
        let wanted = self.batch.control.is_paused();
        if wanted != self.paused {
            let partitions: Vec<Partition> = self.lanes.keys().copied().collect();
            if wanted {
                self.consumer.pause(&partitions)?
            } else {
                self.consumer.resume(&partitions)?
            }
            self.paused = wanted;
        }
        Ok(())
    }

    fn assigned(&mut self, partitions: &[Partition]) -> Result<(), Error> {
        for &partition in partitions {
            let control = self.batch.control.clone();
            let start = control.patiently(|| self.consumer.extent(partition))?.start;
            let committed =
                control.patiently(|| self.consumer.committed(partition))?.unwrap_or(Committed { next: start, metadata: String::new() });
            if committed.next < start {
                return Err(Error::Gone { partition, from: committed.next, to: start });
            }
            let intent = intent_of(&committed)?;
            let Some(lane) = self.taught(partition, &committed, intent, start) else { return Ok(()) };
            self.batch.reach(partition, &committed);
            let begin_at = lane.begin_at();
            self.lanes.insert(partition, lane);
            control.patiently(|| self.consumer.start(partition, begin_at))?;
        }
        if self.paused {
            self.consumer.pause(partitions)?;
        }
        self.batch.control.trouble(None);
        Ok(())
    }

    /// A lane whose judge knows what it must. What the log no longer has, history has; `None` when it is time to stop.
    fn taught(&self, partition: Partition, committed: &Committed, intent: Option<Intent>, start: NextOffset) -> Option<Lane> {
        loop {
            let mut lane = Lane::new(&self.rules, partition, committed.next, intent.clone());
            let from = lane.begin_at();
            if from >= start {
                return Some(lane);
            }
            let recalled = recall(&*self.history, partition, from, start, |record| lane.recall(record, &self.rules.limits));
            match self.runtime.block_on(recalled) {
                Ok(()) => {
                    lane.passed(start, Instant::now());
                    self.batch.control.trouble(None);
                    return Some(lane);
                }
                Err(error) => self.batch.control.trouble(Some(format!("the batch layer waits for history: {error}"))),
            }
            if self.batch.control.is_stopping() {
                return None;
            }
            std::thread::sleep(FIRST_PAUSE);
        }
    }

    /// What has not been committed is the next owner's: it reads the same records again.
    fn gone(&mut self, partitions: &[Partition]) -> Result<(), Error> {
        self.lanes.retain(|partition, _| !partitions.contains(partition));
        Ok(self.consumer.release(partitions)?)
    }

    fn commit_due(&mut self) -> Result<(), Error> {
        let partitions: Vec<Partition> = self.lanes.keys().copied().collect();
        for partition in partitions {
            while let Some((block, intent)) = self.lanes.get_mut(&partition).and_then(|lane| lane.due(Instant::now(), &self.limits)) {
                let mut desk = GroupDesk { consumer: &mut self.consumer, batch: &self.batch };
                let committed = self.runtime.block_on(commit_block(&mut desk, &*self.history, self.rules.generation, &block, intent));
                if let Err(fenced) = committed {
                    tracing::info!(%partition, "{fenced}");
                    self.lanes.remove(&partition);
                    break;
                }
                self.batch.control.trouble(None);
            }
        }
        Ok(())
    }
}

/// The commit protocol's outside: the consumer group, and the people who watch.
struct GroupDesk<'a, C> {
    consumer: &'a mut C,
    batch: &'a Batch,
}

impl<C: Consumer> GroupDesk<'_, C> {
    async fn pause(&self, failures: u32) -> Result<(), Fenced> {
        let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(10)).min(MAX_PAUSE);
        tokio::time::sleep(pause).await;
        if self.batch.control.is_stopping() {
            Err(Fenced("stopping with a block under way; the next start finishes it".into()))
        } else {
            Ok(())
        }
    }
}

impl<C: Consumer> Desk for GroupDesk<'_, C> {
    async fn commit(&mut self, partition: Partition, committed: &Committed) -> Result<(), Fenced> {
        let mut failures = 0;
        loop {
            match self.consumer.commit(partition, committed) {
                Ok(()) => {
                    self.batch.reach(partition, committed);
                    return Ok(());
                }
                Err(error @ tidemark_topic::Error::Fenced { .. }) => return Err(Fenced(error.to_string())),
                Err(error) => {
                    self.batch.control.trouble(Some(format!("history stands still: {error}")));
                    failures += 1;
                    self.pause(failures).await?;
                }
            }
        }
    }

    async fn failed(&mut self, failures: u32, error: &tidemark_history::Error) -> Result<(), Fenced> {
        self.batch.control.trouble(Some(format!("history stands still: {error}")));
        self.pause(failures).await
    }
}
