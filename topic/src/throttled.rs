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
        let longest = last.filter(|(_, until)| now <= *until).map(|(longest, _)| longest);
        if wait.is_zero() {
            // Several clients report, each at its own time: that one does not wait says nothing about the others.
            if longest.is_none() && last.take().is_some() {
                tracing::info!(target: "kafka", "the brokers no longer make this client wait");
            }
            return;
        }
        if last.is_none() {
            tracing::warn!(
                target: "kafka", wait_ms = wait.as_millis(),
                "the brokers make this client wait, for it is over a quota of its user or client id (consumer_byte_rate, producer_byte_rate or request_percentage)"
            );
        }
        // A longer wait counts until it is old.
        if longest.is_none_or(|longest| wait >= longest) {
            *last = Some((wait, now + 2 * interval));
        }
    }

    /// The longest wait of late; zero if there was none.
    pub fn current(&self) -> Duration {
        let now = Instant::now();
        self.0.lock().filter(|(_, until)| now <= *until).map_or(Duration::ZERO, |(wait, _)| wait)
    }
}
