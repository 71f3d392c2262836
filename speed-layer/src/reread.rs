//! Reading an epoch of the log again, to repair its history.

use crate::reconcile::{CloseError, Yard};
use crate::segment::Segment;
use crate::tide::Tide;
use std::cell::RefCell;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidemark_core::epoch::{Epoch, Mark};
use tidemark_core::generation::Rules;
use tidemark_core::judge::Judge;
use tidemark_core::offset::{NextOffset, OffsetRange, Partition};
use tidemark_history::History;
use tidemark_history::block::{Block, BlockBuilder};
use tidemark_history::ledger::{Clock, RealClock};
use tidemark_history::raw::recall;
use tidemark_topic::kafka::Admin;
use tidemark_topic::{Consumer, Error, Happened, Record};
use tokio::runtime::Handle;

/// Rows of a repair's insert.
const MAX_ROWS: u64 = 200_000;

/// A log that is silent for so long will not answer.
const PATIENCE: Duration = Duration::from_secs(30);

/// The real clock, and a consumer made for each repair.
#[derive(Debug)]
pub struct LogYard<F> {
    pub rules: Arc<Rules>,
    /// Has the ids of an epoch that the log has forgotten.
    pub history: Arc<dyn History>,
    /// Makes a consumer that gets every partition and belongs to no group.
    pub connect: Arc<F>,
    /// Knows which topic was counted. `None` of a log that cannot be replaced by another one.
    pub admin: Option<Admin>,
}

impl<F: Send + Sync> Clock for LogYard<F> {
    fn now_ms(&self) -> i64 {
        RealClock.now_ms()
    }

    fn sleep_until(&self, at_ms: i64) -> impl Future<Output = ()> + Send {
        RealClock.sleep_until(at_ms)
    }
}

impl<C: Consumer, F: Fn() -> Result<C, Error> + Send + Sync + 'static> Yard for LogYard<F> {
    async fn confirm_log(&self) -> Result<(), CloseError> {
        match &self.admin {
            Some(admin) => admin.describe().await.map(drop).map_err(CloseError::Unconfirmed),
            None => Ok(()),
        }
    }

    async fn reread(&self, partition: Partition, epoch: Epoch) -> Result<Vec<Block>, CloseError> {
        let range = self.rules.epoch_bits.range_of(epoch);
        let (rules, history, connect) = (Arc::clone(&self.rules), Arc::clone(&self.history), Arc::clone(&self.connect));
        let runtime = Handle::current();
        let read = tokio::task::spawn_blocking(move || read_blocks(connect()?, &*history, &runtime, &rules, partition, range)).await;
        match read {
            Ok(Ok(blocks)) => Ok(blocks),
            Ok(Err(error)) => Err(CloseError::Log(error.to_string())),
            Err(panic) => Err(CloseError::Log(panic.to_string())),
        }
    }
}

/// The rows of a range, judged as they were the first time. Blocks.
pub fn read_blocks(
    consumer: impl Consumer,
    history: &dyn History,
    runtime: &Handle,
    rules: &Rules,
    partition: Partition,
    range: OffsetRange,
) -> Result<Vec<Block>, Error> {
    let judge = RefCell::new(Judge::new(rules));
    let mut builder = BlockBuilder::new(partition, range.from());
    let mut blocks = Vec::new();
    let take_ids = |from, to| {
        let mut judge = judge.borrow_mut();
        let learned = recall(history, rules, partition, from, to, |record| {
            let examined = judge.examined(record.decoded(&rules.limits));
            judge.judge(record.offset, &examined);
        });
        runtime.block_on(learned).map_err(|error| Error::Unavailable { broker: "the topic's past".into(), reason: error.to_string() })
    };
    read(consumer, rules, partition, range, take_ids, |records| {
        let mut judge = judge.borrow_mut();
        for record in records {
            let examined = judge.examine(record.payload, record.timestamp_ms);
            let verdict = judge.judge(record.offset, &examined);
            if range.contains(record.offset) {
                builder.push(record.offset, verdict, record.payload, record.timestamp_ms);
                if builder.rows() >= MAX_ROWS {
                    let full = std::mem::replace(&mut builder, BlockBuilder::new(partition, range.to()));
                    let (block, next) = full.finish();
                    blocks.extend(block);
                    builder = next;
                }
            }
        }
    })?;
    builder.skip_to(range.to());
    blocks.extend(builder.finish().0);
    Ok(blocks)
}

/// An epoch's cells, counted as they were the first time. The log must have all that its duplicates can be of.
pub fn read_segment(consumer: impl Consumer, rules: &Arc<Rules>, partition: Partition, epoch: Epoch) -> Result<Arc<Segment>, Error> {
    let range = rules.epoch_bits.range_of(epoch);
    let mut tide = Tide::new(partition, Arc::clone(rules), Mark::at(epoch));
    let forgotten = |from, to| Err(Error::Refused { reason: format!("the log no longer has offsets {from} to {to}") });
    read(consumer, rules, partition, range, forgotten, |records| tide.apply(records))?;
    tide.passed(range.to());
    tide.closable(range.to()).ok_or_else(|| Error::Refused { reason: format!("epoch {epoch} is not complete") })
}

/// Hands over the records of a range and those before that its duplicates can be of. What of the latter the log has forgotten is
/// left to `take_forgotten`; of the range itself it must have forgotten nothing.
fn read(
    mut consumer: impl Consumer,
    rules: &Rules,
    partition: Partition,
    range: OffsetRange,
    mut take_forgotten: impl FnMut(NextOffset, NextOffset) -> Result<(), Error>,
    mut visit: impl FnMut(&[Record<'_>]),
) -> Result<(), Error> {
    let (mut reached, mut started) = (NextOffset::ZERO, false);
    let mut heard = Instant::now();
    while reached < range.to() {
        let mut ours = false;
        let happened = consumer.poll(Duration::from_millis(500), |happened| match happened {
            Happened::Assigned(partitions) => ours |= partitions.contains(&partition),
            Happened::End { partition: p, next } if p == partition => reached = reached.max(next),
            Happened::Records { partition: p, records } if p == partition => {
                reached = records.last().map_or(reached, |record| record.offset.next());
                visit(records);
            }
            _ => {}
        })?;
        if ours && !started {
            started = true;
            let (extent, lookback) = (consumer.extent(partition)?, Judge::lookback(rules, range.from()));
            if extent.start > range.from() {
                return Err(Error::OutOfRange { partition, wanted: range.from(), extent });
            }
            if extent.start > lookback {
                take_forgotten(lookback, extent.start)?;
            }
            consumer.start(partition, lookback.max(extent.start))?;
        }
        if happened > 0 {
            heard = Instant::now();
        } else if heard.elapsed() > PATIENCE {
            return Err(Error::Unavailable {
                broker: "the log".into(),
                reason: format!("nothing of {range} came for {} s", PATIENCE.as_secs()),
            });
        }
    }
    Ok(())
}
