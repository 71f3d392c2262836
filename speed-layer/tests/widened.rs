//! Epochs of a generation that shares raw events and roll-ups with one that has fewer views.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use tidemark_core::cut::Cut;
use tidemark_core::epoch::{Epoch, EpochBits, Mark};
use tidemark_core::event::Limits;
use tidemark_core::generation::{Generation, Rules, Widening};
use tidemark_core::judge::Judge;
use tidemark_core::offset::{NextOffset, Offset, OffsetRange, Partition};
use tidemark_core::question::Rows;
use tidemark_core::view::{ViewId, Views};
use tidemark_core::window::Level;
use tidemark_history::block::{Block, BlockBuilder};
use tidemark_history::ledger::Clock;
use tidemark_history::memory::MemoryHistory;
use tidemark_history::rows::RawKind;
use tidemark_history::{EpochCells, History as _};
use tidemark_speed_layer::reconcile::{CloseError, Closing, Difference, Yard, close};
use tidemark_speed_layer::segment::Segment;
use tidemark_speed_layer::tide::Tide;
use tidemark_topic::Record;

const P: Partition = Partition(0);
const NOW: i64 = 1_795_564_800_000;
const BITS: u8 = 2;
/// From here on an added view is filled as events come.
const SINCE: u64 = 8;
const BY_TYPE: ViewId = ViewId(0);
const BY_USER: ViewId = ViewId(1);

fn narrow() -> Arc<Rules> {
    let views = Views::declare([("by_type", vec!["event_type"])]).expect("valid");
    let epoch_bits = EpochBits::new(BITS).expect("valid");
    Arc::new(Rules { generation: Generation(1), widens: None, epoch_bits, views, limits: Limits::default(), dedup: true })
}

fn wide(narrow: &Arc<Rules>) -> Arc<Rules> {
    let views = Views::declare([("by_type", vec!["event_type"]), ("by_user", vec!["user_id"])]).expect("valid");
    let widens = Some(Widening { rules: Arc::clone(narrow), since: Cut::from_iter([(P, NextOffset::new(SINCE))]) });
    Arc::new(Rules { generation: Generation(2), widens, views, ..(**narrow).clone() })
}

fn payload(offset: u64) -> String {
    format!(r#"{{"event_type":"t{}","user_id":"u{}","timestamp":{NOW},"order_amount":{offset}.25}}"#, offset % 2, offset % 3)
}

fn block(rules: &Rules, range: OffsetRange) -> Block {
    let (mut judge, mut block) = (Judge::new(rules), BlockBuilder::new(P, range.from()));
    for offset in (range.from().get()..range.to().get()).map(Offset::new) {
        let payload = payload(offset.get());
        let examined = judge.examine(Some(payload.as_bytes()), NOW);
        let verdict = judge.judge(offset, &examined);
        block.push(offset, verdict, Some(payload.as_bytes()), NOW);
    }
    block.finish().0.expect("there are rows")
}

async fn write(history: &MemoryHistory, rules: &Rules, range: OffsetRange, token: &str) {
    let block = block(rules, range);
    for rows in block.inserts(&block.part_keys()) {
        history.insert(&rows, token).await.expect("inserted");
    }
}

struct Here {
    rules: Arc<Rules>,
    now_ms: AtomicI64,
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

    async fn reread(&self, _: Partition, epoch: Epoch) -> Result<Vec<Block>, CloseError> {
        Ok(vec![block(&self.rules, self.rules.epoch_bits.range_of(epoch))])
    }
}

/// One generation's layers, and its history.
struct Side {
    here: Here,
    history: MemoryHistory,
    segments: Vec<Arc<Segment>>,
}

impl Side {
    fn new(rules: &Arc<Rules>, history: MemoryHistory) -> Self {
        let mut tide = Tide::new(P, Arc::clone(rules), Mark::START);
        for offset in 0..16 {
            let payload = payload(offset);
            tide.apply(&[Record { offset: Offset::new(offset), timestamp_ms: NOW, payload: Some(payload.as_bytes()) }]);
        }
        let mut segments = Vec::new();
        while let Some(segment) = tide.closable(NextOffset::new(12)) {
            tide.closed(segment.epoch());
            segments.push(segment);
        }
        Self { here: Here { rules: Arc::clone(rules), now_ms: AtomicI64::new(NOW) }, history, segments }
    }

    async fn close(&self, epoch: usize) -> Result<Closing, CloseError> {
        close(&self.here, &self.history, &self.here.rules, P, &self.segments[epoch]).await
    }

    async fn closes(&self, epoch: usize) {
        assert_eq!(self.close(epoch).await.expect("no error"), Closing::Closed);
    }

    async fn cells(&self, view: ViewId, level: Level, epoch: u64) -> Rows {
        self.history.cells(EpochCells { view, level, partition: P, epoch: Epoch(epoch) }).await.expect("cells")
    }

    async fn mark(&self) -> Mark {
        self.history.marks().await.expect("marks").get(&P).copied().unwrap_or(Mark::START)
    }
}

/// Two epochs are written before the view is added, one after.
async fn both() -> (Side, Side) {
    let narrow = narrow();
    let (wide, history) = (wide(&narrow), MemoryHistory::new(Arc::clone(&narrow)));
    let range = |from, to| OffsetRange::new(NextOffset::new(from), NextOffset::new(to)).expect("not empty");
    write(&history, &narrow, range(0, SINCE), "first").await;
    let widened = history.widened(Arc::clone(&wide));
    write(&history, &narrow, range(SINCE, 12), "second").await;
    (Side::new(&narrow, history), Side::new(&wide, widened))
}

async fn users(side: &Side, epoch: u64) -> u64 {
    let mut counts = Vec::new();
    for level in Level::ALL {
        counts.push(side.cells(BY_USER, level, epoch).await.values().map(|cell| cell.count).sum::<u64>());
    }
    assert!(counts.iter().all(|count| *count == counts[0]), "levels differ: {counts:?}");
    counts[0]
}

#[tokio::test]
async fn an_added_view_is_filled_epoch_by_epoch_whoever_closes_first() {
    let (first, second) = both().await;
    first.closes(0).await;
    assert_eq!((users(&second, 0).await, users(&second, 2).await), (0, 4), "only what has come since is there");
    second.closes(0).await;
    // Not closed by the other yet.
    second.closes(1).await;
    second.closes(2).await;
    assert_eq!((second.mark().await, first.mark().await), (Mark::at(Epoch(3)), Mark::at(Epoch(1))));
    first.closes(1).await;
    first.closes(2).await;
    for epoch in 0..3 {
        assert_eq!(users(&second, epoch).await, 4);
    }
}

/// What another generation answers from is not touched: only the added view is written again.
#[tokio::test]
async fn an_added_view_that_is_wrong_is_filled_again_where_the_epoch_is_closed() {
    let (first, second) = both().await;
    first.closes(0).await;
    for token in ["somebody", "somebody else"] {
        second.history.fill(BY_USER, P, Epoch(0), token).await.expect("filled");
    }
    let by_type = first.cells(BY_TYPE, Level::FiveMinutes, 0).await;
    let Ok(Closing::Repaired { difference: Difference::Cells { view: BY_USER, .. }, until_ms }) = second.close(0).await else {
        panic!("it is wrong, and put right");
    };
    assert_eq!((users(&second, 0).await, first.cells(BY_TYPE, Level::FiveMinutes, 0).await), (4, by_type));
    second.here.now_ms.store(until_ms, Ordering::Relaxed);
    second.closes(0).await;
}

/// The same where nobody has closed the epoch: all of it is written again, and filled.
#[tokio::test]
async fn an_epoch_that_nobody_has_closed_is_written_again_and_its_added_view_is_filled() {
    let (first, second) = both().await;
    let range = second.here.rules.epoch_bits.range_of(Epoch(1));
    // A stalled insert lands twice.
    write(&first.history, &first.here.rules, range, "again").await;
    let Ok(Closing::Repaired { difference: Difference::Events { .. }, until_ms }) = second.close(1).await else {
        panic!("there are too many rows, and it is put right");
    };
    assert!(matches!(first.close(1).await, Ok(Closing::Waiting { .. })), "a repair of either is waited for by both");
    second.here.now_ms.store(until_ms, Ordering::Relaxed);
    first.here.now_ms.store(until_ms, Ordering::Relaxed);
    assert_eq!(users(&second, 1).await, 0, "the repair's rows are of before the view was added");
    second.closes(1).await;
    first.closes(1).await;
    assert_eq!(users(&second, 1).await, 4);
}

#[tokio::test]
async fn what_a_generation_has_closed_is_not_written_again_by_another() {
    let (first, second) = both().await;
    first.closes(0).await;
    let range = second.here.rules.epoch_bits.range_of(Epoch(0));
    write(&first.history, &first.here.rules, range, "again").await;
    let error = second.close(0).await.expect_err("raw rows differ");
    assert!(error.to_string().contains("generation 1 has closed it"), "{error}");
    let raw = second.history.raw(P, range).await.expect("raw");
    assert_eq!(raw.iter().filter(|record| matches!(record.kind, RawKind::Event(_))).count(), 8, "nothing has been deleted");
    assert_eq!(second.mark().await, Mark::START);
}
