//! How soon what was acknowledged is in an answer: open-loop, for what is sent does not wait for what is seen.

use crate::client::{Client, Position, raise};
use crate::question::Question;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Between two looks of a watcher.
const LOOK: Duration = Duration::from_millis(5);

/// A batch that is sent later than this after its time is overdue.
const OVERDUE: Duration = Duration::from_millis(250);

/// A batch: when it was about to be sent, and where it was written.
type Sent = (Instant, Position);

/// What has been sent and seen so far.
#[derive(Debug, Default)]
pub struct Freshness {
    sent: Mutex<Vec<Sent>>,
    seen: Mutex<Vec<(Instant, Position)>>,
    events: AtomicU64,
    /// Senders whose last batch was overdue.
    overdue: AtomicUsize,
}

impl Freshness {
    /// Sends events of now at a rate, until told to stop: each batch at its time, or at once if that is over. A batch
    /// that is not acknowledged is sent again; its time is that of the first attempt.
    pub fn send(&self, door: &Client, per_second: u64, batch: u64, stop: &AtomicBool) {
        let (began, mut n, mut was_overdue) = (Instant::now(), 0, false);
        while !stop.load(Ordering::Relaxed) {
            let due = began + Duration::from_secs_f64((n * batch) as f64 / per_second as f64);
            std::thread::sleep(due.saturating_duration_since(Instant::now()));
            let is_overdue = due.elapsed() > OVERDUE;
            match (was_overdue, is_overdue) {
                (false, true) => drop(self.overdue.fetch_add(1, Ordering::Relaxed)),
                (true, false) => drop(self.overdue.fetch_sub(1, Ordering::Relaxed)),
                (true, true) | (false, false) => {}
            }
            was_overdue = is_overdue;
            let first = self.events.fetch_add(batch, Ordering::Relaxed);
            let body = (first..first + batch).fold(String::new(), |mut body, n| {
                event(&mut body, n);
                body
            });
            let mut position = Position::new();
            while !stop.load(Ordering::Relaxed) {
                let reply = door.try_post("/v1/events", &[("content-type", "application/x-ndjson")], body.as_bytes());
                if let Ok(reply) = reply
                    && reply.status == 200
                {
                    raise(&mut position, reply.json()["position"].as_str().expect("a position"));
                    self.sent.lock().unwrap_or_else(PoisonError::into_inner).push((due, position));
                    break;
                }
                std::thread::sleep(Duration::from_millis(20));
            }
            n += 1;
        }
    }

    /// Looks at how far the answers of a serving node are, until told to stop.
    pub fn watch(&self, serve: &Client, stop: &AtomicBool) {
        let question = Question::total();
        while !stop.load(Ordering::Relaxed) {
            if let Some(answer) = question.try_ask(serve) {
                self.seen.lock().unwrap_or_else(PoisonError::into_inner).push((Instant::now(), answer.cut));
            }
            std::thread::sleep(LOOK);
        }
    }

    /// From the time that a batch was due to the first answer that had all of it, of those due in a range of time, in order.
    pub fn between(&self, from: Instant, to: Instant) -> Vec<Duration> {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        seen.sort_by_key(|(at, _)| *at);
        let mut took: Vec<Duration> = sent
            .iter()
            .filter(|(due, _)| (from..to).contains(due))
            .map(|(due, wanted)| {
                let after = seen.partition_point(|(at, _)| at < due);
                let first = seen[after..].iter().find(|(_, cut)| reaches(cut, wanted));
                first.unwrap_or_else(|| panic!("what was acknowledged at {wanted:?} is in no answer")).0.duration_since(*due)
            })
            .collect();
        took.sort();
        took
    }

    /// Whether the latest answer has all that has been acknowledged.
    pub fn is_seen(&self) -> bool {
        let sent = self.sent.lock().unwrap_or_else(PoisonError::into_inner);
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let last = |seen: &Vec<(Instant, Position)>| seen.iter().max_by_key(|(at, _)| *at).map(|(_, cut)| cut.clone());
        last(&seen).is_some_and(|cut| sent.iter().all(|(_, wanted)| reaches(&cut, wanted)))
    }

    /// Whether every sender is in time, so that what was late because of the past is over.
    pub fn is_in_time(&self) -> bool {
        self.overdue.load(Ordering::Relaxed) == 0
    }

    pub fn events(&self) -> u64 {
        self.events.load(Ordering::Relaxed)
    }
}

fn reaches(cut: &Position, wanted: &Position) -> bool {
    wanted.iter().all(|(partition, next)| cut.get(partition).is_some_and(|at| at >= next))
}

/// A share of ordered durations.
pub fn quantile(ordered: &[Duration], share: f64) -> Duration {
    assert!(!ordered.is_empty(), "nothing was measured");
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a share of a length")]
    let at = (ordered.len() as f64 * share) as usize;
    ordered[at.min(ordered.len() - 1)]
}

/// About 180 bytes: one of 12 types and 1,000 products, at this moment.
fn event(body: &mut String, n: u64) {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let (kind, product, user, cents) = (n % 12, n * 7919 % 1000, n * 104_729 % 5000, n % 10_000);
    let _ = writeln!(
        body,
        "{{\"event_id\":\"fresh-{n:012}\",\"event_type\":\"type-{kind}\",\"timestamp\":{now},\"product_id\":\"product-{product:04}\",\
         \"user_id\":\"user-{user:05}\",\"order_amount\":{cents}.25,\"properties\":{{\"source\":\"freshness\"}}}}"
    );
}
