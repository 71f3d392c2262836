//! The topic from where counting began, judged as both layers judge it (⇄).

use crate::recount::RecountError;
use std::collections::BTreeMap;
use std::time::Duration;
use tidemark_core::cell::Tally;
use tidemark_core::event::Event;
use tidemark_core::generation::Rules;
use tidemark_core::judge::{Examined, Judge, Verdict};
use tidemark_core::offset::{NextOffset, Offset, Partition};
use tidemark_history::rows::RawRecord;
use tidemark_topic::{Consumer, Happened};

const POLL: Duration = Duration::from_millis(200);

/// One partition, read from where counting began up to its cut.
#[derive(Debug)]
pub(crate) struct Way {
    judge: Judge,
    at: NextOffset,
    to: NextOffset,
    pub(crate) tally: Tally,
}

impl Way {
    pub(crate) fn new(rules: &Rules, from: NextOffset, to: NextOffset) -> Self {
        Self { judge: Judge::new(rules), at: from, to, tally: Tally::default() }
    }

    pub(crate) fn is_done(&self) -> bool {
        self.at >= self.to
    }

    pub(crate) fn at(&self) -> NextOffset {
        self.at
    }

    /// True of a record that comes next, and is below the cut.
    fn wants(&self, offset: Offset) -> bool {
        !self.at.includes(offset) && self.to.includes(offset)
    }

    fn take(&mut self, offset: Offset, examined: &Examined<'_>, count: &mut impl FnMut(Offset, &Event<'_>)) {
        self.passed(NextOffset::new(offset.get()));
        self.at = offset.next();
        match self.judge.judge(offset, examined) {
            Verdict::Event(event) => {
                self.tally.events += 1;
                count(offset, event);
            }
            Verdict::Duplicate => self.tally.duplicates += 1,
            Verdict::DeadLetter(_) => self.tally.dead_letters += 1,
        }
    }

    /// A record that the topic no longer has, as history keeps it.
    pub(crate) fn recall(&mut self, rules: &Rules, record: &RawRecord, count: &mut impl FnMut(Offset, &Event<'_>)) {
        if self.wants(record.offset) {
            let examined = self.judge.examined(record.decoded(&rules.limits));
            self.take(record.offset, &examined, count);
        }
    }

    /// There is nothing but holes up to `next`.
    pub(crate) fn passed(&mut self, next: NextOffset) {
        let next = next.min(self.to);
        if next > self.at {
            self.tally.holes += next.get() - self.at.get();
            self.at = next;
        }
    }
}

/// Reads each partition on from where it is, up to its cut. `count` gets the events, `progress` how many offsets have been
/// passed since it was last told. Blocks.
pub(crate) fn read(
    consumer: &mut impl Consumer,
    ways: &mut BTreeMap<Partition, Way>,
    mut count: impl FnMut(Partition, Offset, &Event<'_>),
    progress: impl Fn(u64),
) -> Result<(), RecountError> {
    while ways.values().any(|way| !way.is_done()) {
        let (mut assigned, mut short) = (Vec::new(), None);
        consumer.poll(POLL, |happened| match happened {
            Happened::Records { partition, records } => {
                let Some(way) = ways.get_mut(&partition) else { return };
                let before = way.at;
                for record in records {
                    if way.wants(record.offset) {
                        let examined = way.judge.examine(record.payload, record.timestamp_ms);
                        way.take(record.offset, &examined, &mut |offset, event| count(partition, offset, event));
                    }
                }
                progress(way.at.get() - before.get());
            }
            Happened::End { partition, next } => {
                let Some(way) = ways.get_mut(&partition) else { return };
                way.passed(next);
                short = (!way.is_done()).then_some(RecountError::Short { partition, end: next, cut: way.to }).or(short.take());
            }
            Happened::Assigned(partitions) => assigned.extend(partitions),
            Happened::Traced { .. } | Happened::Revoked(_) | Happened::Lost(_) => {}
        })?;
        if let Some(short) = short {
            return Err(short);
        }
        for partition in assigned {
            if let Some(way) = ways.get(&partition).filter(|way| !way.is_done()) {
                consumer.start(partition, way.at)?;
            }
        }
    }
    Ok(())
}
