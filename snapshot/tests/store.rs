//! The store on a real Redis: what is written is read, whoever is fenced writes nothing, and what is lost is noticed.

use std::collections::BTreeMap;
use tidemark_core::cell::Cell;
use tidemark_core::epoch::{Epoch, Mark};
use tidemark_core::generation::Generation;
use tidemark_core::offset::{NextOffset, Partition};
use tidemark_core::view::{ViewId, Views};
use tidemark_core::window::{TimeRange, WindowStart};
use tidemark_snapshot::{Claim, Error, Head, OpenEpoch, Server, Store, Tls, WindowCells, Write, Written};
use tidemark_tests::redis::Redis;

const P: Partition = Partition(3);
const BY_PRODUCT: ViewId = ViewId(1);

fn views() -> Views {
    Views::declare([("by_type", vec!["event_type"]), ("by_product", vec!["event_type", "product_id"])]).expect("valid")
}

fn store(redis: &Redis) -> Store {
    let server = Server { urls: vec![redis.url()], ..Server::default() };
    Store::new(&server, "tidemark", "events", Generation(1), views()).expect("valid")
}

/// A head at `position`, its oldest open epoch being `mark`, with so many epochs.
fn head(position: u64, mark: u64, epochs: usize) -> Head {
    Head {
        position: NextOffset::new(position),
        mark: Mark::at(Epoch(mark)),
        end: NextOffset::new(position),
        counted_ms: None,
        event_ms: None,
        cells: 0,
        epochs: vec![OpenEpoch::default(); epochs],
    }
}

/// A cell of so many events, in an epoch and a window.
fn cells(epoch: u64, window: i64, product: &str, count: u64) -> WindowCells {
    let mut cells = WindowCells::new(Epoch(epoch), BY_PRODUCT, WindowStart::containing(window * 300_000));
    cells.push(["a", product].into_iter(), &Cell::without_amounts(count, epoch));
    cells
}

fn write(claim: &Claim, name: &str, number: u64, cells: Vec<WindowCells>, head: Option<Head>) -> Write {
    Write { owner: claim.owner.clone(), name: name.into(), number, cells, head, sweep: false }
}

/// Counts by window and product, over all epochs.
async fn read(store: &Store, range: TimeRange) -> Option<(Head, BTreeMap<(i64, String), u64>)> {
    let mut counts = BTreeMap::new();
    let mut visit = |window: WindowStart, values: &[&str], cell: &Cell| {
        assert_eq!(values[0], "a");
        *counts.entry((window.ms() / 300_000, values[1].to_owned())).or_default() += cell.count;
    };
    let head = store.read(P, BY_PRODUCT, range, &mut visit).await.expect("read")?;
    Some((head, counts))
}

async fn counts(store: &Store) -> Vec<(i64, String, u64)> {
    let (_, counts) = read(store, TimeRange::default()).await.expect("there is a snapshot");
    counts.into_iter().map(|((window, product), count)| (window, product, count)).collect()
}

#[tokio::test]
async fn what_is_written_is_read_by_range_and_loaded_whole() {
    let redis = Redis::start();
    let store = store(&redis);
    assert_eq!((read(&store, TimeRange::default()).await, store.heads(4).await.expect("asked")), (None, vec![None; 4]));
    let claim = store.claim(P).await.expect("claimed");
    assert!(claim.found.is_none());
    let first = vec![cells(7, 1, "x", 1), cells(7, 2, "x", 2), cells(8, 2, "é:\0", 3)];
    assert_eq!(store.write(P, &write(&claim, "n", 1, first, Some(head(100, 7, 2)))).await.expect("asked"), Written::Done);
    assert_eq!(
        store.write(P, &write(&claim, "n", 2, vec![cells(7, 2, "x", 5)], Some(head(101, 7, 2)))).await.expect("asked"),
        Written::Done
    );
    let all = [(1, "x".into(), 1), (2, "x".into(), 5), (2, "é:\0".into(), 3)];
    assert_eq!(counts(&store).await, all);
    let range = TimeRange { from_ms: Some(600_000), to_ms: Some(900_000) };
    let (found, in_range) = read(&store, range).await.expect("there is a snapshot");
    assert_eq!((found.clone(), in_range.len()), (head(101, 7, 2), 2));
    assert_eq!(read(&store, TimeRange { to_ms: Some(600_000), ..range }).await.expect("there").1.len(), 0, "the end is not in a range");
    assert_eq!(store.heads(4).await.expect("asked")[3], Some(found));

    let next = store.claim(P).await.expect("claimed");
    let found = next.found.expect("there is a snapshot");
    assert_eq!((found.name.as_str(), found.number), ("n", 2));
    let mut loaded = Vec::new();
    let visit = |epoch: Epoch, view, window: WindowStart, values: &[&str], cell: &Cell| {
        assert_eq!((view, cell.fold), (BY_PRODUCT, epoch.0));
        loaded.push((window.ms() / 300_000, values[1].to_owned(), cell.count));
    };
    store.load(P, &found, visit).await.expect("loaded");
    loaded.sort();
    assert_eq!(loaded, all);
}

#[tokio::test]
async fn a_former_owner_writes_nothing() {
    let redis = Redis::start();
    let store = store(&redis);
    let former = store.claim(P).await.expect("claimed");
    store.write(P, &write(&former, "n", 1, vec![cells(0, 0, "x", 1)], Some(head(1, 0, 1)))).await.expect("written");
    let owner = store.claim(P).await.expect("claimed");
    let late = write(&former, "n", 2, vec![cells(0, 0, "x", 9)], Some(head(9, 0, 1)));
    assert_eq!(store.write(P, &late).await.expect("asked"), Written::Fenced);
    assert_eq!(counts(&store).await, [(0, "x".into(), 1)]);
    assert_eq!(store.write(P, &Write { owner: owner.owner, ..late.clone() }).await.expect("asked"), Written::Done);
    // Redis is emptied: the former owner is no more the owner than before.
    redis.ask(&["FLUSHALL"]);
    assert_eq!(store.write(P, &Write { number: 1, ..late }).await.expect("asked"), Written::Fenced);
}

#[tokio::test]
async fn a_write_is_done_once_and_one_that_is_missing_is_noticed() {
    let redis = Redis::start();
    let store = store(&redis);
    let claim = store.claim(P).await.expect("claimed");
    let first = write(&claim, "n", 1, vec![cells(0, 0, "x", 1)], Some(head(1, 0, 1)));
    let second = write(&claim, "n", 2, vec![cells(0, 0, "x", 2)], Some(head(2, 0, 1)));
    assert_eq!(store.write(P, &second).await.expect("asked"), Written::Lost, "the first is missing");
    assert_eq!(store.write(P, &first).await.expect("asked"), Written::Done);
    assert_eq!(store.write(P, &second).await.expect("asked"), Written::Done);
    assert_eq!(store.write(P, &second).await.expect("asked"), Written::Done, "sent again");
    assert_eq!(store.write(P, &first).await.expect("asked"), Written::Lost, "long since overtaken");
    assert_eq!(counts(&store).await, [(0, "x".into(), 2)]);
}

#[tokio::test]
async fn cells_under_a_new_name_appear_when_all_are_there_and_the_others_go() {
    let redis = Redis::start();
    let store = store(&redis);
    let claim = store.claim(P).await.expect("claimed");
    let old = vec![cells(0, 0, "x", 1), cells(1, 0, "x", 1), cells(1, 5, "old", 1)];
    store.write(P, &write(&claim, "old", 1, old, Some(head(9, 0, 2)))).await.expect("written");
    store.write(P, &write(&claim, "new", 1, vec![cells(1, 0, "x", 7)], None)).await.expect("written");
    assert_eq!(counts(&store).await.len(), 2, "the old ones are still shown");
    let last = Write { sweep: true, ..write(&claim, "new", 2, vec![cells(1, 1, "y", 8)], Some(head(20, 1, 1))) };
    assert_eq!(store.write(P, &last).await.expect("asked"), Written::Done);
    assert_eq!(counts(&store).await, [(0, "x".into(), 7), (1, "y".into(), 8)]);
    // The tag, the names and epochs, one set of windows, two windows.
    assert_eq!(redis.ask(&["DBSIZE"]), ":5");
    // The epoch is closed: its cells go, and the numbers go on.
    let closed = Write { sweep: true, ..write(&claim, "new", 3, vec![cells(2, 1, "z", 1)], Some(head(21, 2, 1))) };
    assert_eq!(store.write(P, &closed).await.expect("asked"), Written::Done);
    assert_eq!((counts(&store).await, redis.ask(&["DBSIZE"])), (vec![(1, "z".into(), 1)], ":4".into()));
}

#[tokio::test]
async fn what_is_forgotten_leaves_nothing() {
    let redis = Redis::start();
    let store = store(&redis);
    let claim = store.claim(P).await.expect("claimed");
    let first = write(&claim, "n", 1, vec![cells(0, 0, "x", 1), cells(1, 3, "y", 1)], Some(head(1, 0, 2)));
    store.write(P, &first).await.expect("written");
    store.forget(P).await.expect("forgotten");
    assert_eq!((read(&store, TimeRange::default()).await, redis.ask(&["DBSIZE"])), (None, ":0".into()));
    assert_eq!(store.write(P, &Write { number: 2, ..first }).await.expect("asked"), Written::Fenced);
}

#[tokio::test]
async fn many_cells_are_one_write() {
    let redis = Redis::start();
    let store = store(&redis);
    let claim = store.claim(P).await.expect("claimed");
    let mut many = WindowCells::new(Epoch(0), BY_PRODUCT, WindowStart::containing(0));
    (0..20_001).for_each(|n| many.push(["a", &n.to_string()].into_iter(), &Cell::without_amounts(n, 0)));
    store.write(P, &write(&claim, "n", 1, vec![many], Some(head(1, 0, 1)))).await.expect("written");
    let (_, counts) = read(&store, TimeRange::default()).await.expect("there is a snapshot");
    assert_eq!((counts.len(), counts[&(0, "20000".into())]), (20_001, 20_000));
}

#[tokio::test]
async fn a_redis_that_may_drop_keys_is_refused_with_a_sentence() {
    let redis = Redis::with_policy("allkeys-lru");
    let error = store(&redis).check().await.expect_err("refused");
    assert!(matches!(error, Error::Refused { .. }) && error.to_string().contains("maxmemory-policy noeviction"), "{error}");
}

#[tokio::test]
async fn a_redis_that_is_gone_is_unavailable_and_found_when_it_is_back() {
    let mut redis = Redis::start();
    let store = store(&redis);
    store.check().await.expect("it is there");
    redis.kill();
    assert!(matches!(store.check().await, Err(Error::Unavailable { .. })));
    redis.restart();
    store.check().await.expect("it is back");
    // The scripts are gone with it.
    store.claim(P).await.expect("claimed");
}

#[tokio::test]
async fn a_redis_is_spoken_to_over_tls_with_a_password() {
    let dir = tempfile::tempdir().expect("a directory");
    let redis = Redis::with_tls(dir.path(), "secret");
    let file = |name: &str| dir.path().join(name);
    let tls = Tls { authorities: Some(file("ca.crt")), identity: Some((file("own.crt"), file("own.key"))) };
    let urls = vec![redis.url().replace("redis://127.0.0.1", "rediss://localhost")];
    let server = Server { urls, password: Some("secret".into()), tls, ..Server::default() };
    let with = |server: &Server| Store::new(server, "tidemark", "events", Generation(1), views()).expect("valid");
    let store = with(&server);
    let claim = store.claim(P).await.expect("claimed");
    store.write(P, &write(&claim, "n", 1, vec![cells(0, 0, "x", 1)], Some(head(1, 0, 1)))).await.expect("written");
    assert_eq!(counts(&store).await, [(0, "x".into(), 1)]);
    let error = with(&Server { password: Some("guess".into()), ..server.clone() }).check().await.expect_err("refused");
    assert!(matches!(error, Error::Refused { .. }), "{error}");
    let error = with(&Server { tls: Tls::default(), ..server.clone() }).check().await.expect_err("nobody to trust");
    assert!(matches!(error, Error::Unavailable { .. }), "{error}");
    let by_url = Server { urls: vec!["redis://me:secret@127.0.0.1:1".into()], ..server };
    let error = with(&by_url).check().await.expect_err("nobody is there").to_string();
    let said = format!("{by_url:?}");
    assert!(![&said, &error].iter().any(|text| text.contains("secret")) && error.contains("redis://127.0.0.1:1"), "{said} {error}");
}
