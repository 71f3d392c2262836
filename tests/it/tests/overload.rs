//! Far more is asked than the machine can answer. What is answered is right, the rest is refused at once or soon, health endpoints
//! answer all the while, and when the load is gone the server is as before.

use serde_json::Value;
use std::cell::Cell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};
use tidemark_tests::client::Client;
use tidemark_tests::data;
use tidemark_tests::figure::figure;
use tidemark_tests::freshness::quantile;
use tidemark_tests::sending::{Manner, Pace, by_http};
use tidemark_tests::server::{Server, Site};
use tidemark_tests::wait;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

/// Several of each kind; five of eight ask what a view covers. None waits longer than for its answer before it asks again.
const CLIENTS: u64 = 2000;
const LOAD: Duration = Duration::from_secs(4);
const DEADLINE: Duration = Duration::from_secs(60);
const MONTH_MS: i64 = 1_356_998_400_000;
const WINDOW_MS: i64 = 300_000;
/// Of a year that no question of this test is about.
const EVENT: &str = "{\"event_type\":\"load\",\"timestamp\":\"2014-06-01T00:00:00Z\"}\n";

/// A connection that is used again, and costs the client little: it shares the machine with the server.
struct Connection(BufReader<TcpStream>);

struct Reply {
    status: u16,
    retry_after: bool,
    body: Vec<u8>,
}

impl Connection {
    async fn open(place: &str) -> Self {
        let stream = TcpStream::connect(place).await.expect("connecting");
        stream.set_nodelay(true).expect("no delay");
        Self(BufReader::new(stream))
    }

    async fn send(&mut self, method: &str, path: &str, body: &str) {
        let length = body.len();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/x-ndjson\r\ncontent-length: {length}\r\n\r\n"
        );
        self.0.get_mut().write_all((head + body).as_bytes()).await.expect("sent");
    }

    async fn ask(&mut self, method: &str, path: &str, body: &str) -> Reply {
        self.send(method, path, body).await;
        let (mut reply, mut length, mut line) = (Reply { status: 0, retry_after: false, body: Vec::new() }, 0, String::new());
        loop {
            line.clear();
            assert!(self.0.read_line(&mut line).await.expect("an answer") > 0, "the server closed the connection");
            match line.trim_end().split_once(": ") {
                _ if line.starts_with("HTTP/1.1 ") => reply.status = line[9..12].parse().expect("a status"),
                Some(("content-length", bytes)) => length = bytes.parse().expect("a length"),
                Some(("retry-after", _)) => reply.retry_after = true,
                None => break,
                Some(_) => {}
            }
        }
        reply.body.resize(length, 0);
        self.0.read_exact(&mut reply.body).await.expect("the body");
        reply
    }
}

/// What every answer must be a part of: the rows of each window.
type Truth = BTreeMap<i64, Vec<Value>>;

fn truth(client: &Client) -> Truth {
    let mut truth = Truth::new();
    for row in client.got(&by_type(MONTH_MS, MONTH_MS + 31 * 288 * WINDOW_MS))["rows"].as_array().expect("rows") {
        let window: jiff::Timestamp = row["window"].as_str().and_then(|text| text.parse().ok()).expect("a window");
        truth.entry(window.as_millisecond()).or_default().push(row.clone());
    }
    truth
}

fn by_type(from_ms: i64, to_ms: i64) -> String {
    format!("/v1/query?step=5m&group_by=event_type&measures=count&from={from_ms}&to={to_ms}")
}

/// What clients share, and count.
struct Load {
    place: String,
    truth: Truth,
    asked: Cell<i64>,
    over: Cell<bool>,
    answered: Cell<u64>,
    refused: Cell<u64>,
    posted: Cell<u64>,
}

fn add(to: &Cell<u64>, more: u64) {
    to.set(to.get() + more);
}

impl Load {
    fn new(client: &Client) -> Self {
        let (place, truth) = (client.url.trim_start_matches("http://").to_owned(), truth(client));
        let (asked, over, answered, refused, posted) = Default::default();
        Self { place, truth, asked, over, answered, refused, posted }
    }

    /// A range that does not come again.
    fn range(&self) -> (i64, i64) {
        let n = self.asked.replace(self.asked.get() + 1);
        let from = MONTH_MS + (n * 7919 % (29 * 288)) * WINDOW_MS;
        (from, from + (12 + n / (29 * 288)) * WINDOW_MS)
    }

    /// An answer, or a refusal that says when to come again.
    fn is_answered(&self, reply: &Reply) -> bool {
        let text = || String::from_utf8_lossy(&reply.body).into_owned();
        assert!(reply.status == 200 || reply.status == 503 && reply.retry_after, "{}: {}", reply.status, text());
        add(if reply.status == 200 { &self.answered } else { &self.refused }, 1);
        reply.status == 200
    }

    async fn ask_views(&self) {
        let mut connection = Connection::open(&self.place).await;
        while !self.over.get() {
            let (from, to) = self.range();
            let reply = connection.ask("GET", &by_type(from, to), "").await;
            // To look at each would be much of the client's work.
            if self.is_answered(&reply) && self.answered.get().is_multiple_of(8) {
                let answer: Value = serde_json::from_slice(&reply.body).expect("JSON");
                let wanted: Vec<&Value> = self.truth.range(from..to).flat_map(|(_, rows)| rows).collect();
                assert_eq!(answer["rows"].as_array().expect("rows").iter().collect::<Vec<_>>(), wanted, "from {from} to {to}");
            }
        }
    }

    async fn ask_raw(&self) {
        let mut connection = Connection::open(&self.place).await;
        while !self.over.get() {
            let (from, to) = self.range();
            let path = format!("/v1/query?step=1d&group_by=user_id&from={from}&to={to}");
            self.is_answered(&connection.ask("GET", &path, "").await);
        }
    }

    async fn post(&self) {
        let (mut connection, body) = (Connection::open(&self.place).await, EVENT.repeat(100));
        while !self.over.get() {
            let is_posted = self.is_answered(&connection.ask("POST", "/v1/events", &body).await);
            add(&self.posted, if is_posted { 100 } else { 0 });
        }
    }

    /// Listens to one query after the other.
    async fn listen(&self) {
        while !self.over.get() {
            let (from, to) = self.range();
            let mut connection = Connection::open(&self.place).await;
            connection.send("GET", &by_type(from, to).replace("query", "live"), "").await;
            let mut first = [0; 12];
            connection.0.read_exact(&mut first).await.expect("a status");
            assert!(first.ends_with(b"200") || first.ends_with(b"503"), "{}", String::from_utf8_lossy(&first));
        }
    }

    /// One thread's work for so long.
    fn run(self: &Rc<Self>, clients: u64, kind: impl Fn(u64) -> u64, time: Duration) {
        self.over.set(false);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let all = LocalSet::new();
        for n in 0..clients {
            let load = Rc::clone(self);
            match kind(n) {
                0 => all.spawn_local(async move { load.ask_raw().await }),
                1 => all.spawn_local(async move { load.listen().await }),
                2 => all.spawn_local(async move { load.post().await }),
                _ => all.spawn_local(async move { load.ask_views().await }),
            };
        }
        let load = Rc::clone(self);
        all.spawn_local(async move {
            tokio::time::sleep(time).await;
            load.over.set(true);
        });
        runtime.block_on(all);
    }
}

/// Looks at health again and again: how long each answer took, sorted.
fn look(place: &str, over: &AtomicBool) -> Vec<Duration> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (mut connection, mut took) = (Connection::open(place).await, Vec::new());
        for path in ["/healthz", "/readyz"].into_iter().cycle() {
            if over.load(Ordering::Relaxed) {
                break;
            }
            let began = Instant::now();
            let reply = connection.ask("GET", path, "").await;
            took.push(began.elapsed());
            assert_eq!(reply.status, 200, "{path}: {}", String::from_utf8_lossy(&reply.body));
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        took.sort_unstable();
        took
    })
}

fn refused_answers(server: &Server) -> f64 {
    let metrics = server.client.metrics();
    metrics.iter().filter(|(name, _)| name.starts_with("tidemark_answers_refused_total{")).map(|(_, refused)| refused).sum()
}

#[test]
fn an_overloaded_server_refuses_early_answers_right_and_recovers() {
    let site = Site::new("max_connections = 3000\n[counting]\nepoch_bits = 10\n[batch]\nmax_age_ms = 200\n");
    let server = site.up();
    let client = &server.client;
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    by_http(client, &data::lines(&january), Manner { batch: 1000, clients: 1, persistent: false }, &Pace::free());
    server.settled();
    let load = Rc::new(Load::new(client));
    assert!(load.truth.len() > 5_000, "{}", load.truth.len());
    // What the machine can do: as many clients as have turns.
    load.run(8, |_| 3, Duration::from_secs(2));
    let capacity = load.answered.take() / 2;

    let over = AtomicBool::new(false);
    let health = thread::scope(|scope| {
        let health = scope.spawn(|| look(client.url.trim_start_matches("http://"), &over));
        load.run(CLIENTS, |n| n % 8, LOAD);
        over.store(true, Ordering::Relaxed);
        health.join().expect("no panic")
    });
    let ended = Instant::now();
    let (from, to) = load.range();
    wait::until("a question is answered", DEADLINE, || (client.get(&by_type(from, to)).status == 200).then_some(()));
    let recovered = ended.elapsed();
    let (answered, refused, posted) = (load.answered.get(), load.refused.get(), load.posted.get());
    figure("answers a second where as many ask as have turns", capacity);
    figure(
        "requests a second when overloaded, and of those answered",
        format!("{} {}", (answered + refused) / LOAD.as_secs(), answered / LOAD.as_secs()),
    );
    figure("events a second when overloaded", posted / LOAD.as_secs());
    let at = |share| quantile(&health, share).as_millis();
    figure("health when overloaded, ms (p50, p99, most)", format!("{} {} {}", at(0.5), at(0.99), at(1.0)));
    figure("first answer after an overload, ms", recovered.as_millis());
    assert!(answered > 0 && refused > 0 && refused_answers(&server) > 0.0, "{answered} answers, {refused} refused");

    // What was acknowledged is counted, and the server ends in time though much is still open.
    let loaded = "/v1/query?step=total&measures=count&where=event_type:load";
    wait::until("what was posted is counted", DEADLINE, || (client.got(loaded)["rows"][0]["count"] == posted).then_some(()));
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let _open: Vec<Connection> = runtime.block_on(async {
        let mut open = Vec::new();
        for n in 0..30 {
            let mut connection = Connection::open(&load.place).await;
            match n % 3 {
                0 => connection.send("GET", "/v1/live?step=5m&group_by=event_type", "").await,
                1 => connection.send("GET", "/v1/query?step=5m&group_by=event_type,product_id", "").await,
                _ => connection
                    .0
                    .get_mut()
                    .write_all(b"POST /v1/events HTTP/1.1\r\nhost: a\r\ncontent-length: 900\r\n\r\n{")
                    .await
                    .expect("sent"),
            }
            open.push(connection);
        }
        open
    });
    server.stop();
}

#[test]
fn a_question_that_would_read_or_take_too_much_is_refused() {
    let site = Site::new("[counting]\nepoch_bits = 8\n[batch]\nmax_age_ms = 200\n[serving]\nmax_rows_read = 26000\nmemory_mib = 1\n");
    let server = site.up();
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    by_http(&server.client, &data::lines(&january), Manner { batch: 1000, clients: 1, persistent: false }, &Pace::free());
    server.settled();
    for (query, says) in [("step=1d&group_by=user_id", "more than 26000 rows of history"), ("step=5m&group_by=event_type", "too large")] {
        let reply = server.client.get(&format!("/v1/query?{query}"));
        assert!(reply.status == 400 && reply.text().contains(says), "{query}: {} {}", reply.status, reply.text());
    }
    assert_eq!(server.client.got("/v1/query?step=1d&group_by=event_type&measures=count")["exact"], true);
    server.stop();
}
