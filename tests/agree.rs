//! The SQL and the Rust computation of a view agree, on generated events, through the real engine: cell by cell at every
//! level, and for whole questions.

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};
use std::cell::Cell as Counter;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use tidemark_core::cell::{Cell, Tally};
use tidemark_core::cut::Cut;
use tidemark_core::epoch::{Epoch, EpochBits, Mark};
use tidemark_core::event::Limits;
use tidemark_core::generation::{Generation, Rules, Widening};
use tidemark_core::judge::Judge;
use tidemark_core::offset::{NextOffset, Offset, OffsetRange, Partition};
use tidemark_core::question::{Groups, Question, RowKey, Rows};
use tidemark_core::view::{Dimension, ViewId, Views};
use tidemark_core::window::{Buckets, Level, Step, TimeRange, WINDOW_MS};
use tidemark_embedded::{DataDir, Embedded, EmbeddedOptions, EngineCommand};
use tidemark_history::block::BlockBuilder;
use tidemark_history::clickhouse::{Archive, ClickHouse, Server};
use tidemark_history::ledger::{CLOSE_WITHIN_MS, Entry, LedgerRow};
use tidemark_history::raw;
use tidemark_history::rows::{RawEvent, RawKind, RawRecord};
use tidemark_history::{EpochCells, Error, History as _, Marks, Wiped};
use tidemark_speed_layer::gathered::Gathered;
use tidemark_speed_layer::tide::Tide;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// 2026-11-24: the records' own timestamp.
const NOW: i64 = 1_795_564_800_000;
/// 2013-02-27: three days around the end of a month, and a change of the clock in some zone.
const FROM: i64 = 1_361_923_200_000;
const SPAN: i64 = 3 * 24 * 60 * 60 * 1000;
const BITS: u8 = 6;

fn payload() -> impl Strategy<Value = Option<String>> {
    let text =
        prop_oneof![Just("UA".to_owned()), Just("it's \\ \"x\"?".to_owned()), Just("漢字".to_owned()), Just(String::new()), "[a-c]{1,2}"];
    let amount = prop_oneof![
        Just("null".to_owned()),
        (-99_999i64..99_999).prop_map(|n| n.to_string()),
        Just("0.00005".to_owned()),
        Just("-99999999999999.99995".to_owned())
    ];
    let event = ("[A-D]", text, 0i64..SPAN, amount, 0u32..40).prop_map(|(kind, product, at, amount, id)| {
        let product = serde_json::Value::from(product);
        Some(format!(
            r#"{{"event_type":"{kind}","product_id":{product},"timestamp":{},"order_amount":{amount},"event_id":"{id}"}}"#,
            FROM + at
        ))
    });
    prop_oneof![8 => event, 1 => Just(Some("{}".to_owned())), 1 => Just(None)]
}

fn question() -> impl Strategy<Value = (ViewId, Question)> {
    let step = prop::sample::select(vec![Step::FiveMinutes, Step::QuarterHour, Step::Hour, Step::Day, Step::Week, Step::Total]);
    let zone = prop::sample::select(vec![None, Some("America/New_York"), Some("Asia/Kathmandu")]);
    let edge = || prop::option::of((0..SPAN / WINDOW_MS).prop_map(|n| FROM + n * WINDOW_MS));
    let group = prop::sample::select(vec![
        vec![],
        vec![Dimension::EventType],
        vec![Dimension::ProductId],
        vec![Dimension::ProductId, Dimension::EventType],
    ]);
    let filter = prop::option::of(prop::sample::select(vec!["UA", "it's \\ \"x\"?", ""]));
    (step, zone, edge(), edge(), group, filter).prop_map(|(step, zone, from_ms, to_ms, group_by, filter)| {
        let filters: BTreeMap<Dimension, Vec<String>> =
            filter.map(|value| (Dimension::ProductId, vec![value.to_owned()])).into_iter().collect();
        let wanted: Vec<Dimension> = group_by.iter().chain(filters.keys()).copied().collect();
        let view = rules().views.smallest_with(&wanted).expect("by_product has both");
        let (range, buckets) = (TimeRange { from_ms, to_ms }, Buckets::new(step, zone).expect("known zone"));
        (view, Question { range, buckets, group_by, filters, only_counts: false })
    })
}

fn rules() -> Rules {
    let views = Views::declare([("by_type", vec!["event_type"]), ("by_product", vec!["event_type", "product_id"])]).expect("valid");
    Rules {
        generation: Generation(1),
        widens: None,
        epoch_bits: EpochBits::new(BITS).expect("valid"),
        views,
        limits: Limits::default(),
        dedup: true,
    }
}

/// Feeds the same records to both layers' code.
fn both(partition: Partition, rules: &Arc<Rules>, records: &[Option<String>]) -> (Tide, BlockBuilder) {
    let mut tide = Tide::new(partition, Arc::clone(rules), Mark::START);
    let mut judge = Judge::new(rules);
    let mut block = BlockBuilder::new(partition, tide.begin_at());
    for (n, record) in records.iter().enumerate() {
        let (offset, payload) = (Offset::new(n as u64), record.as_ref().map(String::as_bytes));
        tide.apply(&[tidemark_topic::Record { offset, timestamp_ms: NOW, payload }]);
        block.push(offset, judge.judge(offset, &judge.examine(payload, NOW)), payload, NOW);
    }
    let end = rules.epoch_bits.end_of(Epoch(0));
    tide.passed(end);
    block.skip_to(end);
    (tide, block)
}

async fn check(history: &ClickHouse, partition: Partition, rules: &Arc<Rules>, records: &[Option<String>], asked: &(ViewId, Question)) {
    let (mut tide, block) = both(partition, rules, records);
    let block = block.finish().0.expect("the epoch is not empty");
    for rows in block.inserts(&block.part_keys()) {
        history.insert(&rows, &format!("agree/{partition}")).await.expect("inserted");
    }
    assert!(block.is_whole_in(&history.found(partition, block.range).await.expect("read back")));
    let segment = tide.closable(rules.epoch_bits.end_of(Epoch(0))).expect("complete");
    for view in rules.views.ids() {
        for level in Level::ALL {
            let sql = history.cells(EpochCells { view, level, partition, epoch: Epoch(0) }).await.expect("cells");
            assert_eq!(sql, segment.expected(view, level).rows(), "{view:?} {level:?}");
        }
        let (level, mut counted) = (Level::FiveMinutes, Rows::new());
        let mut keep = |bucket_ms, values: &[&str], cell: &Cell| {
            let values = values.iter().map(|value| Box::from(*value)).collect();
            counted.insert(RowKey { bucket_ms, values }, *cell);
        };
        history.visit_counted_cells(EpochCells { view, level, partition, epoch: Epoch(0) }, &mut keep).await.expect("cells of raw rows");
        assert_eq!(counted, segment.expected(view, level).rows(), "raw rows by {view:?}");
    }
    let (view, question) = asked;
    let answered = |question: &Question| {
        let mut gathered = Gathered::default();
        for segment in tide.answer(*view, question, &mut gathered).expect("on an edge").1 {
            segment.answer(*view, question, &mut gathered).expect("on an edge");
        }
        gathered.into_rows()
    };
    let ours = answered(question);
    let marks = Marks::from([(partition, Mark::START.advanced())]);
    assert_eq!(history.answer(*view, question, &Groups::All, &marks).await.expect("answered"), ours, "{question:?}");
    let counts = |rows: &Rows| rows.iter().map(|(key, cell)| (key.clone(), cell.count)).collect::<Vec<_>>();
    let only_counts = Question { only_counts: true, ..question.clone() };
    assert_eq!(counts(&history.answer(*view, &only_counts, &Groups::All, &marks).await.expect("answered")), counts(&ours), "{question:?}");
    assert_eq!(counts(&answered(&only_counts)), counts(&ours), "{question:?}");
    // Top lists, of this question and of three days of which two are not whole. Some groups are named that history has, and
    // one that it has not.
    let range = TimeRange { from_ms: Some(FROM + 7 * WINDOW_MS), to_ms: Some(FROM + SPAN - 5 * WINDOW_MS) };
    let days = Question { range, buckets: Buckets::new(Step::Day, None).expect("UTC"), ..question.clone() };
    for question in [question, &days] {
        let only_counts = Question { only_counts: true, ..question.clone() };
        let ours = answered(question);
        let absent = vec!["it's absent".into(); question.group_by.len()];
        let named = ours.keys().take(1).map(|key| key.values.clone()).chain(std::iter::once(absent)).collect();
        for largest in [Groups::Largest { n: 1, and: named }, Groups::Largest { n: 2, and: BTreeSet::new() }] {
            let mut expected = ours.clone();
            largest.keep(&mut expected);
            let cells = history.answer(*view, question, &largest, &marks).await.expect("answered");
            assert_eq!(cells, expected, "{largest:?} {question:?}");
            let found = history.answer(*view, &only_counts, &largest, &marks).await.expect("answered");
            assert_eq!(counts(&found), counts(&expected), "{largest:?} {question:?}");
        }
    }
    // Raw events, of which history knows nothing but the cut, say the same.
    let cut = Cut::from_iter([(partition, rules.epoch_bits.end_of(Epoch(0)))]);
    for by in [None, Some(*view)] {
        let raw = raw::answer(history, rules, by, question, &cut).await.expect("answered");
        assert_eq!((&raw.cut, &raw.rows), (&cut, &ours), "{by:?} {question:?}");
    }
    // What has been counted can be recalled from history, to the same cells.
    let mut recalled = Tide::new(partition, Arc::clone(rules), Mark::START);
    raw::recall(history, rules, partition, NextOffset::ZERO, block.range.to(), |record| recalled.recall(record)).await.expect("recalled");
    recalled.passed(block.range.to());
    let again = recalled.closable(block.range.to()).expect("complete");
    assert_eq!((again.tally(), again.fold()), (segment.tally(), segment.fold()));
    for view in rules.views.ids() {
        assert_eq!(again.expected(view, Level::FiveMinutes).rows(), segment.expected(view, Level::FiveMinutes).rows(), "{view:?}");
    }
}

async fn engine(dir: &Path) -> Embedded {
    let mut options = EmbeddedOptions::new(EngineCommand { program: env!("CARGO_BIN_EXE_tidemark").into(), args: vec!["__engine".into()] });
    options.other_kafka = Some(String::new());
    Embedded::start(DataDir::open(dir.join("data")).expect("free"), options).await.unwrap_or_else(|e| panic!("{e}"))
}

fn server(embedded: &Embedded, database: &str) -> Server {
    Server::at(embedded.runtime().clickhouse, database)
}

#[test]
fn sql_and_rust_compute_the_same_views() {
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let dir = tempfile::tempdir().expect("a directory");
    let embedded = runtime.block_on(engine(dir.path()));
    let rules = Arc::new(rules());
    let history = runtime.block_on(ClickHouse::open(&server(&embedded, "agree"), "agree", (*rules).clone())).expect("opened");
    let next = Counter::new(0);
    let mut runner = TestRunner::new(Config { cases: 60, failure_persistence: None, ..Config::default() });
    let cases = (prop::collection::vec(payload(), 1..=1 << BITS), question());
    let outcome = runner.run(&cases, |(records, question)| {
        let partition = Partition(next.replace(next.get() + 1));
        runtime.block_on(check(&history, partition, &rules, &records, &question));
        Ok(())
    });
    runtime.block_on(embedded.stop());
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
}

/// What the engine answers to a statement that no part of history makes.
async fn asked(embedded: &Embedded, statement: &str) -> String {
    let url = embedded.runtime().clickhouse;
    let (user, place) = url.trim_start_matches("http://").split_once('@').expect("the address has a password");
    let key = user.split_once(':').expect("a user and a password").1;
    let mut stream = TcpStream::connect(place).await.expect("listens");
    let head = format!(
        "POST / HTTP/1.1\r\nHost: engine\r\nX-ClickHouse-Key: {key}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
        statement.len()
    );
    stream.write_all((head + statement).as_bytes()).await.expect("taken");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("answered");
    assert!(answer.starts_with("HTTP/1.1 200"), "{statement}: {answer}");
    answer
}

/// The table of events as version 1 of the schema made it.
const EVENTS_1: &str = "CREATE TABLE old.events (
    partition UInt32 CODEC(ZSTD(1)),
    offset UInt64 CODEC(Delta, ZSTD(1)),
    epoch UInt64 ALIAS bitShiftRight(offset, 6),
    event_id String CODEC(ZSTD(1)),
    event_type LowCardinality(String),
    timestamp DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    product_id String CODEC(ZSTD(1)),
    user_id String CODEC(ZSTD(1)),
    order_amount Nullable(Decimal(18, 4)) CODEC(ZSTD(1)),
    properties Map(LowCardinality(String), String) CODEC(ZSTD(1)),
    INDEX by_offset (partition, offset) TYPE minmax GRANULARITY 1
) ENGINE = MergeTree PARTITION BY toYYYYMM(timestamp) ORDER BY (event_type, timestamp, product_id)
SETTINGS non_replicated_deduplication_window = 10000, replicated_deduplication_window = 10000";

#[tokio::test]
async fn a_history_of_the_first_version_is_taken_over() {
    let dir = tempfile::tempdir().expect("a directory");
    let embedded = engine(dir.path()).await;
    let row =
        "INSERT INTO old.events VALUES (7, 40, 'a-1', 'UA', '2013-02-27 10:00:00.250', 'EWR-IAH', 'N14228', -2.5, {'flight': '1545'})";
    for statement in ["CREATE DATABASE old", EVENTS_1, row] {
        asked(&embedded, statement).await;
    }
    let rules = Arc::new(rules());
    let open = async || ClickHouse::open(&server(&embedded, "old"), "agree", (*rules).clone()).await.expect("opened");
    open().await;
    let history = open().await;
    let codec = asked(&embedded, "SELECT compression_codec FROM system.columns WHERE database = 'old' AND name = 'user_id'").await;
    assert!(codec.contains("CODEC(ZSTD(3))"), "{codec}");

    let range = OffsetRange::new(NextOffset::new(40), NextOffset::new(41)).expect("not empty");
    let check_old = async || {
        let records = history.raw(Partition(7), range).await.expect("read");
        assert!(
            matches!(&records[..], [RawRecord { kind: RawKind::Event(RawEvent { event_id, user_id, .. }), .. }] if event_id == "a-1" && user_id == "N14228"),
            "{records:?}"
        );
    };
    check_old().await;
    // New rows go beside the old ones, and both into one part.
    let question = Question {
        range: TimeRange::default(),
        buckets: Buckets::new(Step::Hour, None).expect("no zone"),
        group_by: vec![Dimension::EventType],
        filters: BTreeMap::new(),
        only_counts: false,
    };
    let payload = |n| Some(format!(r#"{{"event_type":"UA","product_id":"EWR-IAH","timestamp":{},"event_id":"b-{n}"}}"#, FROM + n));
    check(&history, Partition(0), &rules, &(0..64).map(payload).collect::<Vec<_>>(), &(ViewId(0), question)).await;
    asked(&embedded, "OPTIMIZE TABLE old.events FINAL").await;
    let parts = asked(
        &embedded,
        "SELECT concat('parts: ', toString(count())) FROM system.parts WHERE active AND database = 'old' AND table = 'events'",
    )
    .await;
    assert!(parts.contains("parts: 1"), "{parts}");
    check_old().await;
    embedded.stop().await;
}

/// A view that is added later is filled by the engine to the same cells, once, however often it is told; what comes later
/// fills it by itself.
#[tokio::test]
async fn an_added_view_is_filled_to_the_same_cells() {
    let dir = tempfile::tempdir().expect("a directory");
    let embedded = engine(dir.path()).await;
    let archive = Archive::open(&server(&embedded, "widened"), "agree").await.expect("opened");
    let narrow = Arc::new(rules());
    archive.declare(&narrow).await.expect("declared");
    let history = archive.history(Arc::clone(&narrow)).await.expect("opened");
    let payload = |n: i64| {
        let (user, at) = (n % 7, FROM + n * 3_600_000);
        Some(format!(r#"{{"event_type":"UA","user_id":"it's {user}?","timestamp":{at},"event_id":"{n}","order_amount":{n}.5}}"#))
    };
    let records: Vec<Option<String>> = (0..64).map(payload).collect();
    let write = async |partition: u32| {
        let block = both(Partition(partition), &narrow, &records).1.finish().0.expect("the epoch is not empty");
        for rows in block.inserts(&block.part_keys()) {
            history.insert(&rows, &format!("widened/{partition}")).await.expect("inserted");
        }
    };
    write(0).await;
    let views = [("by_user", vec!["user_id"]), ("by_type", vec!["event_type"]), ("by_product", vec!["event_type", "product_id"])];
    let since = Cut::from_iter([(Partition(0), narrow.epoch_bits.end_of(Epoch(0)))]);
    let widens = Some(Widening { rules: Arc::clone(&narrow), since });
    let wide = Rules { generation: Generation(2), widens, views: Views::declare(views).expect("valid"), ..(*narrow).clone() };
    archive.declare(&wide).await.expect("declared");
    let known = archive.generations().await.expect("read").expect("there are two");
    let wide = Arc::clone(&known.get(Generation(2)).expect("it has been declared").rules);
    assert_eq!((wide.raw(), wide.kept().collect::<Vec<_>>()), (Generation(1), vec![ViewId(0)]));
    let widened = archive.history(Arc::clone(&wide)).await.expect("opened");
    write(1).await;
    for _ in 0..3 {
        widened.fill(ViewId(0), Partition(0), Epoch(0), "again and again").await.expect("filled");
    }
    let check = async |partition: u32| {
        let (mut tide, _) = both(Partition(partition), &wide, &records);
        let segment = tide.closable(wide.epoch_bits.end_of(Epoch(0))).expect("complete");
        for view in wide.views.ids() {
            for level in Level::ALL {
                let of = EpochCells { view, level, partition: Partition(partition), epoch: Epoch(0) };
                assert_eq!(widened.cells(of).await.expect("cells"), segment.expected(view, level).rows(), "{partition} {view:?} {level:?}");
            }
        }
    };
    check(0).await;
    check(1).await;
    // Deleted and filled again: the view that has been added, and nothing else.
    widened.wipe(Partition(0), Epoch(0), Wiped::AddedSince(Generation(1)), 60).await.expect("wiped");
    let of = |view| EpochCells { view: ViewId(view), level: Level::Hour, partition: Partition(0), epoch: Epoch(0) };
    assert!(widened.cells(of(0)).await.expect("cells").is_empty() && !widened.cells(of(1)).await.expect("cells").is_empty());
    widened.fill(ViewId(0), Partition(0), Epoch(0), "another").await.expect("filled");
    check(0).await;
    embedded.stop().await;
}

/// Two servers hold one history, and one lags behind. It answers nothing before it has all that is closed, not even when the
/// other server is gone and its own ledger, which lags as much, is the only one left to compare with. Then it answers alone.
#[tokio::test]
async fn a_replica_answers_only_when_it_has_all_that_is_closed() {
    let dirs = [tempfile::tempdir().expect("a directory"), tempfile::tempdir().expect("a directory")];
    let (first, second) = (engine(dirs[0].path()).await, engine(dirs[1].path()).await);
    let rules = Arc::new(rules());
    let open = async |urls: &[String]| {
        let server = Server { urls: urls.to_vec(), ..Server::at("", "replicas") };
        ClickHouse::open(&server, "agree", (*rules).clone()).await.expect("opened")
    };
    let urls = [first.runtime().clickhouse, second.runtime().clickhouse];
    let (ahead, behind, both) = (open(&urls[..1]).await, open(&urls[1..]).await, open(&urls).await);
    let payload = |n| Some(format!(r#"{{"event_type":"UA","product_id":"EWR-IAH","timestamp":{},"event_id":"{n}"}}"#, FROM + n));
    let records: Vec<Option<String>> = (0..64).map(payload).collect();
    let (mut tide, block) = crate::both(Partition(0), &rules, &records);
    let block = block.finish().0.expect("the epoch is not empty");
    let segment = tide.closable(rules.epoch_bits.end_of(Epoch(0))).expect("complete");
    let write_events = async |history: &ClickHouse| {
        for rows in block.inserts(&block.part_keys()) {
            history.insert(&rows, "replicas").await.expect("inserted");
        }
    };
    let write_ledger = async |history: &ClickHouse| {
        let (tally, fold) = (segment.tally(), segment.fold());
        let row = LedgerRow {
            generation: Generation(1),
            partition: Partition(0),
            epoch: Epoch(0),
            entry: Entry::Closed,
            tally,
            fold,
            at_ms: NOW,
        };
        history.record(&row, None).await.expect("recorded");
    };
    write_events(&ahead).await;
    write_ledger(&ahead).await;
    let question = Question {
        range: TimeRange::default(),
        buckets: Buckets::new(Step::Total, None).expect("no zone"),
        group_by: vec![],
        filters: BTreeMap::new(),
        only_counts: true,
    };
    let marks = Marks::from([(Partition(0), Mark::START.advanced())]);
    let count = async |history: &ClickHouse| {
        let rows = history.answer(ViewId(0), &question, &Groups::All, &marks).await;
        rows.map(|rows| rows.values().map(|cell| cell.count).sum::<u64>())
    };
    assert_eq!(count(&behind).await.expect("answered"), 0, "what it would say");
    for _ in 0..4 {
        assert_eq!(count(&both).await.expect("answered"), 64);
    }
    first.stop().await;
    let raw = async |history: &ClickHouse| {
        let cut = Cut::from_iter([(Partition(0), rules.epoch_bits.end_of(Epoch(0)))]);
        let rows = history.answer_raw(&question, raw::Epochs::All, &marks, &cut).await;
        rows.map(|rows| rows.values().map(|cell| cell.count).sum::<u64>())
    };
    let is_refused = |answer: Result<u64, Error>| matches!(answer, Err(Error::Unavailable { .. }));
    for _ in 0..4 {
        assert!(is_refused(count(&both).await), "nothing of the epoch has arrived");
        assert!(is_refused(raw(&both).await), "nothing of the epoch has arrived");
    }
    write_ledger(&behind).await;
    assert!(is_refused(count(&both).await), "the ledger has arrived, and no cells");
    // A row of the ledger may be there twice.
    write_ledger(&behind).await;
    write_events(&behind).await;
    for _ in 0..4 {
        assert_eq!(count(&both).await.expect("answered"), 64);
        assert_eq!(raw(&both).await.expect("answered"), 64);
    }
    second.stop().await;
}

/// The end of a repair that a clock of the future announces would be an hour away for all others.
#[tokio::test]
async fn a_process_whose_clock_is_ahead_writes_nothing_into_the_ledger() {
    let dir = tempfile::tempdir().expect("a directory");
    let embedded = engine(dir.path()).await;
    let history = ClickHouse::open(&server(&embedded, "clocks"), "agree", rules()).await.expect("opened");
    let now_ms = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis()).expect("an i64");
    let record = async |entry, at_ms, until_ms| {
        let (generation, partition, epoch) = (Generation(1), Partition(0), Epoch(0));
        history.record(&LedgerRow { generation, partition, epoch, entry, tally: Tally::default(), fold: 0, at_ms }, until_ms).await
    };
    let ahead_ms = now_ms + 3_600_000;
    let repair = Entry::Repair { deadline_ms: ahead_ms + 60_000 };
    for (entry, until_ms) in [(repair, None), (Entry::Closed, Some(ahead_ms + CLOSE_WITHIN_MS))] {
        let refused = record(entry, ahead_ms, until_ms).await.expect_err("refused").to_string();
        assert!(refused.contains("the clock of this process is ahead"), "{refused}");
    }
    assert_eq!(history.ledger(Partition(0), Epoch(0)).await.expect("answered"), []);
    record(Entry::Closed, now_ms, Some(now_ms + 60_000)).await.expect("recorded");
    assert_eq!(history.ledger(Partition(0), Epoch(0)).await.expect("answered").len(), 1);
    embedded.stop().await;
}
