//! Snapshots in Redis: every tick a partition's changed cells with its M and S, for serving nodes and the next owner.
//!
//! Nothing rests on them: an owner that cannot write counts on, and one that finds none reads the log.

use crate::run::Speed;
use crate::segment::Segment;
use crate::tide::{Draft, Tide, Whole};
use futures_util::stream::{self, StreamExt as _};
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidemark_core::cell::Cell;
use tidemark_core::epoch::{Epoch, Mark};
use tidemark_core::generation::Rules;
use tidemark_core::offset::{NextOffset, Partition};
use tidemark_core::view::ViewId;
use tidemark_snapshot::{Claim, Error, Found, Head, Store, WindowCells, Write, Written};

/// Cells of one write. More are written in pieces under a new name, for a script holds up all others.
const MOST_CELLS: usize = 20_000;

/// Partitions that are written at a time.
const AT_ONCE: usize = 8;

/// Before a partition is claimed again that somebody else has claimed: by then the group has told who owns it.
const CLAIM_AGAIN: Duration = Duration::from_secs(2);

/// A partition's way into Redis.
#[derive(Debug)]
pub struct Publication {
    standing: Standing,
    /// How many names this owner has given to cells.
    names: u32,
}

#[derive(Debug)]
enum Standing {
    /// Not owned in Redis yet, or not any more.
    Unclaimed { not_before: Option<Instant> },
    /// Owned, but what is there is not ours to go on with. It is replaced once this owner has counted as far.
    Owned { owner: String, reached: NextOffset },
    /// The snapshot has all that the tide's notes do not.
    Current { owner: String, name: String, number: u64, head: Head, unanswered: Option<Box<Write>> },
}

impl Default for Publication {
    fn default() -> Self {
        Self { standing: Standing::Unclaimed { not_before: None }, names: 0 }
    }
}

impl Publication {
    /// Goes on with a snapshot that has been taken over.
    fn resumed(owner: String, found: Found) -> Self {
        let Found { name, number, head } = found;
        Self { standing: Standing::Current { owner, name, number, head, unanswered: None }, names: 0 }
    }

    /// Brings Redis up to the tide.
    async fn tick(&mut self, store: &Store, speed: &Speed, partition: Partition, tide: &RwLock<Tide>) -> Result<(), Error> {
        match &mut self.standing {
            Standing::Unclaimed { not_before } => {
                if not_before.is_none_or(|at| Instant::now() >= at) {
                    let Claim { owner, found } = store.claim(partition).await?;
                    let reached = found.map_or(NextOffset::ZERO, |found| found.head.position);
                    self.standing = Standing::Owned { owner, reached };
                }
                Ok(())
            }
            Standing::Owned { owner, reached } => {
                let (head, whole) = {
                    let mut tide = tide.write();
                    if !tide.is_taught() || tide.waterline().position < *reached {
                        return Ok(());
                    }
                    (tide.head(speed.end(partition, tide.waterline())), tide.whole())
                };
                let owner = owner.clone();
                self.write_all(store, partition, owner, head, whole).await
            }
            Standing::Current { unanswered: Some(write), .. } => {
                let write = Write::clone(write);
                self.send(store, partition, write).await
            }
            Standing::Current { owner, name, number, head: before, unanswered: None } => {
                let (head, draft) = {
                    let mut tide = tide.write();
                    let line = tide.waterline();
                    let end = speed.end(partition, line);
                    // Two heads with these in common are the same: what is counted moves S.
                    if !tide.is_taught() || (line.position, line.mark, end) == (before.position, before.mark, before.end) {
                        return Ok(());
                    }
                    (tide.head(end), tide.draft(MOST_CELLS))
                };
                match draft {
                    Draft::Changes(cells) => {
                        let sweep = head.mark != before.mark;
                        let write = Write { owner: owner.clone(), name: name.clone(), number: *number + 1, cells, head: Some(head), sweep };
                        self.send(store, partition, write).await
                    }
                    Draft::All(whole) => {
                        let owner = owner.clone();
                        self.write_all(store, partition, owner, head, whole).await
                    }
                }
            }
        }
    }

    /// Sends a write of changes, and keeps it until it is known what became of it.
    async fn send(&mut self, store: &Store, partition: Partition, write: Write) -> Result<(), Error> {
        if let Standing::Current { unanswered, .. } = &mut self.standing {
            *unanswered = Some(Box::new(write.clone()));
        }
        let written = store.write(partition, &write).await?;
        self.answered(partition, write, written);
        Ok(())
    }

    /// Writes all cells under a new name, in pieces, and then the head that points to them.
    async fn write_all(&mut self, store: &Store, partition: Partition, owner: String, head: Head, whole: Whole) -> Result<(), Error> {
        // Until it is done there is nothing to go on with, whatever happens in between.
        self.standing = Standing::Owned { owner: owner.clone(), reached: NextOffset::ZERO };
        self.names += 1;
        let name = format!("{owner}.{}", self.names);
        let mut write = Write { owner, name, number: 1, cells: Vec::new(), head: None, sweep: false };
        let mut count = 0;
        for of in whole.complete.iter().flat_map(|segment| gathered(segment)).chain(whole.current) {
            count += of.len();
            write.cells.push(of);
            if count >= MOST_CELLS {
                count = 0;
                match store.write(partition, &write).await? {
                    Written::Done => write = Write { number: write.number + 1, cells: Vec::new(), ..write },
                    other => {
                        self.answered(partition, write, other);
                        return Ok(());
                    }
                }
            }
        }
        let write = Write { head: Some(head), sweep: true, ..write };
        let written = store.write(partition, &write).await?;
        self.answered(partition, write, written);
        Ok(())
    }

    /// Up to where Redis has all that has been counted.
    fn position(&self) -> Option<NextOffset> {
        match &self.standing {
            Standing::Current { head, .. } => Some(head.position),
            Standing::Unclaimed { .. } | Standing::Owned { .. } => None,
        }
    }

    fn answered(&mut self, partition: Partition, write: Write, written: Written) {
        let Write { owner, name, number, head, .. } = write;
        self.standing = match (written, head) {
            (Written::Done, Some(head)) => Standing::Current { owner, name, number, head, unanswered: None },
            (Written::Done, None) => return,
            (Written::Fenced, _) => {
                tracing::info!(%partition, "another process has claimed the snapshot");
                Standing::Unclaimed { not_before: Some(Instant::now() + CLAIM_AGAIN) }
            }
            (Written::Lost, _) => {
                tracing::warn!(%partition, "redis has lost writes of the snapshot: it is written again");
                Standing::Owned { owner, reached: NextOffset::ZERO }
            }
        };
    }
}

fn gathered(segment: &Segment) -> Vec<WindowCells> {
    let mut cells = Vec::new();
    segment.all(&mut |of| cells.push(of));
    cells
}

/// Takes a partition over, and what its former owner has counted, if that is whole and later than the mark of the ledger.
pub async fn take_over(store: &Store, rules: &Arc<Rules>, partition: Partition, mark: Mark) -> Result<Option<(Tide, Publication)>, Error> {
    let Claim { owner, found } = store.claim(partition).await?;
    let Some(found) = found else { return Ok(None) };
    let (first, position) = (mark.oldest_open(), found.head.position);
    if found.head.mark > mark || position < mark.position(rules.epoch_bits) {
        tracing::info!(%partition, "the snapshot ends at {position} and begins with epoch {}, the mark is {first}: too old to go on from", found.head.mark.oldest_open());
        return Ok(None);
    }
    let mut segments: BTreeMap<Epoch, Checked> = BTreeMap::new();
    for (epoch, open) in (found.head.mark.oldest_open().0..).map(Epoch).zip(&found.head.epochs) {
        let segment = Segment::restored(epoch, rules.epoch_bits, &rules.views, open.tally, open.fold);
        segments.insert(epoch, Checked { segment, sums: vec![Cell::EMPTY; rules.views.len()], sound: true });
    }
    let put = |epoch: Epoch, view: ViewId, window, values: &[&str], cell: &Cell| {
        if let Some(checked) = segments.get_mut(&epoch) {
            checked.sound &= checked.segment.put(view, window, values, cell);
            checked.sums[view.0].merge(cell);
        }
    };
    store.load(partition, &found, put).await?;
    if let Some(torn) = segments.values().find(|checked| !checked.is_whole()) {
        tracing::warn!(%partition, "the snapshot's cells of epoch {} are not those of its events: the log is read instead", torn.segment.epoch());
        return Ok(None);
    }
    let segments = segments.into_values().map(|checked| checked.segment).filter(|segment| segment.epoch() >= first).collect();
    let Some(tide) = Tide::resumed(partition, Arc::clone(rules), mark, position, segments) else {
        tracing::warn!(%partition, "the snapshot lacks epochs: the log is read instead");
        return Ok(None);
    };
    Ok(Some((tide.having_seen(&found.head).noting(true), Publication::resumed(owner, found))))
}

/// A segment from a snapshot, and what its cells add up to, view by view.
struct Checked {
    segment: Segment,
    sums: Vec<Cell>,
    sound: bool,
}

impl Checked {
    fn is_whole(&self) -> bool {
        let whole = |sum: &Cell| sum.count == self.segment.tally().events && sum.fold == self.segment.fold();
        self.sound && self.sums.iter().all(whole)
    }
}

/// Writes snapshots every tick, until told to stop.
pub async fn publish(speed: Arc<Speed>, store: Arc<Store>, tick: Duration) {
    let control = speed.control.part();
    let mut ticks = tokio::time::interval(tick);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    while !control.is_stopping() {
        ticks.tick().await;
        let began = Instant::now();
        let one = |(partition, owned): (Partition, crate::run::Owned)| {
            let (speed, store) = (&speed, &store);
            async move {
                let mut publication = owned.publication.lock().await;
                let outcome = publication.tick(store, speed, partition, &owned.tide).await;
                if let Some(position) = publication.position() {
                    speed.publishing.arrived(partition, position);
                }
                outcome
            }
        };
        let outcomes: Vec<Result<(), Error>> = stream::iter(speed.owned().into_iter().map(one)).buffer_unordered(AT_ONCE).collect().await;
        let failed = outcomes.into_iter().find_map(Result::err);
        speed.meters.ticked(began.elapsed(), failed.is_some());
        control.trouble(failed.map(|error| format!("snapshots are not written: {error}")));
    }
}
