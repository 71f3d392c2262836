//! A repair is killed at any step, and the log has forgotten the records by the time another owner goes on: what was counted is
//! never lost, and never taken for holes.

use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::task::{Context, Poll, Waker};
use tidemark_core::epoch::{Epoch, EpochBits, Mark};
use tidemark_core::event::Limits;
use tidemark_core::generation::{Generation, Rules};
use tidemark_core::judge::Judge;
use tidemark_core::offset::{NextOffset, Offset, OffsetRange, Partition};
use tidemark_core::view::Views;
use tidemark_history::block::{Block, BlockBuilder};
use tidemark_history::ledger::{CLOSE_WITHIN_MS, Clock};
use tidemark_history::memory::MemoryHistory;
use tidemark_history::raw::recall;
use tidemark_history::{Error, History as _};
use tidemark_speed_layer::reconcile::{CloseError, Closing, Difference, REPAIR_SECS, Yard, close};
use tidemark_speed_layer::segment::Segment;
use tidemark_speed_layer::tide::Tide;
use tidemark_topic::Record;

const P: Partition = Partition(0);
const NOW: i64 = 1_795_564_800_000;
/// An epoch has four offsets; the last one is a dead letter.
const BITS: u8 = 2;

fn rules() -> Arc<Rules> {
    let views = Views::declare([("by_type", vec!["event_type"])]).expect("valid");
    let epoch_bits = EpochBits::new(BITS).expect("valid");
    Arc::new(Rules { generation: Generation(1), widens: None, epoch_bits, views, limits: Limits::default(), dedup: true })
}

fn payload(offset: u64) -> String {
    if offset == 3 { "{}".to_owned() } else { format!(r#"{{"event_type":"t{offset}","timestamp":{NOW},"order_amount":{offset}}}"#) }
}

fn block(rules: &Rules, offsets: std::ops::Range<u64>) -> Block {
    let (mut judge, mut block) = (Judge::new(rules), BlockBuilder::new(P, NextOffset::new(offsets.start)));
    for offset in offsets {
        let (payload, offset) = (payload(offset), Offset::new(offset));
        let examined = judge.examine(Some(payload.as_bytes()), NOW);
        let verdict = judge.judge(offset, &examined);
        block.push(offset, verdict, Some(payload.as_bytes()), NOW);
    }
    block.finish().0.expect("there are rows")
}

fn counted(rules: &Arc<Rules>) -> Arc<Segment> {
    let mut tide = Tide::new(P, Arc::clone(rules), Mark::START);
    for offset in 0..4 {
        tide.apply(&[Record { offset: Offset::new(offset), timestamp_ms: NOW, payload: Some(payload(offset).as_bytes()) }]);
    }
    tide.closable(NextOffset::new(4)).expect("the epoch is complete")
}

/// A clock that a waiter moves, and a log that can forget.
struct Here {
    rules: Arc<Rules>,
    now_ms: AtomicI64,
    forgotten: AtomicBool,
}

impl Clock for Here {
    fn now_ms(&self) -> i64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    async fn sleep_until(&self, at_ms: i64) {
        self.now_ms.fetch_max(at_ms, Ordering::Relaxed);
    }
}

impl Yard for Here {
    async fn confirm_log(&self) -> Result<(), CloseError> {
        Ok(())
    }

    async fn reread(&self, _: Partition, _: Epoch) -> Result<Vec<Block>, CloseError> {
        if self.forgotten.load(Ordering::Relaxed) {
            return Err(CloseError::Log("the log has forgotten the records".into()));
        }
        Ok(vec![block(&self.rules, 0..4)])
    }
}

/// Polls so many times, and lets what is on its way to history land meanwhile; the outcome, if it came to that.
fn polled<T>(history: &MemoryHistory, future: impl Future<Output = T>, times: usize) -> Option<T> {
    let (mut future, mut context) = (pin!(future), Context::from_waker(Waker::noop()));
    for _ in 0..times {
        if let Poll::Ready(outcome) = future.as_mut().poll(&mut context) {
            return Some(outcome);
        }
        if history.inserts() > 0 {
            history.step(0, false);
        }
    }
    None
}

fn done<T>(history: &MemoryHistory, future: impl Future<Output = T>) -> T {
    polled(history, future, 10_000).expect("it comes to an end")
}

/// Raw rows answer permanently as they are when their epoch closes, so by then they must say what was counted.
#[test]
fn a_raw_row_that_is_altered_before_its_epoch_closes_is_written_again() {
    let rules = rules();
    let segment = counted(&rules);
    let history = MemoryHistory::stepped(Arc::clone(&rules));
    let here = Here { rules: Arc::clone(&rules), now_ms: AtomicI64::new(NOW), forgotten: AtomicBool::new(false) };
    for rows in block(&rules, 0..4).inserts(&block(&rules, 0..4).part_keys()) {
        done(&history, history.insert(&rows, "whole")).expect("inserted");
    }
    history.alter_raw(P, Offset::new(1));
    let Ok(Closing::Repaired { difference, until_ms }) = done(&history, close(&here, &history, &rules, P, &segment)) else {
        panic!("an altered row passes for what was counted");
    };
    assert!(matches!(difference, Difference::RawCells { .. }), "{difference:?}");
    here.now_ms.store(until_ms, Ordering::Relaxed);
    assert!(matches!(done(&history, close(&here, &history, &rules, P, &segment)), Ok(Closing::Closed)));
    let sums = &done(&history, history.sums(P, Epoch(0)..Epoch(1))).expect("sums")[0];
    assert!(sums.rollups.iter().all(|rollup| rollup.held == rollup.counted), "{sums:?}");
}

#[test]
fn a_repair_that_is_killed_at_any_step_is_finished_without_the_log() {
    let rules = rules();
    let segment = counted(&rules);
    let (mut finished, mut staged, mut refused) = (0, 0, 0);
    for steps in 0.. {
        let history = MemoryHistory::stepped(Arc::clone(&rules));
        let here = Here { rules: Arc::clone(&rules), now_ms: AtomicI64::new(NOW), forgotten: AtomicBool::new(false) };
        // Half of the epoch was written.
        for rows in block(&rules, 0..2).inserts(&block(&rules, 0..2).part_keys()) {
            done(&history, history.insert(&rows, "half")).expect("inserted");
        }
        if polled(&history, close(&here, &history, &rules, P, &segment), steps).is_some() {
            break;
        }
        history.kill();
        here.forgotten.store(true, Ordering::Relaxed);
        here.now_ms.fetch_add(i64::from(REPAIR_SECS) * 1000 + CLOSE_WITHIN_MS, Ordering::Relaxed);
        let repairing = !done(&history, history.repairing()).expect("asked").is_empty();
        let mut tide = Tide::new(P, Arc::clone(&rules), Mark::START);
        let recalled = done(&history, recall(&history, &rules, P, NextOffset::ZERO, NextOffset::new(4), |record| tide.recall(record)));
        match recalled {
            Ok(()) => {
                tide.passed(NextOffset::new(4));
                let again = tide.closable(NextOffset::new(4)).expect("complete");
                // Before a repair is announced, nothing says that history is not the truth.
                let whole = (again.tally(), again.fold()) == (segment.tally(), segment.fold());
                assert_eq!(whole, repairing, "killed after {steps} steps: {:?}", again.tally());
                if repairing {
                    staged += 1;
                    // One look finds a difference and repairs it, another closes.
                    for _ in 0..3 {
                        let closing = done(&history, close(&here, &history, &rules, P, &again));
                        assert!(closing.is_ok(), "killed after {steps} steps: {closing:?}");
                        finished += u64::from(matches!(closing, Ok(Closing::Closed)));
                        here.now_ms.fetch_add(i64::from(REPAIR_SECS) * 1000, Ordering::Relaxed);
                    }
                    let range = OffsetRange::new(NextOffset::ZERO, NextOffset::new(4)).expect("not empty");
                    assert!(block(&rules, 0..4).is_whole_in(&done(&history, history.found(P, range)).expect("asked")));
                    assert!(done(&history, history.staged(P, range)).expect("asked").is_empty(), "nothing stays staged");
                }
            }
            Err(Error::Unfinished { found: 2, announced: 4, epoch: Epoch(0), .. }) => {
                assert!(repairing, "killed after {steps} steps");
                refused += 1;
            }
            Err(error) => panic!("killed after {steps} steps: {error}"),
        }
    }
    assert!(staged > 10 && finished >= staged && refused > 3, "the test is trivial: {staged} {finished} {refused}");
}
