//! The load: clients of `POST /v1/events` that send a batch again until it is acknowledged, and a plain Kafka producer that has never
//! heard of Tidemark.

use crate::events::{Events, Line};
use rdkafka::ClientConfig;
use rdkafka::producer::{BaseRecord, Producer as _, ThreadedProducer};
use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};
use tidemark_tests::client::{Client, Position, raise};

const BATCH: usize = 20;
/// Between two batches of a client.
const PAUSE: Duration = Duration::from_millis(150);
const RETRY_DELAY: Duration = Duration::from_millis(100);
const FLUSH_TIMEOUT: Duration = Duration::from_secs(20);
/// No fault lasts as long.
const GIVE_UP: Duration = Duration::from_secs(240);

/// What was acknowledged.
#[derive(Debug, Default)]
pub struct Load {
    pub stop: AtomicBool,
    /// Guards what clients know of their posts.
    acknowledged: Mutex<Acknowledged>,
}

#[derive(Clone, Debug, Default)]
pub struct Acknowledged {
    pub ids: HashSet<String>,
    pub position: Position,
    pub events: u64,
    /// Attempts that had no acknowledgement.
    pub repeated: u64,
}

impl Load {
    pub fn acknowledged(&self) -> Acknowledged {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub fn position(&self) -> Position {
        self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner).position.clone()
    }

    /// Posts batches to any of these doors until it is stopped. `name` distinguishes its events.
    pub fn by_http(&self, doors: &[Client], name: &'static str, seed: u64) {
        let mut events = Events::new(name, seed);
        while !self.stop.load(Ordering::Relaxed) {
            self.post(doors, &events.lines(BATCH));
            std::thread::sleep(PAUSE);
        }
    }

    /// Posts one batch until a door acknowledges it; each time another door.
    pub fn post(&self, doors: &[Client], lines: &[Line]) {
        let body = lines.iter().map(|line| line.text.as_str()).collect::<Vec<_>>().join("\n");
        let began = Instant::now();
        for (attempt, door) in (0..).zip(doors.iter().cycle()) {
            let trouble = match door.try_post("/v1/events", &[("content-type", "application/x-ndjson")], body.as_bytes()) {
                Ok(reply) if reply.status == 200 => return self.add(lines, &reply.json(), attempt),
                Ok(reply) if matches!(reply.status, 429 | 503) => {
                    assert!(reply.retry_after.is_some(), "a refusal without Retry-After: {}", reply.text());
                    reply.text()
                }
                Ok(reply) => panic!("POST /v1/events: {} {}", reply.status, reply.text()),
                Err(error) => error.0,
            };
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            assert!(began.elapsed() < GIVE_UP, "a batch was not acknowledged within {} s: {trouble}", GIVE_UP.as_secs());
            std::thread::sleep(RETRY_DELAY);
        }
    }

    fn add(&self, lines: &[Line], answer: &serde_json::Value, attempts: u64) {
        let rejected = answer["rejected"].as_array().expect("the answer says which were rejected");
        let rejected: HashSet<u64> = rejected.iter().filter_map(|of| of["index"].as_u64()).collect();
        let accepted = (0..).zip(lines).filter(|(n, _)| !rejected.contains(n)).map(|(_, line)| line);
        let mut acknowledged = self.acknowledged.lock().unwrap_or_else(PoisonError::into_inner);
        acknowledged.ids.extend(accepted.filter_map(|line| line.id.clone()));
        acknowledged.events += answer["accepted"].as_u64().expect("the answer says how many were accepted");
        acknowledged.repeated += attempts;
        raise(&mut acknowledged.position, answer["position"].as_str().expect("the answer has a position"));
    }

    /// Writes lines to the topic, whatever they are, until it is stopped.
    pub fn by_kafka(&self, kafka: &str, topic: &str, seed: u64) {
        let producer: ThreadedProducer<_> = ClientConfig::new()
            .set("bootstrap.servers", kafka)
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", "240000")
            .create()
            .expect("a producer");
        let mut events = Events::new("kafka", seed);
        while !self.stop.load(Ordering::Relaxed) {
            for line in events.lines(BATCH) {
                let record = BaseRecord::to(topic).payload(&line.text);
                let record = match &line.user {
                    Some(user) => record.key(user),
                    None => record,
                };
                // A full queue while Kafka is away: what is not queued is not sent, and was not acknowledged.
                let _ = producer.send::<String, String>(record);
            }
            std::thread::sleep(PAUSE);
        }
        // What has not been written by then was not acknowledged.
        let _ = producer.flush(FLUSH_TIMEOUT);
    }
}
