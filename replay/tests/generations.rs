//! A topic of which retention has removed half is read whole, and two generations are compared, with the twins in memory.

use std::sync::Arc;
use std::time::Duration;
use tidemark_core::cell::Tally;
use tidemark_core::cut::Cut;
use tidemark_core::epoch::{Epoch, EpochBits};
use tidemark_core::event::Limits;
use tidemark_core::generation::{Generation, Rules};
use tidemark_core::judge::{Judge, Verdict};
use tidemark_core::offset::{NextOffset, Offset, Partition};
use tidemark_core::view::Views;
use tidemark_history::block::BlockBuilder;
use tidemark_history::ledger::{Entry, LedgerRow};
use tidemark_history::memory::MemoryHistory;
use tidemark_history::{History as _, Marks};
use tidemark_replay::compare::{Comparison, Side, compare};
use tidemark_replay::whole::{Source, Throttle, WholeLog};
use tidemark_topic::memory::MemoryLog;
use tidemark_topic::{Consumer, Happened, Membership, PartitionCount};

const P: Partition = Partition(0);
const NOW: i64 = 1_795_564_800_000;
const BITS: u8 = 3;
const WAIT: Duration = Duration::from_millis(10);

fn rules(generation: u32, bits: u8, views: &[(&str, &[&str])]) -> Arc<Rules> {
    let views = Views::declare(views.iter().map(|(name, dimensions)| (*name, dimensions.to_vec()))).expect("valid");
    let epoch_bits = EpochBits::new(bits).expect("valid");
    Arc::new(Rules { generation: Generation(generation), widens: None, epoch_bits, views, limits: Limits::default(), dedup: true })
}

fn first() -> Arc<Rules> {
    rules(1, BITS, &[("by_type", &["event_type"])])
}

/// Events, duplicates, dead letters and holes; the record at an offset, or `None` for a hole.
fn payload(offset: u64) -> Option<String> {
    match offset % 11 {
        3 => None,
        5 => Some("{\"event_type\":".to_owned()),
        n => {
            let id = if n == 7 { offset - 1 } else { offset };
            let (kind, at) = (offset % 3, NOW - 1_000_000 + 1_000 * i64::try_from(offset).expect("small"));
            Some(format!(
                r#"{{"event_type":"t{kind}","timestamp":{at},"event_id":"{id}","order_amount":{offset}.5,"product_id":"p \"{n}\""}}"#
            ))
        }
    }
}

fn log(offsets: u64) -> MemoryLog {
    let log = MemoryLog::new("events", 1);
    for offset in 0..offsets {
        match payload(offset) {
            Some(payload) => log.append(P, NOW, Some(payload.as_bytes())),
            None => log.append_hole(P),
        };
    }
    log
}

fn closed_row(rules: &Rules, epoch: Epoch) -> LedgerRow {
    let Rules { generation, .. } = *rules;
    LedgerRow { generation, partition: P, epoch, entry: Entry::Closed, tally: Tally::default(), fold: 0, at_ms: NOW }
}

/// A history of the offsets below `to`, its epochs below `closed` closed.
async fn history(rules: &Arc<Rules>, to: u64, closed: u64, payload: impl Fn(u64) -> Option<String>) -> MemoryHistory {
    let history = MemoryHistory::new(Arc::clone(rules));
    let (mut judge, mut block) = (Judge::new(rules), BlockBuilder::new(P, NextOffset::ZERO));
    for offset in 0..to {
        let Some(payload) = payload(offset) else { continue };
        let examined = judge.examine(Some(payload.as_bytes()), NOW);
        let verdict = judge.judge(Offset::new(offset), &examined);
        block.push(Offset::new(offset), verdict, Some(payload.as_bytes()), NOW);
    }
    block.skip_to(NextOffset::new(to));
    let block = block.finish().0.expect("there are rows");
    for rows in block.inserts(&block.part_keys()) {
        history.insert(&rows, "all").await.expect("inserted");
    }
    for epoch in (0..closed).map(Epoch) {
        history.record(&closed_row(rules, epoch), None).await.expect("recorded");
    }
    history
}

/// What a layer makes of a record: its offset and its verdict in words.
type Read = Vec<(u64, String)>;

fn judged(judge: &mut Judge, offset: Offset, payload: Option<&[u8]>, timestamp_ms: i64) -> (u64, String) {
    let examined = judge.examine(payload, timestamp_ms);
    let said = match judge.judge(offset, &examined) {
        Verdict::Event(event) => format!("{event:?}"),
        Verdict::Duplicate => "duplicate".to_owned(),
        Verdict::DeadLetter(reject) => reject.reason().to_owned(),
    };
    (offset.get(), said)
}

fn expected(rules: &Rules, to: u64) -> Read {
    let mut judge = Judge::new(rules);
    let record = |offset| Some((Offset::new(offset), payload(offset)?));
    (0..to).filter_map(record).map(|(offset, payload)| judged(&mut judge, offset, Some(payload.as_bytes()), NOW)).collect()
}

/// Reads from `from` on, up to `to` or until nothing comes any more.
fn read(log: &mut impl Consumer, rules: &Rules, from: u64, to: u64) -> Read {
    let (mut judge, mut read, mut silent, mut started) = (Judge::new(rules), Read::new(), 0, false);
    while silent < 20 && read.last().is_none_or(|(offset, _)| offset + 1 < to) {
        let mut assigned = false;
        let before = read.len();
        log.poll(WAIT, |happened| match happened {
            Happened::Assigned(_) => assigned = true,
            Happened::Records { records, .. } => {
                read.extend(records.iter().map(|record| judged(&mut judge, record.offset, record.payload, record.timestamp_ms)));
            }
            _ => {}
        })
        .expect("polled");
        if assigned && !std::mem::replace(&mut started, true) {
            log.start(P, NextOffset::new(from)).expect("started");
        }
        silent = if read.len() == before { silent + 1 } else { 0 };
    }
    read
}

/// A runtime for the source's calls, and the log as far back as the source reaches.
fn whole(
    log: &MemoryLog,
    history: MemoryHistory,
    alone: bool,
) -> (tokio::runtime::Runtime, Arc<Throttle>, WholeLog<tidemark_topic::memory::MemoryConsumer>) {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let source = Source { history: Arc::new(history), rules: first(), begun: Marks::new(), alone };
    let throttle = Arc::new(Throttle::default());
    let consumer = log.consumer(Membership::all());
    let whole = WholeLog::new(consumer, Some(Arc::new(source)), Arc::clone(&throttle), runtime.handle().clone(), PartitionCount::new(1));
    (runtime, throttle, whole)
}

#[test]
fn what_retention_has_removed_is_read_from_history_and_judged_as_before() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    for (removed, alone) in [(0, false), (1, false), (20, false), (40, false), (20, true)] {
        let log = log(60);
        let history = runtime.block_on(history(&first(), 48, 6, payload));
        log.truncate_front(P, NextOffset::new(removed));
        // Other epochs, and what has been read before is read again.
        for (bits, from) in [(BITS, 0), (5, 0), (2, 12)] {
            let rules = rules(2, bits, &[("by_type", &["event_type"])]);
            let (_runtime, _, mut whole) = whole(&log, history.clone(), alone);
            assert_eq!(whole.extent(P).expect("there").start, NextOffset::ZERO);
            let of = |read: Read| read.into_iter().filter(|(offset, _)| *offset >= from + 16 || from == 0).collect::<Read>();
            assert_eq!(of(read(&mut whole, &rules, from, 60)), of(expected(&rules, 60)), "removed {removed}, alone {alone}, bits {bits}");
        }
    }
}

/// Above its mark, what the source has may still change: it is waited for.
#[test]
fn the_source_is_read_no_further_than_its_mark() {
    let log = log(60);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let history = runtime.block_on(history(&first(), 48, 2, payload));
    log.truncate_front(P, NextOffset::new(40));
    let (_runtime, _, mut whole) = whole(&log, history.clone(), false);
    let before = read(&mut whole, &first(), 0, 60);
    assert_eq!(before, expected(&first(), 16));
    for epoch in (2..6).map(Epoch) {
        runtime.block_on(history.record(&closed_row(&first(), epoch), None)).expect("recorded");
    }
    std::thread::sleep(Duration::from_millis(600));
    let rest: Vec<u64> = read(&mut whole, &first(), 0, 60).into_iter().map(|(offset, _)| offset).collect();
    assert_eq!(rest, expected(&first(), 60).into_iter().map(|(offset, _)| offset).filter(|offset| *offset >= 16).collect::<Vec<_>>());
}

#[test]
fn nothing_is_read_while_the_throttle_holds() {
    let log = log(60);
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let history = runtime.block_on(history(&first(), 48, 6, payload));
    log.truncate_front(P, NextOffset::new(20));
    let (_runtime, throttle, mut whole) = whole(&log, history, false);
    throttle.hold(true);
    assert_eq!(read(&mut whole, &first(), 0, 60), []);
    throttle.hold(false);
    assert_eq!(read(&mut whole, &first(), 0, 60), expected(&first(), 60));
}

async fn compared(old: (&MemoryHistory, &Rules), new: (&MemoryHistory, &Rules), cut: u64) -> Comparison {
    let (old, new) = (Side { history: old.0, rules: old.1 }, Side { history: new.0, rules: new.1 });
    let mut done = (0, 0);
    let compared = compare(old, new, &Cut::from_iter([(P, NextOffset::new(cut))]), |now, all| done = (now, all)).await.expect("compared");
    assert_eq!(done.0, done.1, "all is done at last");
    compared
}

#[tokio::test]
async fn generations_of_equal_counts_are_equal_whatever_their_epochs() {
    let second = rules(2, 4, &[("by_product", &["event_type", "product_id"]), ("by_type", &["event_type"])]);
    for (closed, newly) in [(0, 0), (6, 3), (6, 0), (2, 3)] {
        let (old, new) = (history(&first(), 50, closed, payload).await, history(&second, 50, newly, payload).await);
        let comparison = compared((&old, &first()), (&new, &second), 50).await;
        assert!(comparison.is_equal(), "{comparison}");
        assert_eq!(comparison.only_new, ["by_product"]);
        let events = (0..50).filter_map(payload).filter(|payload| payload.len() > 20).count() as u64;
        let duplicates = (0..50).filter(|offset| offset % 11 == 7).count() as u64;
        assert_eq!((comparison.views.len(), comparison.views[0].events), (1, events - duplicates));
        assert_eq!(comparison.rows, (0..50).filter_map(payload).count() as u64);
    }
}

/// One event that differs is found in its cells, and in its row.
#[tokio::test]
async fn one_event_that_differs_is_found() {
    let other = |offset| if offset == 20 { payload(offset).map(|payload| payload.replace("t2", "t0")) } else { payload(offset) };
    for closed in [0, 6] {
        let (old, new) = (history(&first(), 50, closed, payload).await, history(&first(), 50, closed, other).await);
        // At an epoch's end the engine alone says whether cells are equal.
        let at_an_end = compared((&old, &first()), (&new, &first()), 48).await;
        assert_eq!((at_an_end.views[0].different, at_an_end.different_rows), (2, 1), "{at_an_end}");
        let comparison = compared((&old, &first()), (&new, &first()), 50).await;
        assert_eq!((comparison.views[0].different, comparison.different_rows), (2, 1), "{comparison}");
        assert_eq!(comparison.raw[0].offset, 20);
        assert!(!comparison.is_equal());
        // Beyond the cut nothing is compared.
        assert!(compared((&old, &first()), (&new, &first()), 20).await.is_equal());
    }
}
