//! The real ClickHouse engine as a child process, through the official client crate.

#![expect(clippy::unwrap_used, reason = "a test may panic, and says where")]

mod support;

use std::time::Instant;

use clickhouse::{Client, Compression, Row, error::Error};
use support::{TestEngine, engines, eventually, kill, pid_when_ready, rss_mib};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

#[derive(Debug, Clone, PartialEq, Row, serde::Serialize, serde::Deserialize)]
struct Event {
    event_type: String,
    offset: u64,
    amount: Option<i64>,
}

fn event(offset: u64) -> Event {
    let event_type = ["view", "click", "purchase"][usize::try_from(offset % 3).unwrap()].to_owned();
    Event { event_type, offset, amount: offset.is_multiple_of(2).then_some(-7) }
}

async fn schema(client: &Client) -> Client {
    for statement in [
        "CREATE DATABASE t",
        "CREATE TABLE t.events (event_type LowCardinality(String), offset UInt64, amount Nullable(Int64)) ENGINE = MergeTree ORDER BY offset",
        "CREATE TABLE t.counts (event_type LowCardinality(String), count SimpleAggregateFunction(sum, UInt64)) ENGINE = AggregatingMergeTree ORDER BY event_type",
        "CREATE MATERIALIZED VIEW t.counts_mv TO t.counts AS SELECT event_type, count() AS count FROM t.events GROUP BY event_type",
    ] {
        client.query(statement).execute().await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    client.clone().with_database("t")
}

async fn insert(client: &Client, offsets: std::ops::Range<u64>) {
    let mut insert = client.insert::<Event>("events").await.unwrap();
    for offset in offsets {
        insert.write(&event(offset)).await.unwrap();
    }
    insert.end().await.unwrap();
}

/// Rows in the table, and rows counted by its view.
async fn count(client: &Client) -> (u64, u64) {
    let rows = client.query("SELECT count() FROM events").fetch_one();
    let counted = client.query("SELECT sum(count) FROM counts").fetch_one();
    tokio::try_join!(rows, counted).unwrap()
}

#[tokio::test]
async fn rows_go_in_and_come_out_and_the_views_follow() {
    let dir = tempfile::tempdir().unwrap();
    let engine = TestEngine::start(dir.path()).await;
    let client = schema(&engine.client()).await;

    insert(&client, 0..1000).await;
    insert(&client.clone().with_compression(Compression::Lz4), 1000..2000).await;
    assert_eq!(count(&client).await, (2000, 2000));
    assert_eq!(count(&client.clone().with_compression(Compression::Lz4)).await, (2000, 2000));

    let rows: Vec<Event> = client
        .query("SELECT ?fields FROM events WHERE event_type = {kind:String} ORDER BY offset LIMIT {n:UInt32}")
        .param("kind", "click")
        .param("n", 2)
        .fetch_all()
        .await
        .unwrap();
    assert_eq!(rows, [event(1), event(4)]);

    for text in ["a'b\\c\nd\te \u{e9} \u{1f600}", "", "--X\r\n\r\n"] {
        let back: String = client.query("SELECT {s:String}").param("s", text).fetch_one().await.unwrap();
        assert_eq!(back, text);
    }

    let mut formatted = client.insert_formatted_with("INSERT INTO events FORMAT JSONEachRow");
    formatted.send("{\"event_type\":\"view\",\"offset\":5000}\n".into()).await.unwrap();
    formatted.end().await.unwrap();
    let mut lines = client.query("SELECT * FROM events WHERE offset = 5000").fetch_bytes("JSONEachRow").unwrap();
    let line = lines.collect().await.unwrap();
    assert_eq!(line, "{\"event_type\":\"view\",\"offset\":5000,\"amount\":null}\n");
    engine.supervisor.stop().await;
}

#[tokio::test]
async fn the_same_deduplication_token_counts_once() {
    let dir = tempfile::tempdir().unwrap();
    let engine = TestEngine::start(dir.path()).await;
    let client = schema(&engine.client()).await;
    for table in ["events", "counts"] {
        let statement = format!("ALTER TABLE {table} MODIFY SETTING non_replicated_deduplication_window = 1000");
        client.query(&statement).execute().await.unwrap();
    }
    let once = client
        .clone()
        .with_setting("insert_deduplication_token", "events-0-0-1000-1")
        .with_setting("deduplicate_blocks_in_dependent_materialized_views", "1");
    insert(&once, 0..1000).await;
    insert(&once, 0..1000).await;
    assert_eq!(count(&client).await, (1000, 1000));
}

/// What the engine says to a request made by hand: status, exception code, body.
async fn raw(port: u16, request: &str) -> (u16, Option<u32>, String) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let code = head.lines().find_map(|line| line.strip_prefix("x-clickhouse-exception-code: ")?.parse().ok());
    (head[9..12].parse().unwrap(), code, body.to_owned())
}

async fn get(port: u16, target: &str) -> (u16, Option<u32>, String) {
    raw(port, &format!("GET {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")).await
}

async fn post(port: u16, target: &str, body: &str) -> (u16, Option<u32>, String) {
    let length = body.len();
    let request = format!("POST {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
    raw(port, &request).await
}

#[tokio::test]
async fn errors_carry_code_and_status_and_nothing_leaves_the_gate() {
    let dir = tempfile::tempdir().unwrap();
    let engine = TestEngine::start(dir.path()).await;
    let client = schema(&engine.client()).await;
    insert(&client, 0..10).await;
    let port = engine.port;
    let out = dir.path().join("out.csv");
    let outfile = format!("SELECT 1 INTO OUTFILE '{}'", out.display());

    assert_eq!(get(port, "/ping").await, (200, None, "Ok.\n".to_owned()));
    assert_eq!(get(port, "/?query=SELECT%201").await.2, "1\n");
    for (target, sql, status, code) in [
        ("/", "SELECT * FROM nope", 404, 60),
        ("/?database=nope", "SELECT 1", 404, 81),
        ("/", "SELEC 1", 400, 62),
        ("/", "SELECT throwIf(1)", 500, 395),
        ("/?max_treads=1", "SELECT 1", 400, 115),
        ("/?config-file=/etc/passwd", "SELECT 1", 400, 115),
        ("/?max_threads=many", "SELECT 1", 400, 36),
        ("/", "SELECT 1; SELECT 2", 400, 392),
        ("/", "SELECT 1; DROP TABLE t.events", 400, 392),
        ("/", &outfile, 403, 164),
        ("/", "SELECT * FROM file('/etc/passwd', 'LineAsString')", 403, 497),
        ("/", "SELECT * FROM url('http://127.0.0.1:1/', 'LineAsString', 'a String')", 403, 497),
        ("/", "SELECT * FROM remote('127.0.0.1', 'system.one')", 403, 497),
        ("/", "INSERT INTO FUNCTION file('x.csv', 'CSV', 'a UInt8') VALUES (1)", 403, 164),
        ("/", "INSERT INTO t.events SELECT 'a', 1, 1 FROM file('/etc/passwd', 'LineAsString')", 403, 497),
        ("/", "CREATE TABLE t.f (x String) ENGINE = File('CSV')", 403, 497),
        ("/", "CREATE TABLE t.u (x String) ENGINE = URL('http://127.0.0.1:1/', 'CSV')", 403, 497),
        ("/", "CREATE DATABASE d ENGINE = Filesystem('/etc')", 403, 497),
        ("/", "CREATE USER u", 403, 164),
        ("/", "CREATE FUNCTION f AS (x) -> x", 403, 164),
        ("/", "SET max_threads = 1", 403, 164),
        ("/?readonly=1", "DROP TABLE t.events", 403, 164),
        ("/?readonly=2", "INSERT INTO t.events VALUES ('a', 1, 1)", 403, 164),
        ("/?readonly=2", "SELECT 1 SETTINGS readonly = 0", 403, 164),
    ] {
        let (got, got_code, text) = post(port, target, sql).await;
        assert_eq!((got, got_code), (status, Some(code)), "{target} {sql}: {text}");
    }
    for sql in ["SYSTEM%20STOP%20MERGES", "INSERT%20INTO%20t.events%20VALUES(%27a%27,1,1)", "DROP%20TABLE%20t.events"] {
        let (status, code, text) = get(port, &format!("/?query={sql}")).await;
        assert_eq!((status, code), (403, Some(164)), "{sql}: {text}");
    }
    assert_eq!(post(port, "/", "SYSTEM STOP MERGES t.events").await.0, 200);
    assert!(!out.exists());
    assert_eq!(count(&client).await, (10, 10));

    let error = client.query("SELECT * FROM nope").fetch_one::<u8>().await.unwrap_err();
    assert!(matches!(&error, Error::BadResponse(text) if text.contains("Code: 60")), "{error}");
}

/// The function `file` asks for no right; the kernel stops it.
#[tokio::test]
async fn the_engine_opens_no_file_that_is_not_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let secret = tempfile::tempdir().unwrap();
    let path = secret.path().join("secret");
    std::fs::write(&path, "a secret").unwrap();
    let engine = TestEngine::start(dir.path()).await;
    for sql in [
        format!("SELECT file('{}')", path.display()),
        format!("SELECT * APPLY `fil\\x65` FROM (SELECT '{}')", path.display()),
        format!("SELECT file('/proc/{}/environ')", std::process::id()),
        format!("SELECT 1 SETTINGS additional_result_filter = 'file(''{}'') != '''''", path.display()),
    ] {
        let (status, code, text) = post(engine.port, "/", &sql).await;
        assert_eq!((status, code), (500, Some(76)), "{sql}: {text}");
    }
}

#[tokio::test]
async fn an_insert_cut_off_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let engine = TestEngine::start(dir.path()).await;
    let client = schema(&engine.client()).await;

    // Dropped in the middle, by the client crate.
    let mut cut = client.insert::<Event>("events").await.unwrap();
    for offset in 0..100_000 {
        cut.write(&event(offset)).await.unwrap();
    }
    drop(cut);
    // Cut in the middle of a chunk, by hand; whole rows have been sent.
    let mut stream = TcpStream::connect(("127.0.0.1", engine.port)).await.unwrap();
    let head = "POST /?query=INSERT+INTO+t.events+FORMAT+JSONEachRow HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all("{\"event_type\":\"a\",\"offset\":1}\n".repeat(100).as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    let _ = stream.read_to_string(&mut answer).await;
    assert!(!answer.starts_with("HTTP/1.1 200"), "{answer}");

    // What comes later is served, and a stop waits for all that runs: nothing can still be on its way.
    insert(&client, 0..10).await;
    engine.supervisor.stop().await;
    let engine = TestEngine::start(dir.path()).await;
    assert_eq!(count(&engine.client().with_database("t")).await, (10, 10));
}

#[tokio::test]
async fn data_outlives_a_restart_and_a_kill() {
    let dir = tempfile::tempdir().unwrap();
    let engine = TestEngine::start(dir.path()).await;
    let client = schema(&engine.client()).await;
    insert(&client, 0..1000).await;
    engine.supervisor.stop().await;

    let engine = TestEngine::start(dir.path()).await;
    let client = engine.client().with_database("t");
    assert_eq!(count(&client).await, (1000, 1000));
    insert(&client, 1000..2000).await;

    let pid = pid_when_ready(&engine.supervisor, 0).await;
    kill(pid);
    pid_when_ready(&engine.supervisor, pid).await;
    // The same address: the client needs no telling. Its pooled connections are dead, so the first try may fail.
    eventually("the engine answers again", || async { client.query("SELECT count() FROM events").fetch_one::<u64>().await.is_ok() }).await;
    assert_eq!(count(&client).await, (2000, 2000));
}

/// Not a proof but a measurement: `cargo test -p tidemark-embedded --test engine -- --ignored --nocapture`.
#[tokio::test]
#[ignore = "measures; takes some seconds and a quiet machine"]
async fn measure_start_memory_and_insert_rate() {
    let dir = tempfile::tempdir().unwrap();
    engines();
    let start = Instant::now();
    let engine = TestEngine::start(dir.path()).await;
    let pid = pid_when_ready(&engine.supervisor, 0).await;
    println!("ready in {:?}, {} MiB", start.elapsed(), rss_mib(pid));
    let client = schema(&engine.client()).await;
    for compression in [Compression::None, Compression::Lz4] {
        let client = client.clone().with_compression(compression);
        for rows in [50_000, 500_000] {
            let mut body = Vec::new();
            (0..rows).for_each(|_| body.extend_from_slice(b"\x08purchase\x2a\0\0\0\0\0\0\0\0\x07\0\0\0\0\0\0\0"));
            let start = Instant::now();
            for _ in 0..5 {
                let mut insert = client.insert_formatted_with("INSERT INTO events FORMAT RowBinary");
                for chunk in body.chunks(1 << 18) {
                    insert.send(bytes::Bytes::copy_from_slice(chunk)).await.unwrap();
                }
                insert.end().await.unwrap();
            }
            let rate = f64::from(5 * rows) / start.elapsed().as_secs_f64();
            println!("{compression:?}, {rows} rows a request: {rate:.0} rows/s, {} MiB", rss_mib(pid));
        }
    }
    let mut times: Vec<_> = Vec::new();
    for _ in 0..200 {
        let start = Instant::now();
        client.query("SELECT sum(count) FROM counts").with_setting("max_threads", "1").fetch_one::<u64>().await.unwrap();
        times.push(start.elapsed());
    }
    times.sort();
    println!("small query p50 {:?} p95 {:?}", times[100], times[190]);
    let start = Instant::now();
    engine.supervisor.stop().await;
    println!("stopped in {:?}", start.elapsed());
}
