//! How long brokers make a client wait because of a quota.

use parking_lot::Mutex;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The longest wait of late, and until when it counts as that. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Throttled(Arc<Mutex<Option<(Duration, Instant)>>>);

impl Throttled {
    /// Takes in the longest wait of an interval of this length; logs when it begins and when it is over.
    pub fn note(&self, wait: Duration, interval: Duration) {
        let (now, mut last) = (Instant::now(), self.0.lock());
        let before = last.filter(|(_, until)| now <= *until);
        match (before, wait.is_zero()) {
            (None, true) if last.is_some() => {
                tracing::info!(target: "kafka", "the brokers no longer make this client wait");
                *last = None;
            }
            (None, true) => {}
            // Several clients tell of themselves, each at its time: that one does not wait says nothing of the others.
            (Some(_), true) => {}
            (before, false) => {
                if last.is_none() {
                    tracing::warn!(
                        target: "kafka", wait_ms = wait.as_millis(),
                        "the brokers make this client wait, for it is over a quota of its user or client id (consumer_byte_rate, producer_byte_rate or request_percentage)"
                    );
                }
                let longest = before.map_or(wait, |(longest, _)| longest.max(wait));
                // Once the longer wait is old, the shorter one counts.
                let until = now + 2 * interval;
                *last = Some(if longest > wait { (longest, before.map_or(until, |(_, until)| until)) } else { (wait, until) });
            }
        }
    }

    /// The longest wait of late; zero if there was none.
    pub fn current(&self) -> Duration {
        let now = Instant::now();
        self.0.lock().filter(|(_, until)| now <= *until).map_or(Duration::ZERO, |(wait, _)| wait)
    }
}
