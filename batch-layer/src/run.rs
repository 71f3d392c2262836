//! The batch layer's loop: one thread that polls the log, owns the lanes and sends their blocks on their way.

use crate::commit::{Intent, IntentError, Note};
use crate::in_flight::{InFlight, Message, Silence};
use crate::lane::{BlockLimits, Lane, fit};
use crate::metrics::Meters;
use crate::position::{PositionError, Resume, settle};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidemark_core::cut::Cut;
use tidemark_core::generation::Rules;
use tidemark_core::offset::{NextOffset, Partition};
use tidemark_history::History;
use tidemark_history::ledger::RealClock;
use tidemark_history::raw::recall;
use tidemark_topic::{Committed, Consumer, Control, Extent, Happened};
use tidemark_traces::Journeys;
use tokio::sync::watch;

/// Longest wait in a poll; events end it earlier.
const POLL: Duration = Duration::from_millis(500);

/// Before history is asked again.
const RETRY: Duration = Duration::from_millis(200);

/// What ends the loop other than being told to stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error(transparent)]
    Log(#[from] tidemark_topic::Error),
    #[error(transparent)]
    Intent(#[from] IntentError),
    #[error(transparent)]
    Position(#[from] PositionError),
    /// The partitions are to be others', who may reach it.
    #[error("history has not answered for {} s", .0.as_secs())]
    CutOff(Duration),
}

/// The batch layer as the rest of the system sees it.
#[derive(Clone, Debug)]
pub struct Batch {
    pub control: Control,
    /// H: every offset below is in history, roll-ups included.
    reached: watch::Sender<Cut>,
    /// Records in the log that have not been read, of the partitions here.
    unread: Arc<AtomicU64>,
    /// Records that say whose work they are, on their way into history.
    writing: Arc<Journeys>,
    pub meters: Meters,
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            control: Control::default(),
            reached: watch::Sender::new(Cut::default()),
            unread: Arc::default(),
            writing: Arc::default(),
            meters: Meters::default(),
        }
    }
}

impl Batch {
    /// H of each partition, as it grows.
    pub fn reached(&self) -> watch::Receiver<Cut> {
        self.reached.subscribe()
    }

    /// Records in the log that have not been read, of the partitions here. Those that have been read are in history soon.
    pub fn lag(&self) -> u64 {
        self.unread.load(Ordering::Relaxed)
    }

    /// From here on this is H of the partition: it may be below what was known of a former membership.
    fn begin(&self, partition: Partition, next: NextOffset) {
        self.reached.send_modify(|cut| cut.set(partition, next));
    }

    fn reach(&self, partition: Partition, committed: &Committed) {
        self.writing.arrived(partition, committed.next);
        self.reached.send_if_modified(|cut| {
            let grown = committed.next > cut.get(partition) || cut.is_empty();
            cut.raise(partition, committed.next);
            grown
        });
    }
}

struct Loop<C> {
    consumer: C,
    history: Arc<dyn History>,
    rules: Arc<Rules>,
    limits: BlockLimits,
    batch: Batch,
    runtime: tokio::runtime::Handle,
    lanes: BTreeMap<Partition, Lane>,
    in_flight: InFlight,
    silence: Silence,
    paused: bool,
}

/// Runs until told to stop. Blocks: it wants a thread of its own, with `runtime` for history's calls.
pub fn run<C: Consumer>(
    consumer: C,
    history: Arc<dyn History>,
    rules: Arc<Rules>,
    limits: BlockLimits,
    batch: Batch,
    runtime: tokio::runtime::Handle,
) -> Result<(), Error> {
    batch.control.wake_by(consumer.waker());
    let silence = Silence::default();
    let in_flight = InFlight::new(consumer.waker(), batch.control.clone(), batch.meters.clone(), silence.clone());
    let lanes = BTreeMap::new();
    let mut state = Loop { consumer, history, rules, limits, batch, runtime, lanes, in_flight, silence, paused: false };
    let mut outcome = Ok(());
    while outcome.is_ok() && !state.batch.control.is_stopping() {
        outcome = state.turn();
    }
    let owned: Vec<Partition> = state.lanes.keys().copied().collect();
    state.abandon(&owned);
    outcome?;
    state.consumer.release(&owned).map_err(Error::from)
}

impl<C: Consumer> Loop<C> {
    fn turn(&mut self) -> Result<(), Error> {
        self.follow_pause()?;
        let now = Instant::now();
        // A partition whose block is in flight waits for it, which wakes the poll.
        let free = self.lanes.iter().filter(|(partition, _)| !self.in_flight.contains(**partition));
        let due_at = free.filter_map(|(_, lane)| lane.due_at(&self.limits)).min();
        let wait = due_at.filter(|_| !self.paused).map_or(POLL, |at| at.saturating_duration_since(now).min(POLL));
        let mut changes = Vec::new();
        let (lanes, limits, writing) = (&mut self.lanes, &self.limits, &self.batch.writing);
        self.consumer.poll(wait, |happened| match happened {
            Happened::Records { partition, records } => {
                if let Some(lane) = lanes.get_mut(&partition) {
                    records.iter().for_each(|record| lane.take(record, now, limits));
                }
            }
            Happened::Traced { partition, offset, traceparent } => writing.set_out("write", partition, offset, traceparent),
            Happened::End { partition, next } => {
                if let Some(lane) = lanes.get_mut(&partition) {
                    lane.passed(next, now);
                }
            }
            Happened::Assigned(partitions) => changes.push((partitions, true)),
            Happened::Revoked(partitions) | Happened::Lost(partitions) => changes.push((partitions, false)),
        })?;
        while let Some(message) = self.in_flight.arrived() {
            self.heed(message);
        }
        for (partitions, ours) in changes {
            self.batch.meters.rebalances.inc();
            if ours { self.assigned(&partitions)? } else { self.gone(&partitions)? }
        }
        let unread = |(&partition, lane): (&Partition, &Lane)| Some(self.consumer.known_end(partition)?.since(lane.begin_at()));
        self.batch.unread.store(self.lanes.iter().filter_map(unread).sum(), Ordering::Relaxed);
        fit(&mut self.lanes, self.limits.max_bytes);
        // Asked again: a record that came after the pause, in this poll, is not written either.
        if !self.batch.control.is_paused() {
            self.launch_due()?;
        }
        self.must_be_heard()
    }

    /// Ends a membership that history has not answered for too long.
    fn must_be_heard(&self) -> Result<(), Error> {
        let lasts = self.silence.lasts();
        if lasts > self.limits.give_up_after { Err(Error::CutOff(lasts)) } else { Ok(()) }
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
            let committed = control.patiently(|| self.consumer.committed(partition))?;
            let extent = control.patiently(|| self.consumer.extent(partition))?;
            let Some(committed) = self.settle(partition, committed, extent)? else { return Ok(()) };
            let Note { intent, doubtful_below } = Note::of(&committed)?;
            let Some(lane) = self.taught(partition, &committed, intent, extent.start)? else { return Ok(()) };
            let lane = lane.doubting_below(doubtful_below);
            self.batch.begin(partition, committed.next);
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
    fn taught(
        &self,
        partition: Partition,
        committed: &Committed,
        intent: Option<Intent>,
        start: NextOffset,
    ) -> Result<Option<Lane>, Error> {
        self.ask(async || {
            let mut lane = Lane::new(&self.rules, partition, committed.next, intent.clone());
            let from = lane.begin_at();
            if from < start {
                recall(&*self.history, &self.rules, partition, from, start, |record| lane.recall(record, &self.rules.limits)).await?;
                lane.passed(start, Instant::now());
            }
            Ok(lane)
        })
    }

    /// Where writing goes on; `None` when it is time to stop.
    fn settle(&mut self, partition: Partition, committed: Option<Committed>, extent: Extent) -> Result<Option<Committed>, Error> {
        let settled = self.ask(async || settle(&*self.history, &self.rules, partition, committed.clone(), extent, &RealClock).await)?;
        let next = match settled.transpose()? {
            None => return Ok(None),
            Some(Resume::At(committed)) => return Ok(Some(committed)),
            Some(Resume::AfterDeleting(next)) => next,
        };
        let committed = Note { intent: None, doubtful_below: extent.end }.at(next);
        // Of a new topic, nothing has been lost.
        if next > extent.start {
            tracing::warn!(%partition, "the consumer group has no position at or above {next}, where history is closed: what was written above is written again");
            self.batch.control.clone().patiently(|| self.consumer.commit(partition, &committed))?;
        }
        Ok(Some(committed))
    }

    /// Asks history until it answers; `None` when it is time to stop.
    fn ask<T>(&self, question: impl AsyncFn() -> Result<T, tidemark_history::Error>) -> Result<Option<T>, Error> {
        while !self.batch.control.is_stopping() {
            match self.runtime.block_on(question()) {
                Ok(answer) => {
                    self.silence.answered();
                    self.batch.control.trouble(None);
                    return Ok(Some(answer));
                }
                Err(error) => {
                    self.silence.failed(&error);
                    self.batch.control.trouble(Some(format!("the batch layer waits for history: {error}")));
                }
            }
            self.must_be_heard()?;
            std::thread::sleep(RETRY);
        }
        Ok(None)
    }

    /// What has not been committed is the next owner's: it reads the same records again.
    fn gone(&mut self, partitions: &[Partition]) -> Result<(), Error> {
        self.abandon(partitions);
        Ok(self.consumer.release(partitions)?)
    }

    /// Ends all work on these partitions.
    fn abandon(&mut self, partitions: &[Partition]) {
        self.in_flight.leave(partitions);
        while partitions.iter().any(|&partition| self.in_flight.contains(partition)) {
            let message = self.in_flight.next();
            self.heed(message);
        }
        self.lanes.retain(|partition, _| !partitions.contains(partition));
        self.batch.writing.gone(partitions);
    }

    /// Sends what is due on its way. While it cannot go, because its partition or all places are taken, nothing more is
    /// read either: that bounds the memory.
    fn launch_due(&mut self) -> Result<(), Error> {
        let partitions: Vec<Partition> = self.lanes.keys().copied().collect();
        for partition in partitions {
            while let Some(lane) = self.lanes.get_mut(&partition) {
                // What is due by its age alone may grow meanwhile.
                if self.in_flight.contains(partition) && !lane.is_full() {
                    break;
                }
                let Some((block, intent)) = lane.due(Instant::now(), &self.limits) else { break };
                let most = if self.batch.control.is_gentle() { 1 } else { self.limits.in_flight };
                while self.in_flight.contains(partition) || self.in_flight.len() >= most {
                    match self.in_flight.next_within(POLL) {
                        Some(message) => self.heed(message),
                        None => self.must_be_heard()?,
                    }
                }
                if let Some(lane) = self.lanes.get(&partition) {
                    let doubtful_below = lane.doubtful_below();
                    self.in_flight.launch(&self.runtime, &self.history, self.rules.generation, block, intent, doubtful_below);
                }
            }
        }
        Ok(())
    }

    fn heed(&mut self, message: Message) {
        match message {
            Message::Commit { partition, committed, answer } => {
                let outcome = self.consumer.commit(partition, &committed);
                if outcome.is_ok() {
                    self.batch.reach(partition, &committed);
                }
                // The task waits for nothing else.
                let _ = answer.send(outcome);
            }
            Message::Ended { outcome: Ok(Ok(())), .. } => self.batch.control.trouble(None),
            Message::Ended { partition, outcome: Ok(Err(fenced)) } => {
                tracing::info!(%partition, "{fenced}");
                self.lanes.remove(&partition);
            }
            Message::Ended { partition, outcome: Err(broken) } => panic!("writing a block of partition {partition}: {broken}"),
        }
    }
}
