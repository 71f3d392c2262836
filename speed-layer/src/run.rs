//! The speed layer's loop: a thread that polls its share of the log and counts, and a task that closes epochs.

use crate::gathered::Gathered;
use crate::metrics::Meters;
use crate::publish::{Publication, take_over};
use crate::reconcile::{Closing, Yard, close};
use crate::standstill::Standstills;
use crate::tide::{Tide, Waterline};
use dashmap::DashMap;
use futures_util::stream::{self, StreamExt as _};
use parking_lot::{ArcRwLockWriteGuard, RawRwLock, RwLock};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tidemark_core::cell::Tally;
use tidemark_core::cut::Cut;
use tidemark_core::epoch::{Epoch, Mark};
use tidemark_core::generation::Rules;
use tidemark_core::offset::{NextOffset, OffsetRange, Partition};
use tidemark_core::question::{Question, Rows};
use tidemark_core::view::ViewId;
use tidemark_core::window::BucketError;
use tidemark_history::ledger::{Entry, LedgerRow};
use tidemark_history::raw::recall;
use tidemark_history::{History, Marks};
use tidemark_snapshot::Store;
use tidemark_topic::{Consumer, Control, Extent, Happened, now_ms};
use tidemark_traces::Journeys;
use tokio::sync::watch;

/// About a millisecond's work for an answer.
const MANY_EPOCHS: usize = 200;
const MANY_CELLS: usize = 50_000;

/// Longest wait in a poll; events end it earlier.
const POLL: Duration = Duration::from_millis(500);

/// Before an epoch that could not be closed is looked at again.
const CLOSE_PAUSE: Duration = Duration::from_millis(500);

/// How long reading a snapshot may take; the log is there too.
const TAKE_OVER: Duration = Duration::from_secs(10);

/// Partitions whose epochs are closed at a time. Each waits for the engine most of the time, and holds up to one epoch's
/// cells of one view and level twice, 150 bytes each.
const CLOSE_AT_ONCE: usize = 4;

/// The speed layer as the rest of the system sees it: the partitions that this process owns.
#[derive(Debug)]
pub struct Speed {
    pub control: Control,
    rules: Arc<Rules>,
    /// Written by the loops' threads when partitions come and go, read by queries. The lock within guards one
    /// partition's tide: the loop that reads it writes under it a batch of records at a time, queries read under it.
    partitions: DashMap<Partition, Owned>,
    /// The log's end as of the last fetch.
    ends: DashMap<Partition, NextOffset>,
    /// When all that was in the log had last been counted, in milliseconds.
    caught_up: DashMap<Partition, i64>,
    /// Records that say whose work they are, on their way into the snapshots.
    pub(crate) publishing: Journeys,
    /// Where snapshots are kept, if they are.
    store: Option<Arc<Store>>,
    /// Of a partition. Beyond it nothing more is read of the partition until an epoch has been closed.
    max_open_events: u64,
    /// Counts the batches applied: whoever waits for a position looks again when it moves.
    changed: watch::Sender<u64>,
    pub meters: Meters,
}

/// A partition of this process's. A clone is the same one.
#[derive(Clone, Debug)]
pub(crate) struct Owned {
    pub(crate) tide: Arc<RwLock<Tide>>,
    /// Locked by the task that writes snapshots alone.
    pub(crate) publication: Arc<tokio::sync::Mutex<Publication>>,
    /// It has been seen that the tide is taught, which it stays.
    taught: Arc<AtomicBool>,
}

impl Owned {
    fn new(tide: Tide, publication: Publication) -> Self {
        let (tide, publication) = (Arc::new(RwLock::new(tide)), Arc::new(tokio::sync::Mutex::new(publication)));
        Self { tide, publication, taught: Arc::default() }
    }

    /// Waits for nobody: while it is not known yet, and the tide is being changed, it is not.
    fn is_taught(&self) -> bool {
        self.taught.load(Ordering::Relaxed)
            || self.tide.try_read().is_some_and(|tide| {
                self.taught.store(tide.is_taught(), Ordering::Relaxed);
                tide.is_taught()
            })
    }
}

/// The speed layer's part of an answer.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    pub rows: Rows,
    pub waterlines: BTreeMap<Partition, Waterline>,
    pub ends: Cut,
}

/// What a status page says about one partition.
#[derive(Clone, Copy, Debug)]
pub struct PartitionStatus {
    pub waterline: Waterline,
    pub end: NextOffset,
    pub taught: bool,
    pub open_epochs: usize,
    /// What became of their records, without holes.
    pub tally: Tally,
    pub cells: usize,
    /// The Kafka timestamp of the last record counted here.
    pub counted_ms: Option<i64>,
    /// The latest timestamp of an event counted here, but no later than its record's.
    pub event_ms: Option<i64>,
    /// When all that was in the log had last been counted, as far as that is known.
    pub caught_up_ms: Option<i64>,
}

impl PartitionStatus {
    /// Records in the log that have not been counted.
    pub fn lag(&self) -> u64 {
        self.end.since(self.waterline.position)
    }

    /// How old the oldest record is that has not been counted, at most: it was written after the last one counted, and after the
    /// log had last been counted to its end. `None` if neither is known.
    pub fn lag_ms(&self, now_ms: i64) -> Option<i64> {
        if self.lag() == 0 {
            return Some(0);
        }
        Some(now_ms.saturating_sub(self.counted_ms.max(self.caught_up_ms)?).max(0))
    }
}

impl Speed {
    pub fn new(rules: Arc<Rules>) -> Self {
        Self {
            control: Control::default(),
            rules,
            partitions: DashMap::new(),
            ends: DashMap::new(),
            caught_up: DashMap::new(),
            publishing: Journeys::default(),
            store: None,
            max_open_events: u64::MAX,
            changed: watch::Sender::new(0),
            meters: Meters::default(),
        }
    }

    /// With a bound to the events of a partition's open epochs, though always room for two epochs: one that is being counted,
    /// and one that is being closed.
    #[must_use]
    pub fn bounded(self, max_open_events: u64) -> Self {
        Self { max_open_events: max_open_events.max(2 * self.rules.epoch_bits.span()), ..self }
    }

    /// With snapshots in Redis: a partition begins as its last one has it, and its changes are noted for the next
    /// ([`crate::publish::publish`]).
    #[must_use]
    pub fn with_snapshots(self, store: Arc<Store>) -> Self {
        Self { store: Some(store), ..self }
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    fn is_full(&self, partition: Partition) -> bool {
        self.tide(partition).is_some_and(|tide| {
            let Waterline { position, mark } = tide.read().waterline();
            position.get().saturating_sub(mark.position(self.rules.epoch_bits).get()) > self.max_open_events
        })
    }

    /// Answers from the open epochs; `None` while some partition of `0..partitions` is not yet ready to.
    pub fn snapshot(&self, view: ViewId, question: &Question, partitions: u32) -> Result<Option<Snapshot>, BucketError> {
        let (mut gathered, mut complete) = (Gathered::default(), Vec::new());
        let (mut waterlines, mut ends) = (BTreeMap::new(), Cut::default());
        for partition in (0..partitions).map(Partition) {
            let Some(tide) = self.tide(partition) else { return Ok(None) };
            let tide = tide.read();
            if !tide.is_taught() {
                return Ok(None);
            }
            let (waterline, segments) = tide.answer(view, question, &mut gathered)?;
            complete.extend(segments);
            waterlines.insert(partition, waterline);
            ends.set(partition, self.end(partition, waterline));
        }
        // Nothing is counted into these any more, so that no lock is needed.
        for segment in complete {
            segment.answer(view, question, &mut gathered)?;
        }
        Ok(Some(Snapshot { rows: gathered.into_rows(), waterlines, ends }))
    }

    /// True while every partition of a cut stands where the cut, its marks and its ends say: a new [`Speed::snapshot`]
    /// would find the same. Waits for nobody: a partition that is being changed does not stand.
    pub fn is_still_at(&self, cut: &Cut, mark: &Cut, end: &Cut) -> bool {
        cut.iter().all(|(partition, position)| {
            let Some(tide) = self.tide(partition) else { return false };
            let Some(tide) = tide.try_read() else { return false };
            let waterline = tide.waterline();
            tide.is_taught()
                && waterline.position == position
                && waterline.mark.position(self.rules.epoch_bits) == mark.get(partition)
                && self.end(partition, waterline) == end.get(partition)
        })
    }

    pub(crate) fn end(&self, partition: Partition, waterline: Waterline) -> NextOffset {
        self.ends.get(&partition).map_or(waterline.position, |end| (*end).max(waterline.position))
    }

    /// How many partitions are ready. Waits for nobody.
    pub fn ready(&self) -> usize {
        self.partitions.iter().filter(|entry| entry.is_taught()).count()
    }

    /// S of each partition that is ready.
    pub fn positions(&self) -> Cut {
        let taught = |entry: dashmap::mapref::multiple::RefMulti<'_, Partition, Owned>| {
            let tide = entry.value().tide.read();
            tide.is_taught().then(|| (*entry.key(), tide.waterline().position))
        };
        self.partitions.iter().filter_map(taught).collect()
    }

    /// The log's end of each partition, as of the last fetch.
    pub fn ends(&self) -> Cut {
        self.ends.iter().map(|entry| (*entry.key(), *entry.value())).collect()
    }

    /// A log only grows. A broker that has just started may give an end that is too low, until it has found out how far its log goes.
    fn heard_end(&self, partition: Partition, end: NextOffset) {
        self.ends.entry(partition).and_modify(|known| *known = end.max(*known)).or_insert(end);
    }

    /// Records in the log that have not been counted, of the partitions here.
    pub fn lag(&self) -> u64 {
        self.status().values().map(PartitionStatus::lag).sum()
    }

    /// True if open epochs are so many, or have so many cells over all views, that to answer from them takes longer than a
    /// thread of the runtime should be away.
    pub fn is_long_to_answer(&self) -> bool {
        let (mut epochs, mut cells) = (0, 0);
        self.partitions.iter().any(|entry| {
            let tide = entry.tide.read();
            epochs += tide.open_epochs();
            // To add up the cells of many epochs would be long, too.
            epochs > MANY_EPOCHS || {
                cells += tide.cells();
                cells > MANY_CELLS
            }
        })
    }

    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub fn status(&self) -> BTreeMap<Partition, PartitionStatus> {
        let of = |entry: dashmap::mapref::multiple::RefMulti<'_, Partition, Owned>| {
            let tide = entry.value().tide.read();
            let waterline = tide.waterline();
            let end = self.end(*entry.key(), waterline);
            let (taught, open_epochs, tally, cells) = (tide.is_taught(), tide.open_epochs(), tide.tally(), tide.cells());
            let (counted_ms, event_ms) = (tide.counted_ms(), tide.event_ms());
            let caught_up_ms = self.caught_up.get(entry.key()).map(|at| *at);
            (*entry.key(), PartitionStatus { waterline, end, taught, open_epochs, tally, cells, counted_ms, event_ms, caught_up_ms })
        };
        self.partitions.iter().map(of).collect()
    }

    fn tide(&self, partition: Partition) -> Option<Arc<RwLock<Tide>>> {
        self.partitions.get(&partition).map(|owned| Arc::clone(&owned.tide))
    }

    /// M of each partition here.
    pub(crate) fn marks(&self) -> Marks {
        self.partitions.iter().map(|entry| (*entry.key(), entry.value().tide.read().waterline().mark)).collect()
    }

    pub(crate) fn owned(&self) -> Vec<(Partition, Owned)> {
        self.partitions.iter().map(|entry| (*entry.key(), entry.value().clone())).collect()
    }

    fn change(&self) {
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }
}

/// The write lock of the partition that records are coming from: taken once for a run of them, not for each.
#[derive(Default)]
struct Holding(Option<(Partition, ArcRwLockWriteGuard<RawRwLock, Tide>)>);

impl Holding {
    fn tide(&mut self, speed: &Speed, partition: Partition) -> Option<&mut Tide> {
        if self.0.as_ref().is_none_or(|(held, _)| *held != partition) {
            self.0 = None;
            self.0 = Some((partition, speed.tide(partition)?.write_arc()));
        }
        self.0.as_mut().map(|(_, tide)| &mut **tide)
    }
}

/// Polls and counts until told to stop. Blocks: it wants a thread of its own, with `runtime` for history's calls.
/// `reached` is H. Several consumers that divide the topic may run at a time, each on a thread: no partition is in two
/// shares, so they meet in the maps alone.
pub fn run<C: Consumer>(
    mut consumer: C,
    history: &dyn History,
    reached: watch::Receiver<Cut>,
    speed: &Arc<Speed>,
    runtime: &tokio::runtime::Handle,
) -> Result<(), tidemark_topic::Error> {
    let mut owned: Vec<Partition> = Vec::new();
    let outcome = count(&mut consumer, history, reached, speed, runtime, &mut owned);
    if outcome.is_err() {
        // Somebody else may count them from here on.
        owned.iter().for_each(|partition| drop(speed.partitions.remove(partition)));
    }
    outcome
}

fn count<C: Consumer>(
    consumer: &mut C,
    history: &dyn History,
    reached: watch::Receiver<Cut>,
    speed: &Arc<Speed>,
    runtime: &tokio::runtime::Handle,
    owned: &mut Vec<Partition>,
) -> Result<(), tidemark_topic::Error> {
    let (control, bound, open) = (speed.control.part(), speed.control.part(), speed.control.part());
    control.wake_by(consumer.waker());
    let past = Past { history, reached, runtime, control: &control };
    let (mut held, mut waiting, mut stills) = (BTreeSet::new(), false, Standstills::default());
    while !control.is_stopping() {
        hold(consumer, &control, &bound, speed, owned, &mut held)?;
        let (mut holding, mut changes) = (Holding::default(), Vec::new());
        // Of this turn, by whose end they have been counted.
        let counting = Journeys::default();
        let polled = consumer.poll(POLL, |happened| match happened {
            Happened::Records { partition, records } => {
                if let Some(tide) = holding.tide(speed, partition) {
                    let before = tide.tally();
                    tide.apply(records);
                    speed.meters.counted(before, tide.tally());
                }
            }
            Happened::Traced { partition, offset, traceparent } => {
                counting.set_out("count", partition, offset, traceparent);
                if speed.store.is_some() {
                    speed.publishing.set_out("publish", partition, offset, traceparent);
                }
            }
            Happened::End { partition, next } => {
                if let Some(tide) = holding.tide(speed, partition) {
                    tide.passed(next);
                }
            }
            Happened::Assigned(partitions) => changes.push((partitions, true)),
            Happened::Revoked(partitions) | Happened::Lost(partitions) => changes.push((partitions, false)),
        });
        drop(holding);
        drop(counting);
        for (partitions, ours) in changes {
            speed.meters.rebalances.inc();
            if ours {
                assigned(consumer, &past, speed, &partitions)?;
                owned.extend(&partitions);
            } else {
                owned.retain(|partition| !partitions.contains(partition));
                held.retain(|partition| !partitions.contains(partition));
                stills.gone(&partitions);
                partitions.iter().for_each(|partition| drop(speed.partitions.remove(partition)));
                speed.publishing.gone(&partitions);
                consumer.release(&partitions)?;
            }
        }
        for &partition in owned.iter() {
            if let Some(end) = consumer.known_end(partition) {
                speed.heard_end(partition, end);
                let Some(at) = speed.tide(partition).map(|tide| tide.read().waterline().position) else { continue };
                if at >= end {
                    speed.caught_up.insert(partition, now_ms());
                }
                if !held.contains(&partition) {
                    stills.note(partition, at, end, || consumer.extent(partition).ok().map(|extent| extent.end));
                }
            }
        }
        open.trouble(stills.trouble());
        if polled.is_ok() && std::mem::take(&mut waiting) {
            control.trouble(None);
        }
        match polled {
            Ok(0) => {}
            Ok(_) => speed.change(),
            Err(error @ tidemark_topic::Error::Unavailable { .. }) => {
                waiting = true;
                control.trouble(Some(format!("waiting for the log: {error}")));
                std::thread::sleep(CLOSE_PAUSE);
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Stops reading what is not to be counted now, because the layer is paused or a partition is full, and goes on with what
/// is; `held` are the partitions that are stopped. That some are full is `bound`'s trouble.
fn hold<C: Consumer>(
    consumer: &mut C,
    control: &Control,
    bound: &Control,
    speed: &Speed,
    owned: &[Partition],
    held: &mut BTreeSet<Partition>,
) -> Result<(), tidemark_topic::Error> {
    let full: BTreeSet<Partition> = owned.iter().copied().filter(|partition| speed.is_full(*partition)).collect();
    let wanted = if control.is_paused() { owned.iter().copied().collect() } else { full.clone() };
    if wanted == *held {
        return Ok(());
    }
    let stop: Vec<Partition> = wanted.difference(held).copied().collect();
    let go_on: Vec<Partition> = held.difference(&wanted).copied().collect();
    control.patiently(|| consumer.pause(&stop))?;
    control.patiently(|| consumer.resume(&go_on))?;
    *held = wanted;
    let (max, names) = (speed.max_open_events, full.iter().map(Partition::to_string).collect::<Vec<_>>().join(", "));
    let text = || format!("counting waits for history: over {max} events (speed.max_open_events) are not closed yet of partition {names}");
    bound.trouble((!full.is_empty()).then(text));
    Ok(())
}

/// What a start needs to know of history.
struct Past<'a> {
    history: &'a dyn History,
    /// H.
    reached: watch::Receiver<Cut>,
    runtime: &'a tokio::runtime::Handle,
    control: &'a Control,
}

impl Past<'_> {
    /// Asks until there is an answer; `None` when it is time to stop.
    fn ask<T, F>(&self, question: impl Fn() -> F) -> Option<T>
    where
        F: Future<Output = Result<T, tidemark_history::Error>>,
    {
        while !self.control.is_stopping() {
            match self.runtime.block_on(question()) {
                Ok(answer) => {
                    self.control.trouble(None);
                    return Some(answer);
                }
                Err(error) => self.control.trouble(Some(format!("the speed layer waits for history: {error}"))),
            }
            std::thread::sleep(CLOSE_PAUSE);
        }
        None
    }

    /// The mark of a partition that has none yet: the epoch in which the log begins. Noted, for later it begins higher.
    fn begin(&self, speed: &Speed, partition: Partition, start: NextOffset) -> Option<Mark> {
        let epoch = speed.rules.epoch_bits.epoch_at(start);
        // What the batch layer has written of earlier epochs, before retention removed it, is counted from there.
        let epoch = self.ask(|| first_written(self.history, &speed.rules, partition, epoch))?;
        if epoch > Epoch(0) {
            tracing::warn!(%partition, "the topic begins at {start}: what was there before has never been counted");
            let (generation, tally) = (speed.rules.generation, Tally::default());
            let row = LedgerRow { generation, partition, epoch, entry: Entry::Begun, tally, fold: 0, at_ms: now_ms() };
            self.ask(|| self.history.record(&row, None))?;
        }
        Some(Mark::at(epoch))
    }

    /// A partition as the ledger leaves it. What the log no longer has of its open epochs, and of the one before, is
    /// taken from history.
    fn tide(&self, speed: &Speed, partition: Partition, mark: Mark, start: NextOffset) -> Option<Tide> {
        let fresh = || Tide::new(partition, Arc::clone(&speed.rules), mark);
        let from = fresh().begin_at();
        if from >= start {
            return Some(fresh());
        }
        tracing::warn!(%partition, "the topic begins at {start}: offsets from {from} on are taken from history");
        let mut reached = self.reached.clone();
        while reached.borrow_and_update().get(partition) < start {
            if self.control.is_stopping() {
                return None;
            }
            let text = format!("the speed layer waits until history has passed {start} of partition {partition}, where the topic begins");
            self.control.trouble(Some(text));
            let _ = self.runtime.block_on(async { tokio::time::timeout(CLOSE_PAUSE, reached.changed()).await });
        }
        self.ask(|| async {
            let mut tide = fresh();
            recall(self.history, &speed.rules, partition, from, start, |record| tide.recall(record)).await?;
            tide.passed(start);
            Ok(tide)
        })
    }

    /// A partition as its last snapshot leaves it, if there is one that will do: it is not waited for.
    fn resumed(&self, speed: &Speed, partition: Partition, mark: Mark, extent: Extent) -> Option<(Tide, Publication)> {
        let store = speed.store.as_ref()?;
        let taken = take_over(store, &speed.rules, partition, mark);
        match self.runtime.block_on(async { tokio::time::timeout(TAKE_OVER, taken).await }) {
            Ok(Ok(taken)) => taken.filter(|(tide, _)| {
                // What the log no longer has, raw history has: not worth a way of its own.
                tide.begin_at() >= extent.start && tide.waterline().position <= extent.end
            }),
            Ok(Err(error)) => {
                tracing::warn!(%partition, "counting begins without a snapshot: {error}");
                None
            }
            Err(_) => {
                tracing::warn!(%partition, "counting begins without a snapshot: reading it took more than {} s", TAKE_OVER.as_secs());
                None
            }
        }
    }
}

/// The first epoch of a partition that history has rows of, if it is below `epoch`; else `epoch`.
async fn first_written(history: &dyn History, rules: &Rules, partition: Partition, epoch: Epoch) -> Result<Epoch, tidemark_history::Error> {
    let (mut first, mut after) = (0, epoch.0);
    // Somewhere below `after`, or nowhere at all.
    while first < after {
        let middle = first + (after - first) / 2;
        let below = OffsetRange::new(NextOffset::ZERO, rules.epoch_bits.end_of(Epoch(middle)));
        let has_rows = match below {
            Some(below) => !history.found(partition, below).await?.is_empty(),
            None => false,
        };
        if has_rows { after = middle } else { first = middle + 1 }
    }
    Ok(Epoch(first))
}

fn assigned<C: Consumer>(consumer: &mut C, past: &Past<'_>, speed: &Speed, partitions: &[Partition]) -> Result<(), tidemark_topic::Error> {
    let Some(marks) = past.ask(|| past.history.marks()) else { return Ok(()) };
    for &partition in partitions {
        let extent = past.control.patiently(|| consumer.extent(partition))?;
        let mark = marks.get(&partition).copied().or_else(|| past.begin(speed, partition, extent.start));
        let Some(mark) = mark else { return Ok(()) };
        let owned = match past.resumed(speed, partition, mark, extent) {
            Some((tide, publication)) => Owned::new(tide, publication),
            None => {
                let Some(tide) = past.tide(speed, partition, mark, extent.start) else { return Ok(()) };
                let tide = if speed.store.is_some() { tide.noting(false) } else { tide };
                Owned::new(tide, Publication::default())
            }
        };
        let begin_at = owned.tide.read().begin_at();
        speed.partitions.insert(partition, owned);
        speed.heard_end(partition, extent.end);
        past.control.patiently(|| consumer.start(partition, begin_at))?;
    }
    Ok(())
}

/// Closes epochs as both layers pass their ends, until told to stop.
pub async fn close_epochs(speed: Arc<Speed>, history: Arc<dyn History>, yard: impl Yard, mut reached: watch::Receiver<Cut>) {
    let (mut changed, control) = (speed.changes(), speed.control.part());
    while !control.is_stopping() {
        let history_at = reached.borrow_and_update().clone();
        let _ = changed.borrow_and_update();
        let partitions: Vec<Partition> = speed.partitions.iter().map(|entry| *entry.key()).collect();
        let at_once = if control.is_gentle() { 1 } else { CLOSE_AT_ONCE };
        let closing = |partition| close_partition(&speed, &*history, &yard, partition, history_at.get(partition));
        let ends: Vec<_> = stream::iter(partitions.into_iter().map(closing)).buffer_unordered(at_once).collect().await;
        control.trouble(ends.iter().find_map(|end| end.as_ref().err()).cloned());
        let all_done = ends.iter().all(|end| matches!(end, Ok(true)));
        tokio::select! {
            _ = reached.changed() => {}
            () = tokio::time::sleep(CLOSE_PAUSE), if !all_done => {}
            // Only the speed layer's own lag can make it the later of the two; then its next batches matter.
            () = next_change(&mut changed) => {}
        }
    }
}

/// Batches come by the thousand; closing need not look after each.
async fn next_change(changed: &mut watch::Receiver<u64>) {
    let _ = changed.changed().await;
    tokio::time::sleep(Duration::from_millis(50)).await;
}

/// Closes what can be closed of one partition; false if something has to be looked at again later, as after an error,
/// which is in words for people.
async fn close_partition(
    speed: &Speed,
    history: &dyn History,
    yard: &impl Yard,
    partition: Partition,
    history_at: NextOffset,
) -> Result<bool, String> {
    while let Some(tide) = speed.tide(partition) {
        let Some(segment) = tide.write().closable(history_at) else { break };
        let (epoch, began) = (segment.epoch(), Instant::now());
        match close(yard, history, &speed.rules, partition, &segment).await {
            Ok(Closing::Closed) => {
                tide.write().closed(epoch);
                speed.meters.closed.inc();
                speed.meters.closing.observe(began.elapsed().as_secs_f64());
                speed.change();
                // A loop may wait for room.
                speed.control.wake();
            }
            Ok(Closing::Waiting { .. }) => return Ok(false),
            Ok(Closing::Repaired { difference, .. }) => {
                speed.meters.repaired.inc();
                tracing::warn!(%partition, %epoch, %difference, "history differed from the speed layer and has been written again");
                return Ok(false);
            }
            Err(error) => {
                return Err(format!("partition {partition}: epoch {epoch} cannot be closed yet: {error}"));
            }
        }
    }
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_core::epoch::EpochBits;
    use tidemark_core::event::Limits;
    use tidemark_core::generation::Generation;
    use tidemark_core::offset::Offset;
    use tidemark_core::view::Views;
    use tidemark_core::window::{Buckets, Step, TimeRange};
    use tidemark_topic::Record;

    const P: Partition = Partition(0);

    fn record(offset: u64) -> Record<'static> {
        Record {
            offset: Offset::new(offset),
            timestamp_ms: 1_795_564_800_000,
            payload: Some(br#"{"event_type":"a","timestamp":1795564800000}"#),
        }
    }

    /// A partition that has counted four records, an epoch.
    fn speed() -> (Speed, Arc<RwLock<Tide>>) {
        let views = Views::declare([("by_type", vec!["event_type"])]).expect("valid");
        let epoch_bits = EpochBits::new(2).expect("valid");
        let rules = Arc::new(Rules { generation: Generation(1), widens: None, epoch_bits, views, limits: Limits::default(), dedup: true });
        let speed = Speed::new(Arc::clone(&rules));
        let mut tide = Tide::new(P, rules, Mark::START);
        tide.apply(&[record(0), record(1), record(2), record(3)]);
        let owned = Owned::new(tide, Publication::default());
        let tide = Arc::clone(&owned.tide);
        speed.partitions.insert(P, owned);
        (speed, tide)
    }

    #[test]
    fn a_snapshot_counts_complete_epochs_and_the_one_that_is_being_counted() {
        let (speed, tide) = speed();
        tide.write().apply(&[record(4)]);
        let buckets = Buckets::new(Step::Total, None).expect("UTC");
        let question = Question { range: TimeRange::default(), buckets, group_by: vec![], filters: BTreeMap::new(), only_counts: true };
        let snapshot = speed.snapshot(ViewId(0), &question, 1).expect("on an edge").expect("ready");
        assert_eq!(tide.read().segments().count(), 2);
        assert_eq!(snapshot.rows.values().map(|cell| cell.count).sum::<u64>(), 5);
    }

    #[test]
    fn a_snapshot_stands_until_its_cut_mark_or_end_moves() {
        let cut = |next| Cut::from_iter([(P, NextOffset::new(next))]);
        let (speed, tide) = speed();
        assert!(speed.is_still_at(&cut(4), &cut(0), &cut(4)));
        speed.ends.insert(P, NextOffset::new(5));
        assert!(!speed.is_still_at(&cut(4), &cut(0), &cut(4)), "the end has moved");
        assert!(speed.is_still_at(&cut(4), &cut(0), &cut(5)));
        tide.write().apply(&[record(4)]);
        assert!(!speed.is_still_at(&cut(4), &cut(0), &cut(5)), "an event has been counted");
        assert!(speed.is_still_at(&cut(5), &cut(0), &cut(5)));
        tide.write().passed(NextOffset::new(6));
        assert!(!speed.is_still_at(&cut(5), &cut(0), &cut(5)), "a hole has been passed");
        let epoch = tide.write().closable(NextOffset::new(4)).expect("complete").epoch();
        tide.write().closed(epoch);
        assert!(!speed.is_still_at(&cut(6), &cut(0), &cut(6)), "an epoch has been closed");
        assert!(speed.is_still_at(&cut(6), &cut(4), &cut(6)));
        let two = Cut::from_iter([(P, NextOffset::new(6)), (Partition(1), NextOffset::ZERO)]);
        assert!(!speed.is_still_at(&two, &cut(4), &cut(6)), "a partition is not here");
        // Started again: it must learn the epoch before, and until then says nothing.
        let again = Tide::new(P, Arc::clone(&speed.rules), Mark::START.advanced());
        speed.partitions.insert(P, Owned::new(again, Publication::default()));
        assert!(!speed.is_still_at(&cut(4), &cut(4), &cut(5)), "a partition is not ready");
    }
}
