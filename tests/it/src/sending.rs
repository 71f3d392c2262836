//! Sending a file's lines: through HTTP, as a client does that repeats what was not acknowledged, or straight to Kafka,
//! as a producer does that has never heard of Tidemark.

use crate::client::{Client, Position, raise};
use serde_json::Value;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tidemark_topic::kafka::{Kafka, ProducerOptions};
use tidemark_topic::{Outgoing, Producer as _};

/// Before a batch that was not acknowledged is sent again.
const RETRY_PAUSE: Duration = Duration::from_millis(50);
/// How long a batch is sent again and again.
const RETRY_DEADLINE: Duration = Duration::from_secs(180);
/// Neither side of a [`Pace`] waits longer for the other.
const PACE_DEADLINE: Duration = Duration::from_secs(180);
/// Batches that the sender may be ahead of the moment that is waited for.
const AHEAD: usize = 3;

/// How to send.
#[derive(Clone, Copy, Debug)]
pub struct Manner {
    pub batch: usize,
    pub clients: usize,
    /// Whether a batch without an acknowledgement is sent again. If not, it ends the test.
    pub persistent: bool,
}

/// What was acknowledged.
#[derive(Clone, Debug, Default)]
pub struct Sent {
    pub accepted: u64,
    /// Reasons by line, from 0.
    pub rejected: BTreeMap<usize, String>,
    pub position: Position,
    /// How many attempts had no acknowledgement.
    pub repeated: usize,
}

/// Keeps a sender near the moments that somebody waits for, so that these are spread over the whole file.
#[derive(Debug, Default)]
pub struct Pace {
    /// Guards how far both are.
    state: Mutex<PaceState>,
    moved: Condvar,
}

#[derive(Debug, Default)]
struct PaceState {
    begun: usize,
    allowed: usize,
}

/// Lets the sender run when it goes out of scope, however that happens.
#[derive(Debug)]
pub struct Holding<'a>(&'a Pace);

impl Pace {
    /// Without anybody to wait for.
    pub fn free() -> Self {
        Self { state: Mutex::new(PaceState { begun: 0, allowed: usize::MAX }), moved: Condvar::new() }
    }

    pub fn hold(&self) -> Holding<'_> {
        Holding(self)
    }

    /// The sender is about to send this batch.
    fn before(&self, batch: usize) {
        self.change_and_wait(|state| state.begun = state.begun.max(batch), |state| batch < state.allowed);
    }

    fn change_and_wait(&self, change: impl FnOnce(&mut PaceState), is_over: impl Fn(&PaceState) -> bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut state);
        self.moved.notify_all();
        let waited = self.moved.wait_timeout_while(state, PACE_DEADLINE, |state| !is_over(state));
        let (state, timeout) = waited.unwrap_or_else(PoisonError::into_inner);
        assert!(!timeout.timed_out(), "the sender and its watcher wait for each other: {state:?}");
    }
}

impl Holding<'_> {
    /// Waits until the sender begins this batch.
    pub fn wait_for(&self, batch: usize) {
        self.0.change_and_wait(|state| state.allowed = state.allowed.max(batch + AHEAD), |state| state.begun >= batch);
    }
}

impl Drop for Holding<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.allowed = usize::MAX;
        self.0.moved.notify_all();
    }
}

/// Sends all lines as NDJSON; several clients take batches in turn.
pub fn by_http(client: &Client, lines: &[&[u8]], manner: Manner, pace: &Pace) -> Sent {
    let sent = Mutex::new(Sent::default());
    let batches: Vec<&[&[u8]]> = lines.chunks(manner.batch).collect();
    let next = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..manner.clients {
            scope.spawn(|| {
                while let Some((n, batch)) = next_of(&batches, &next) {
                    pace.before(n);
                    let (answer, repeated) = post(client, batch, manner.persistent);
                    let mut sent = sent.lock().unwrap_or_else(PoisonError::into_inner);
                    sent.add(n * manner.batch, &answer);
                    sent.repeated += repeated;
                }
            });
        }
    });
    sent.into_inner().unwrap_or_else(PoisonError::into_inner)
}

fn next_of<'a>(batches: &[&'a [&'a [u8]]], next: &AtomicUsize) -> Option<(usize, &'a [&'a [u8]])> {
    let n = next.fetch_add(1, Ordering::Relaxed);
    batches.get(n).map(|batch| (n, *batch))
}

/// Posts one batch until it is acknowledged; gives the answer and how many attempts had none.
fn post(client: &Client, batch: &[&[u8]], persistent: bool) -> (Value, usize) {
    let body = batch.join(&b'\n');
    let began = Instant::now();
    for repeated in 0.. {
        let trouble = match client.try_post("/v1/events", &[("content-type", "application/x-ndjson")], &body) {
            Ok(reply) if reply.status == 200 => return (reply.json(), repeated),
            Ok(reply) if reply.status == 503 => reply.text(),
            Ok(reply) => panic!("POST /v1/events: {} {}", reply.status, reply.text()),
            Err(error) => error.0,
        };
        assert!(persistent, "a batch was not acknowledged, though nobody disturbed the server: {trouble}");
        assert!(began.elapsed() < RETRY_DEADLINE, "a batch was not acknowledged within {} s: {trouble}", RETRY_DEADLINE.as_secs());
        std::thread::sleep(RETRY_PAUSE);
    }
    unreachable!("the loop has no end of its own")
}

impl Sent {
    fn add(&mut self, first_line: usize, answer: &Value) {
        self.accepted += answer["accepted"].as_u64().expect("the answer says how many were accepted");
        for rejection in answer["rejected"].as_array().expect("the answer says which were rejected") {
            let index = rejection["index"].as_u64().and_then(|n| usize::try_from(n).ok()).expect("a rejection has an index");
            let reason = rejection["reason"].as_str().expect("a rejection has a reason").to_owned();
            self.rejected.insert(first_line + index, reason);
        }
        raise(&mut self.position, answer["position"].as_str().expect("the answer has a position"));
    }
}

/// Writes all lines to the topic, keyed as ingest keys them, whatever they are.
pub fn by_kafka(kafka: &str, topic: &str, lines: &[&[u8]]) -> Position {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let producer = Kafka::new(kafka, topic).producer(ProducerOptions::default()).expect("a producer");
    let mut position = Position::new();
    for batch in lines.chunks(10_000) {
        let keys: Vec<Option<Vec<u8>>> = batch.iter().map(|line| key(line)).collect();
        let records: Vec<Outgoing<'_>> = batch
            .iter()
            .zip(&keys)
            .map(|(line, key)| Outgoing { key: key.as_deref(), payload: Some(line), ..Outgoing::default() })
            .collect();
        for written in runtime.block_on(producer.send_batch(&records)) {
            let at = written.expect("Kafka takes the record");
            let next = position.entry(at.partition.0).or_default();
            *next = at.offset.next().get().max(*next);
        }
    }
    position
}

/// `user_id`, else `event_id`, else none.
fn key(line: &[u8]) -> Option<Vec<u8>> {
    let json: Value = serde_json::from_slice(line).ok()?;
    let text = |name: &str| json.get(name)?.as_str().filter(|text| !text.is_empty()).map(|text| text.as_bytes().to_vec());
    text("user_id").or_else(|| text("event_id"))
}
