//! A partition's tide: the mark M, the speed position S, and the segments of the open epochs between them. Pure.

use crate::gathered::Gathered;
use crate::segment::{AT_ONCE, Changes, Segment};
use arrayvec::ArrayVec;
use std::collections::VecDeque;
use std::sync::Arc;
use tidemark_core::cell::Tally;
use tidemark_core::check;
use tidemark_core::epoch::{Epoch, Mark};
use tidemark_core::event::Event;
use tidemark_core::generation::Rules;
use tidemark_core::judge::{Examined, Judge, Verdict};
use tidemark_core::offset::{NextOffset, Offset, Partition};
use tidemark_core::question::Question;
use tidemark_core::view::ViewId;
use tidemark_core::window::BucketError;
use tidemark_history::rows::RawRecord;
use tidemark_snapshot::{Head, OpenEpoch, WindowCells};
use tidemark_topic::Record;

/// What one partition contributes to an answer: everything below `position`, split at `mark`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Waterline {
    pub mark: Mark,
    pub position: NextOffset,
}

/// One partition's state in the speed layer.
#[derive(Debug)]
pub struct Tide {
    partition: Partition,
    rules: Arc<Rules>,
    judge: Judge,
    mark: Mark,
    /// S: every offset below has been counted, or is below the mark.
    position: NextOffset,
    /// The first offset not yet judged. Behind `position` only while the judge is being taught the epoch before.
    read: NextOffset,
    /// Epochs that are complete but not closed, oldest first, and after them the one being counted. Consecutive.
    complete: VecDeque<Arc<Segment>>,
    current: Segment,
    /// The Kafka timestamp of the last record applied.
    counted_ms: Option<i64>,
    /// The latest timestamp of an event counted here, but no later than that of the last record then.
    event_ms: Option<i64>,
    /// What has changed since the last snapshot; `None` where none are taken.
    unwritten: Option<Unwritten>,
}

/// What a snapshot does not have yet, besides the changes that the current segment has noted.
#[derive(Debug)]
struct Unwritten {
    /// Of epochs that have become complete since.
    complete: Vec<(Arc<Segment>, Changes)>,
    /// There were too many changes to note, or there is no snapshot yet.
    all: bool,
}

/// What a snapshot is to hold from now on.
#[derive(Debug)]
pub enum Draft {
    /// The cells that have changed since the last one.
    Changes(Vec<WindowCells>),
    /// Too many to write at once: all of them.
    All(Whole),
}

/// All open cells: those of complete epochs, which do not change any more, not gathered yet.
#[derive(Debug)]
pub struct Whole {
    pub complete: Vec<Arc<Segment>>,
    pub current: Vec<WindowCells>,
}

impl Tide {
    /// A partition as the ledger leaves it. Records must be applied from [`Tide::begin_at`] on.
    pub fn new(partition: Partition, rules: Arc<Rules>, mark: Mark) -> Self {
        let position = mark.position(rules.epoch_bits);
        let current = Segment::new(mark.oldest_open(), rules.epoch_bits, &rules.views);
        let (judge, read) = (Judge::new(&rules), Judge::lookback(&rules, position));
        let (complete, counted_ms, event_ms, unwritten) = (VecDeque::new(), None, None, None);
        Self { partition, rules, judge, mark, position, read, complete, current, counted_ms, event_ms, unwritten }
    }

    /// A partition as a snapshot has it: the segments of all epochs from the mark to the one that `position` is in. Its
    /// judge must still be taught, by the records from [`Tide::begin_at`] on.
    pub fn resumed(partition: Partition, rules: Arc<Rules>, mark: Mark, position: NextOffset, mut segments: Vec<Segment>) -> Option<Self> {
        let consecutive = segments.iter().zip(mark.oldest_open().0..).all(|(segment, epoch)| segment.epoch().0 == epoch);
        let current = segments.pop()?;
        if !consecutive || current.epoch() != rules.epoch_bits.epoch_at(position) {
            return None;
        }
        segments.iter_mut().for_each(Segment::pack);
        let complete = segments.into_iter().map(Arc::new).collect();
        let read = Judge::lookback(&rules, position);
        Some(Self { position, read, complete, current, ..Self::new(partition, rules, mark) })
    }

    /// With the times that the snapshot's owner had come to.
    #[must_use]
    pub fn having_seen(self, head: &Head) -> Self {
        Self { counted_ms: head.counted_ms, event_ms: head.event_ms, ..self }
    }

    /// Notes from here on what changes, for snapshots; `written` if there is one that has all that is here.
    #[must_use]
    pub fn noting(mut self, written: bool) -> Self {
        self.current.note_changes();
        self.unwritten = Some(Unwritten { complete: Vec::new(), all: !written });
        self
    }

    /// The first record that is needed.
    pub fn begin_at(&self) -> NextOffset {
        self.read
    }

    pub fn waterline(&self) -> Waterline {
        Waterline { mark: self.mark, position: self.position }
    }

    /// True once the judge knows all that it must remember, and S means what it says.
    pub fn is_taught(&self) -> bool {
        self.read >= self.position
    }

    /// Counts records, in order. Those that have been applied before change nothing.
    pub fn apply(&mut self, records: &[Record<'_>]) {
        let fresh = &records[records.partition_point(|record| self.read.includes(record.offset))..];
        self.counted_ms = fresh.last().map(|record| record.timestamp_ms).or(self.counted_ms);
        for records in fresh.chunks(AT_ONCE) {
            // Built in its place: an event is too large to be moved for nothing.
            let examined: [Option<Examined<'_>>; AT_ONCE] =
                std::array::from_fn(|at| records.get(at).map(|record| self.judge.examine(record.payload, record.timestamp_ms)));
            self.count(records.iter().map(|record| record.offset).zip(examined.iter().flatten()));
        }
        self.event_ms = self.event_ms.min(self.counted_ms);
    }

    /// Judges and counts examined records, at most [`AT_ONCE`].
    fn count<'e>(&mut self, records: impl Iterator<Item = (Offset, &'e Examined<'e>)>) {
        let mut events: ArrayVec<(Offset, &Event<'_>), AT_ONCE> = ArrayVec::new();
        for (offset, examined) in records {
            let verdict = self.judge.judge(offset, examined);
            self.read = offset.next();
            if self.position.includes(offset) {
                continue;
            }
            let epoch = self.rules.epoch_bits.epoch_of(offset);
            if epoch != self.current.epoch() {
                self.current.count(&events);
                events.clear();
                self.turn_to(epoch);
            }
            match verdict {
                Verdict::Event(event) => {
                    self.event_ms = self.event_ms.max(Some(event.timestamp_ms));
                    events.push((offset, event));
                }
                Verdict::Duplicate => self.current.duplicate(),
                Verdict::DeadLetter(_) => self.current.dead_letter(),
            }
            self.position = offset.next();
        }
        self.current.count(&events);
    }

    /// Counts a record that the log no longer has, as history keeps it.
    pub fn recall(&mut self, record: &RawRecord) {
        if !self.read.includes(record.offset) {
            let examined = self.judge.examined(record.decoded(&self.rules.limits));
            self.count(std::iter::once((record.offset, &examined)));
        }
    }

    /// There is nothing but holes up to `next`.
    pub fn passed(&mut self, next: NextOffset) {
        self.read = self.read.max(next);
        if next > self.position {
            self.position = next;
            self.turn_to(self.rules.epoch_bits.epoch_at(next));
        }
    }

    #[cold]
    fn turn_to(&mut self, epoch: Epoch) {
        while self.current.epoch() < epoch {
            let next = Segment::new(self.current.epoch().next(), self.rules.epoch_bits, &self.rules.views);
            let mut complete = std::mem::replace(&mut self.current, next);
            let changes = complete.take_changes();
            complete.pack();
            let complete = Arc::new(complete);
            self.complete.push_back(Arc::clone(&complete));
            if let Some(unwritten) = &mut self.unwritten {
                self.current.note_changes();
                match changes {
                    Some(changes) => unwritten.complete.push((complete, changes)),
                    None => unwritten.all = true,
                }
            }
        }
    }

    /// The oldest open epoch, if both layers have passed its end: the one that may be closed.
    pub fn closable(&mut self, history: NextOffset) -> Option<Arc<Segment>> {
        let end = self.rules.epoch_bits.end_of(self.mark.oldest_open());
        if self.position < end || history < end {
            return None;
        }
        self.turn_to(self.rules.epoch_bits.epoch_at(self.position));
        self.complete.front().cloned()
    }

    /// The epoch is closed in the ledger: history answers for it from now on. Only the oldest can be.
    pub fn closed(&mut self, epoch: Epoch) {
        let oldest = self.mark.oldest_open();
        check!(
            I2,
            epoch == oldest && !self.complete.is_empty(),
            "partition {}: epoch {epoch} closed, but {oldest} is the oldest open one",
            self.partition
        );
        if epoch == oldest && self.complete.pop_front().is_some() {
            self.mark = self.mark.advanced();
            // What has been closed is nobody's to read from a snapshot.
            if let Some(unwritten) = &mut self.unwritten {
                unwritten.complete.retain(|(segment, _)| segment.epoch() > epoch);
            }
        }
    }

    /// What the next snapshot must hold: all that has changed since this was last asked, or, if that is more than `most`
    /// cells, everything.
    pub fn draft(&mut self, most: usize) -> Draft {
        let Some(unwritten) = &mut self.unwritten else { return Draft::Changes(Vec::new()) };
        let (complete, changes) = (std::mem::take(&mut unwritten.complete), self.current.take_changes());
        let Some(changes) = changes.filter(|_| !unwritten.all) else { return Draft::All(self.whole()) };
        if changes.len() + complete.iter().map(|(_, changes)| changes.len()).sum::<usize>() > most {
            return Draft::All(self.whole());
        }
        let mut cells = Vec::new();
        let mut gather = |of| cells.push(of);
        complete.iter().for_each(|(segment, changes)| segment.changed(changes, &mut gather));
        self.current.changed(&changes, &mut gather);
        Draft::Changes(cells)
    }

    /// All open cells. Changes are noted from here on.
    pub fn whole(&mut self) -> Whole {
        if let Some(unwritten) = &mut self.unwritten {
            *unwritten = Unwritten { complete: Vec::new(), all: false };
            self.current.take_changes();
        }
        let mut current = Vec::new();
        self.current.all(&mut |of| current.push(of));
        Whole { complete: self.complete.iter().map(Arc::clone).collect(), current }
    }

    /// What is said of the cells as they are now.
    pub fn head(&self, end: NextOffset) -> Head {
        let epoch = |segment: &Segment| OpenEpoch { tally: segment.tally(), fold: segment.fold() };
        Head {
            position: self.position,
            mark: self.mark,
            end,
            counted_ms: self.counted_ms,
            event_ms: self.event_ms,
            cells: self.segments().map(|segment| segment.cells() as u64).sum(),
            epochs: self.segments().map(epoch).collect(),
        }
    }

    /// Adds the open part of an answer that still changes; what is complete is given back, to be added without holding
    /// this up, with the line that all of it is exact at.
    pub fn answer(
        &self,
        view: ViewId,
        question: &Question,
        gathered: &mut Gathered,
    ) -> Result<(Waterline, Vec<Arc<Segment>>), BucketError> {
        self.current.answer(view, question, gathered)?;
        Ok((self.waterline(), self.complete.iter().map(Arc::clone).collect()))
    }

    pub fn counted_ms(&self) -> Option<i64> {
        self.counted_ms
    }

    pub fn event_ms(&self) -> Option<i64> {
        self.event_ms
    }

    /// What became of the records of the open epochs.
    pub fn tally(&self) -> Tally {
        let mut tally = Tally::default();
        self.segments().for_each(|segment| tally.merge(&segment.tally()));
        tally
    }

    pub fn open_epochs(&self) -> usize {
        self.complete.len() + 1
    }

    /// Cells of the open epochs, of all views.
    pub fn cells(&self) -> usize {
        self.segments().map(Segment::cells).sum()
    }

    /// The open epochs, oldest first.
    pub fn segments(&self) -> impl Iterator<Item = &Segment> {
        self.complete.iter().map(Arc::as_ref).chain(std::iter::once(&self.current))
    }
}
