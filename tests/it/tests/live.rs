//! `/v1/live`: what is pushed adds up to what is asked, however often a listener is cut off.

use crate::scaled::Deployment;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tidemark_tests::chance::Chance;
use tidemark_tests::client::{Client, Position, raise};
use tidemark_tests::data;
use tidemark_tests::figure::figure;
use tidemark_tests::freshness::quantile;
use tidemark_tests::listening::Listener;
use tidemark_tests::question::Question;
use tidemark_tests::recount::Recount;
use tidemark_tests::role::Way;
use tidemark_tests::sending::{Manner, Pace, by_http};
use tidemark_tests::server::{Server, Site};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

const CONFIG: &str = "[counting]\nepoch_bits = 10\n[batch]\nmax_age_ms = 200\n";
const BITS: u8 = 10;
const MANNER: Manner = Manner { batch: 50, clients: 1, persistent: true };
const CUTS: usize = 70;

/// Flights of a January, two of a hundred late, come in; listeners are cut off again and again. What they hold is
/// right at every id that they have been told.
#[test]
fn a_listener_that_is_cut_off_again_and_again_holds_what_the_recount_has() {
    let site = Site::new(CONFIG);
    let server = site.up();
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = data::lines(&january);
    by_http(&server.client, &lines[..2000], MANNER, &Pace::free());
    let questions = [
        Question::by("1d", &["event_type"]),
        Question { filters: vec![("event_type", "UA"), ("event_type", "DL")], ..Question::by("1h", &[]) },
        Question::by("1w", &["user_id"]),
    ];
    let stop = AtomicBool::new(false);
    let listeners: Vec<Listener> = std::thread::scope(|scope| {
        scope.spawn(|| again_and_again(&server.client, &january, &stop));
        let listen = |(n, question): (usize, &Question)| {
            let mut listener = Listener::new(&server.client, question.clone());
            let mut chance = Chance::new(&format!("cut off {n}"));
            // From raw events an answer comes only now and then.
            let cuts = if n == 2 { 3 } else { CUTS };
            for _ in 0..cuts {
                listener.hear(1 + chance.below(3));
                // Now and then long enough that it is too far behind.
                std::thread::sleep(Duration::from_millis(chance.below(20) as u64));
            }
            listener
        };
        let listening: Vec<_> = questions.iter().enumerate().map(|question| scope.spawn(move || listen(question))).collect();
        let listeners = listening.into_iter().map(|listening| listening.join().expect("it hears")).collect();
        stop.store(true, Ordering::Relaxed);
        listeners
    });
    let judge = Recount::read(&server.runtime().kafka, &server.topic(), BITS);
    for listener in &listeners {
        judge.check_all(&listener.held);
        figure("answers held, and events by kind", format!("{}, {:?}", listener.held.len(), listener.told));
    }
    assert!(listeners[0].told["change"] > CUTS / 2 && listeners[0].held.len() >= CUTS, "{:?}", listeners[0].told);
    server.stop();
}

/// Events come in until told to stop, the same ones, each time with other ids.
fn again_and_again(door: &Client, events: &[u8], stop: &AtomicBool) {
    for round in 0.. {
        let text = String::from_utf8_lossy(events).replace("\"event_id\":\"", &format!("\"event_id\":\"{round}-"));
        for batch in data::lines(text.as_bytes()).chunks(50) {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            by_http(door, batch, MANNER, &Pace::free());
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// From one node to the other.
const HOPS: usize = 15;

/// Serving nodes push what Redis and history have. A listener that goes from one to the other holds what is right.
#[test]
fn a_listener_that_goes_from_node_to_node_holds_what_the_recount_has() {
    let deployment = Deployment::with(&format!("[kafka]\npartitions = 4\n{CONFIG}"), 1, [1, 1, 1, 2], &Way::default());
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let (door, nodes) = (&deployment.ingest[0].client, &deployment.serve);
    by_http(door, &data::lines(&january)[..2000], MANNER, &Pace::free());
    let stop = AtomicBool::new(false);
    let mut listener = Listener::new(&nodes[0].client, Question::by("1d", &["event_type"]));
    std::thread::scope(|scope| {
        scope.spawn(|| again_and_again(door, &january, &stop));
        for n in 0..HOPS {
            listener.go_to(&nodes[n % 2].client);
            listener.hear(3);
        }
        stop.store(true, Ordering::Relaxed);
    });
    Recount::read(&deployment.cluster.endpoints().kafka, "events", BITS).check_all(&listener.held);
    figure("answers held from two nodes, and events by kind", format!("{}, {:?}", listener.held.len(), listener.told));
    assert!(listener.told["change"] > HOPS, "{:?}", listener.told);
}

#[test]
fn windows_become_final_and_a_stream_ends_with_the_server() {
    let site = Site::new(CONFIG);
    let server = site.up();
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    by_http(&server.client, &data::lines(&january)[..500], MANNER, &Pace::free());
    server.settled();
    // Wrong is said at once, and so is a query's own range.
    for (query, says) in [
        ("step=never", "step `never` is unknown"),
        ("last=7m", "whole 5-minute windows"),
        ("last=3h&from=2013-01-01T00:00:00Z", "a range of its own"),
    ] {
        for resource in ["query", "live"] {
            let reply = server.client.get(&format!("/v1/{resource}?{query}"));
            assert_eq!((reply.status, reply.text().contains(says)), (400, true), "{}", reply.text());
        }
    }
    assert_eq!(server.client.got("/v1/query?last=3h")["rows"][0]["count"], 0, "nothing is of now");
    assert!(server.client.status()["watermark"].is_string());
    // An id that nobody knows any more begins anew.
    let mut listener = Listener::new(&server.client, Question::by("5m", &[]));
    listener.last_id = Some("1/0:77".to_owned());
    let told = listener.hear(1);
    assert_eq!((told[0].kind.as_str(), told[0].data["watermark"].is_string()), ("snapshot", true), "{told:?}");
    // Nothing more comes: a minute later the clock has gone on, and all is final.
    let is_final = |row: &serde_json::Value| row["final"] == true;
    let mut rows = told[0].data["rows"].as_array().expect("rows").clone();
    let path = "/v1/live?step=5m";
    server.client.listen(path, &[], |told| {
        if told.kind == "snapshot" {
            rows.clear();
        }
        rows.retain(|row| told.data["rows"].as_array().is_some_and(|new| new.iter().all(|new| new["window"] != row["window"])));
        rows.extend(told.data["rows"].as_array().expect("rows").iter().cloned());
        !rows.iter().all(is_final)
    });
    assert!(rows.len() > 20 && rows.iter().all(is_final), "{} rows", rows.len());
    // One more event of then raises its window's revision, and changes nothing else.
    let before = rows[0]["revision"].as_u64().expect("a revision");
    let late = format!(r#"{{"event_id":"late","event_type":"late","timestamp":{}}}"#, rows[0]["window"]);
    let client = server.client.clone();
    let heard = std::thread::spawn(move || {
        let mut heard = Vec::new();
        let mut end = Vec::new();
        client.listen(path, &[], |told| {
            if told.kind == "change" {
                heard.push(told)
            } else {
                end.push(told)
            }
            true
        });
        heard
    });
    wait_for_subscriber(&server);
    assert_eq!(server.client.post("/v1/events", &[("content-type", "application/json")], late.as_bytes()).status, 200);
    server.settled();
    std::thread::sleep(Duration::from_millis(500));
    server.stop();
    let heard = heard.join().expect("the stream ends with the server");
    let changed: Vec<&serde_json::Value> = heard.iter().flat_map(|told| told.data["rows"].as_array().expect("rows")).collect();
    assert_eq!(changed.iter().filter(|row| row["window"] == rows[0]["window"]).count(), 1, "{changed:?}");
    assert!(changed.iter().any(|row| row["revision"] == before + 1), "{changed:?}");
}

/// Whoever cannot listen waits for another answer.
#[test]
fn a_query_waits_for_another_answer_than_the_known_one() {
    let site = Site::new(CONFIG);
    let server = site.up();
    let (path, wait) = ("/v1/query?step=total", ("prefer", "wait=30"));
    let event = |n: u32| format!(r#"{{"event_id":"w{n}","event_type":"written","timestamp":"2013-01-01T10:15:00Z"}}"#);
    let post = |n| server.client.post("/v1/events", &[("content-type", "application/json")], event(n).as_bytes());
    let written = post(0);
    let position = written.json()["position"].as_str().expect("the answer has a position").to_owned();
    // At that position: the server may not have seen yet that the log has grown.
    let first = server.client.try_get(&format!("{path}&at_least={position}")).expect("answered");
    assert_eq!(first.json()["rows"][0]["count"], 1);
    let tag = first.tag.expect("an answer has a tag");
    let known = ("if-none-match", tag.as_str());
    assert_eq!(server.client.try_get_with(path, &[known]).expect("answered").status, 304);
    let waiting = std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.client.try_get_with(path, &[known, wait]).expect("answered"));
        assert_eq!(post(1).status, 200);
        waiting.join().expect("it is answered")
    });
    assert_eq!((waiting.status, waiting.json()["rows"][0]["count"].as_u64()), (200, Some(2)));
    // Who knows nothing, or something else, does not wait.
    assert_eq!(server.client.try_get_with(path, &[known, wait]).expect("answered").status, 200);
    server.stop();
}

fn wait_for_subscriber(server: &Server) {
    tidemark_tests::wait::until("somebody listens", Duration::from_secs(10), || {
        (server.client.metrics()["tidemark_live_subscribers"] == 1.0).then_some(())
    });
}

const LISTENERS: usize = 2_000;
const PUSHES: usize = 100;

/// How soon two thousand listeners are told of an event, from when it was sent.
#[test]
#[ignore = "a minute of load: make accept-people"]
fn two_thousand_listeners_are_told_soon() {
    let site = Site::alone("");
    let server = site.up();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime");
    let address = server.client.url.trim_start_matches("http://").to_owned();
    let begun = Instant::now();
    // When the event of a number was sent, in microseconds of this test.
    static SENT: [AtomicU64; PUSHES] = [const { AtomicU64::new(0) }; PUSHES];
    let now = move || u64::try_from(begun.elapsed().as_micros()).expect("a short test");
    let listen = |address: String| async move {
        let mut stream = TcpStream::connect(&address).await.expect("it listens");
        let request = format!("GET /v1/live?where=event_type:pushed HTTP/1.1\r\nHost: {address}\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("taken");
        let (mut lines, mut took) = (BufReader::new(stream).lines(), Vec::new());
        while let Ok(Some(line)) = lines.next_line().await {
            let Some(count) = line.split_once("\"count\":").and_then(|(_, rest)| rest.split(',').next()?.parse::<usize>().ok()) else {
                continue;
            };
            if count > 0 {
                took.push(Duration::from_micros(now() - SENT[count - 1].load(Ordering::Relaxed)));
            }
            if count == PUSHES {
                break;
            }
        }
        took
    };
    let mut listening = Vec::new();
    for _ in 0..LISTENERS {
        listening.push(runtime.spawn(listen(address.clone())));
    }
    tidemark_tests::wait::until("all listen", Duration::from_secs(60), || {
        (server.client.metrics()["tidemark_live_subscribers"] == LISTENERS as f64).then_some(())
    });
    for (n, sent) in SENT.iter().enumerate() {
        sent.store(now(), Ordering::Relaxed);
        let event = format!(r#"{{"event_id":"p{n}","event_type":"pushed","timestamp":"2013-01-01T10:15:00Z"}}"#);
        let reply = server.client.post("/v1/events", &[("content-type", "application/json")], event.as_bytes());
        assert_eq!(reply.status, 200, "{}", reply.text());
        let mut position = Position::new();
        raise(&mut position, reply.json()["position"].as_str().expect("a position"));
        std::thread::sleep(Duration::from_millis(200));
    }
    let mut took: Vec<Duration> = listening.into_iter().flat_map(|listening| runtime.block_on(listening).expect("it hears")).collect();
    took.sort();
    figure(
        &format!("{} pushes to {LISTENERS} listeners, from sending the event: p50, p99, slowest", took.len()),
        format!("{:.1?}, {:.1?}, {:.1?}", quantile(&took, 0.5), quantile(&took, 0.99), quantile(&took, 1.0)),
    );
    figure("answers that were computed for them all", server.client.metrics()["tidemark_live_answers_total"]);
    server.stop();
}
