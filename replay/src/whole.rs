//! The topic as if retention had removed nothing: what it no longer has comes from the raw history of another generation,
//! as records that decode to the same. And a bound to how fast it is read, so that those who must be fresh are not held up.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidemark_core::generation::Rules;
use tidemark_core::offset::{NextOffset, Offset, OffsetRange, Partition};
use tidemark_history::{History, Marks};
use tidemark_topic::{Committed, Consumer, Error, Extent, Happened, PartitionCount, Record, Waker};

/// Offsets that are taken from history at once.
const STEP: u64 = 1 << 15;

/// Before history is asked again for what it does not have yet.
const LOOK: Duration = Duration::from_millis(500);

/// What is to be waited no longer is slept through; for longer the partitions are paused, and polling goes on, for a group
/// wants its answers.
const NAP: Duration = Duration::from_millis(500);

/// How fast records may be read, by all who share it. Set from outside, at any time.
#[derive(Debug, Default)]
pub struct Throttle {
    /// Of the whole topic; 0 is no bound.
    per_second: AtomicU64,
    held: AtomicBool,
}

impl Throttle {
    /// So many records a second of the whole topic; 0 is no bound.
    pub fn allow(&self, per_second: u64) {
        self.per_second.store(per_second, Ordering::Relaxed);
    }

    /// Nothing is read while it is held.
    pub fn hold(&self, held: bool) {
        self.held.store(held, Ordering::Relaxed);
    }
}

/// Where what the topic no longer has comes from: the closed epochs of another generation.
#[derive(Debug)]
pub struct Source {
    pub history: Arc<dyn History>,
    pub rules: Arc<Rules>,
    /// Where that generation's counting began.
    pub begun: Marks,
    /// Everything that it has comes from there, though the topic may have it too.
    pub alone: bool,
}

impl Source {
    fn start(&self, partition: Partition) -> NextOffset {
        self.begun.get(&partition).map_or(NextOffset::ZERO, |mark| mark.position(self.rules.epoch_bits))
    }
}

/// A log that reaches as far back as a source does. Without one it is the log itself.
#[derive(Debug)]
pub struct WholeLog<C> {
    log: C,
    source: Option<Arc<Source>>,
    throttle: Arc<Throttle>,
    runtime: tokio::runtime::Handle,
    /// Of the topic.
    partitions: PartitionCount,
    owned: BTreeSet<Partition>,
    /// Partitions that are read from the source now, and from where on, in turn.
    behind: VecDeque<(Partition, NextOffset)>,
    /// Up to where the source may be read, as of the last look.
    closed: BTreeMap<Partition, NextOffset>,
    looked: Option<Instant>,
    /// By whom this is read.
    paused: BTreeSet<Partition>,
    /// By the throttle.
    stopped: bool,
    /// When what has been read is paid for.
    due: Instant,
}

impl<C: Consumer> WholeLog<C> {
    pub fn new(
        log: C,
        source: Option<Arc<Source>>,
        throttle: Arc<Throttle>,
        runtime: tokio::runtime::Handle,
        partitions: PartitionCount,
    ) -> Self {
        Self {
            log,
            source,
            throttle,
            runtime,
            partitions,
            owned: BTreeSet::new(),
            behind: VecDeque::new(),
            closed: BTreeMap::new(),
            looked: None,
            paused: BTreeSet::new(),
            stopped: false,
            due: Instant::now(),
        }
    }

    /// How long nothing is to be read.
    fn wait(&self) -> Duration {
        if self.throttle.held.load(Ordering::Relaxed) {
            return Duration::MAX;
        }
        match self.throttle.per_second.load(Ordering::Relaxed) {
            0 => Duration::ZERO,
            _ => self.due.saturating_duration_since(Instant::now()),
        }
    }

    /// So many records have been read: the next are due when they are paid for.
    fn pay(&mut self, records: u64) {
        let per_second = self.throttle.per_second.load(Ordering::Relaxed);
        if records == 0 || per_second == 0 {
            return;
        }
        let partitions = u32::try_from(self.owned.len()).unwrap_or(u32::MAX);
        #[expect(clippy::cast_precision_loss, reason = "a rate")]
        let ours = per_second as f64 * f64::from(partitions) / f64::from(self.partitions.get().max(1));
        #[expect(clippy::cast_precision_loss, reason = "a batch's length")]
        let takes = Duration::try_from_secs_f64(records as f64 / ours.max(0.01)).unwrap_or(Duration::MAX);
        self.due = self.due.max(Instant::now()).checked_add(takes).unwrap_or(self.due);
    }

    /// Stops the log's own reading, or lets it go on, as the throttle says.
    fn stop(&mut self, stopped: bool) -> Result<(), Error> {
        if self.stopped != stopped {
            let ours: Vec<Partition> = self.owned.difference(&self.paused).copied().collect();
            if stopped {
                self.log.pause(&ours)?;
            } else {
                self.log.resume(&ours)?;
            }
            self.stopped = stopped;
        }
        Ok(())
    }

    /// Where the log must be read from, rather than the source.
    fn handed_over(&mut self, source: &Source, partition: Partition) -> Result<NextOffset, Error> {
        let start = self.log.extent(partition)?.start;
        let closed = self.closed_up_to(source, partition)?;
        Ok(if source.alone { closed.max(start) } else { start })
    }

    /// Up to where the source's epochs are closed: above it, what it has may change. Asked again now and then.
    fn closed_up_to(&mut self, source: &Source, partition: Partition) -> Result<NextOffset, Error> {
        if self.looked.is_none_or(|at| at.elapsed() >= LOOK) {
            let marks = self.runtime.block_on(source.history.marks()).map_err(unavailable)?;
            self.closed = marks.into_iter().map(|(partition, mark)| (partition, mark.position(source.rules.epoch_bits))).collect();
            self.looked = Some(Instant::now());
        }
        Ok(self.closed.get(&partition).copied().unwrap_or_default())
    }

    /// Takes the next partition that is behind a step further. Records handed over; 0 if there is nothing to take now.
    fn step(&mut self, deliver: &mut impl FnMut(Happened<'_>)) -> Result<u64, Error> {
        let Some(source) = self.source.clone() else { return Ok(0) };
        for _ in 0..self.behind.len() {
            let Some((partition, at)) = self.behind.pop_front() else { break };
            if self.paused.contains(&partition) {
                self.behind.push_back((partition, at));
                continue;
            }
            let stepped = self.step_of(&source, partition, at, deliver);
            match stepped {
                Ok((at, 0)) => self.behind.extend(at.map(|at| (partition, at))),
                Ok((at, records)) => {
                    self.behind.extend(at.map(|at| (partition, at)));
                    return Ok(records);
                }
                Err(error) => {
                    self.behind.push_back((partition, at));
                    return Err(error);
                }
            }
        }
        Ok(0)
    }

    /// Where the partition is then, if it is still behind, and the records handed over.
    fn step_of(
        &mut self,
        source: &Source,
        partition: Partition,
        at: NextOffset,
        deliver: &mut impl FnMut(Happened<'_>),
    ) -> Result<(Option<NextOffset>, u64), Error> {
        let log_from = self.handed_over(source, partition)?;
        if at >= log_from {
            return match self.log.start(partition, at) {
                Ok(()) => {
                    if self.stopped {
                        self.log.pause(&[partition])?;
                    }
                    Ok((None, 0))
                }
                // Retention has been here meanwhile.
                Err(Error::OutOfRange { .. }) => Ok((Some(at), 0)),
                Err(error) => Err(error),
            };
        }
        let to = log_from.min(self.closed_up_to(source, partition)?).min(NextOffset::new(at.get().saturating_add(STEP)));
        let Some(range) = OffsetRange::new(at, to) else { return Ok((Some(at), 0)) };
        let rows = self.runtime.block_on(source.history.raw(partition, range)).map_err(unavailable)?;
        let rows: Vec<(Offset, (i64, Vec<u8>))> = rows.into_iter().map(|row| (row.offset, row.into_record())).collect();
        let records: Vec<Record<'_>> = rows
            .iter()
            .map(|(offset, (timestamp_ms, payload))| Record { offset: *offset, timestamp_ms: *timestamp_ms, payload: Some(payload) })
            .collect();
        if !records.is_empty() {
            deliver(Happened::Records { partition, records: &records });
        }
        Ok((Some(to), records.len() as u64))
    }
}

fn unavailable(error: tidemark_history::Error) -> Error {
    Error::Unavailable { broker: "the topic's past".into(), reason: error.to_string() }
}

impl<C: Consumer> Consumer for WholeLog<C> {
    fn poll(&mut self, max_wait: Duration, mut deliver: impl FnMut(Happened<'_>)) -> Result<usize, Error> {
        let wait = self.wait();
        if !wait.is_zero() && wait <= NAP {
            std::thread::sleep(wait.min(max_wait));
            return Ok(0);
        }
        let stopped = !wait.is_zero();
        self.stop(stopped)?;
        let stepped = if stopped { Ok(0) } else { self.step(&mut deliver) };
        // Whatever the source says, the group wants its answers.
        let max_wait = match &stepped {
            Ok(0) if stopped || !self.behind.is_empty() => max_wait.min(NAP),
            Ok(0) => max_wait,
            Ok(_) | Err(_) => Duration::ZERO,
        };
        let (mut read, owned, behind, paused) = (0, &mut self.owned, &mut self.behind, &mut self.paused);
        let polled = self.log.poll(max_wait, |happened| {
            match &happened {
                Happened::Records { records, .. } => read += records.len() as u64,
                Happened::Assigned(partitions) => owned.extend(partitions),
                Happened::Revoked(partitions) | Happened::Lost(partitions) => {
                    owned.retain(|partition| !partitions.contains(partition));
                    behind.retain(|(partition, _)| !partitions.contains(partition));
                    paused.retain(|partition| !partitions.contains(partition));
                }
                Happened::Traced { .. } | Happened::End { .. } => {}
            }
            deliver(happened);
        });
        let taken = *stepped.as_ref().unwrap_or(&0);
        self.pay(read + taken);
        stepped?;
        Ok(polled? + usize::from(taken > 0))
    }

    fn start(&mut self, partition: Partition, at: NextOffset) -> Result<(), Error> {
        self.behind.retain(|(behind, _)| *behind != partition);
        if let Some(source) = self.source.clone()
            && source.start(partition) <= at
            && at < self.handed_over(&source, partition)?
        {
            self.behind.push_back((partition, at));
            return Ok(());
        }
        self.log.start(partition, at)?;
        if self.stopped { self.log.pause(&[partition]) } else { Ok(()) }
    }

    fn release(&mut self, partitions: &[Partition]) -> Result<(), Error> {
        self.behind.retain(|(partition, _)| !partitions.contains(partition));
        self.paused.retain(|partition| !partitions.contains(partition));
        self.log.release(partitions)
    }

    fn pause(&mut self, partitions: &[Partition]) -> Result<(), Error> {
        self.paused.extend(partitions);
        self.log.pause(partitions)
    }

    fn resume(&mut self, partitions: &[Partition]) -> Result<(), Error> {
        self.paused.retain(|partition| !partitions.contains(partition));
        if self.stopped { Ok(()) } else { self.log.resume(partitions) }
    }

    fn committed(&mut self, partition: Partition) -> Result<Option<Committed>, Error> {
        self.log.committed(partition)
    }

    fn commit(&mut self, partition: Partition, committed: &Committed) -> Result<(), Error> {
        self.log.commit(partition, committed)
    }

    fn known_end(&self, partition: Partition) -> Option<NextOffset> {
        self.log.known_end(partition)
    }

    fn extent(&mut self, partition: Partition) -> Result<Extent, Error> {
        let extent = self.log.extent(partition)?;
        let start = self.source.as_ref().map_or(extent.start, |source| source.start(partition).min(extent.start));
        Ok(Extent { start, ..extent })
    }

    fn waker(&self) -> Waker {
        self.log.waker()
    }
}
