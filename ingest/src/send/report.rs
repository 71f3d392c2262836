//! What came of sending: counts, what was rejected and why, and the position that a reader waits for.

use super::files::Batch;
use indicatif::ProgressBar;
use serde::{Deserialize, Serialize, Serializer};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;
use tidemark_core::cut::Cut;

/// Rejections that are shown one by one; the rest is counted.
const MAX_SHOWN: usize = 10;

/// What ingest answers to a batch.
#[derive(Debug, Deserialize)]
pub(super) struct Answer {
    pub accepted: u64,
    /// The first of them; a server that does not count them lists all.
    pub rejected: Vec<AnswerRejected>,
    #[serde(default)]
    pub rejected_reasons: BTreeMap<String, u64>,
    pub position: String,
}

impl Answer {
    /// How many lines were no events, by reason.
    pub fn reasons(&self) -> BTreeMap<String, u64> {
        let mut reasons = self.rejected_reasons.clone();
        if reasons.is_empty() {
            self.rejected.iter().for_each(|rejected| *reasons.entry(rejected.reason.clone()).or_default() += 1);
        }
        reasons
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct AnswerRejected {
    pub index: u64,
    pub reason: String,
    #[serde(default)]
    pub detail: String,
}

/// A batch with its answer.
#[derive(Debug)]
pub(super) struct Acknowledged {
    pub batch: Batch,
    pub answer: Answer,
    pub position: Cut,
    /// How often it was sent again.
    pub retries: u64,
}

/// A line that is not an event.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
pub struct Rejected {
    pub name: String,
    /// From 1.
    pub line: u64,
    /// The stable code.
    pub reason: String,
    /// The sentence.
    pub detail: String,
}

/// What came of sending. `Display` is what `tidemark send` prints, and `Serialize` what it prints with `--json`.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize)]
pub struct SendReport {
    /// Events in the topic.
    pub accepted: u64,
    /// Lines that are not events, by reason.
    pub rejected: BTreeMap<String, u64>,
    /// The first few of them, by file and line.
    pub first_rejected: Vec<Rejected>,
    /// An answer whose cut has reached this contains every event that was sent.
    #[serde(serialize_with = "as_text")]
    pub position: Cut,
    /// Bytes of the files as they lie on disk.
    pub read_bytes: u64,
    /// Events that were sent again because no answer came or the answer was a failure. Those without an `event_id` may
    /// be in the topic twice.
    pub resent: u64,
    #[serde(rename = "took_ms", serialize_with = "in_ms")]
    pub took: Duration,
}

/// As `at_least` takes it.
fn as_text<S: Serializer>(position: &Cut, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(position)
}

fn in_ms<S: Serializer>(took: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(took.as_millis()).unwrap_or(u64::MAX))
}

impl SendReport {
    pub fn rejected_in_all(&self) -> u64 {
        self.rejected.values().sum()
    }

    fn events_per_s(&self) -> u64 {
        let events = u128::from(self.accepted + self.rejected_in_all());
        let per_s = events * 1_000_000 / self.took.as_micros().max(1);
        u64::try_from(per_s).unwrap_or(u64::MAX)
    }

    pub(super) fn add(&mut self, done: Acknowledged, bar: &ProgressBar) {
        let Acknowledged { batch, answer, position, retries } = done;
        self.accepted += answer.accepted;
        self.resent += retries * batch.events;
        self.read_bytes += batch.read_bytes;
        for (partition, next) in position.iter() {
            self.position.raise(partition, next);
        }
        for (reason, count) in answer.reasons() {
            *self.rejected.entry(reason).or_default() += count;
        }
        for rejected in answer.rejected {
            self.first_rejected.push(Rejected {
                name: batch.name.to_string(),
                line: batch.first_line + rejected.index,
                reason: rejected.reason,
                detail: rejected.detail,
            });
        }
        // Batches are answered in any order.
        self.first_rejected.sort();
        self.first_rejected.truncate(MAX_SHOWN);
        self.took = bar.elapsed();
        bar.set_position(self.read_bytes);
        bar.set_message(format!("{} events/s", self.events_per_s()));
    }
}

impl fmt::Display for SendReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rejected = self.rejected_in_all();
        for it in &self.first_rejected {
            writeln!(f, "{}:{}: {}: {}", it.name, it.line, it.reason, it.detail)?;
        }
        let not_shown = rejected.saturating_sub(self.first_rejected.len().try_into().unwrap_or(0));
        if not_shown > 0 {
            writeln!(f, "… and {not_shown} more")?;
        }
        for (reason, count) in &self.rejected {
            writeln!(f, "rejected {count:>9}  {reason}")?;
        }
        writeln!(f, "accepted {:>9}  in {:.1} s ({} events/s)", self.accepted, self.took.as_secs_f64(), self.events_per_s())?;
        if self.resent > 0 {
            writeln!(f, "resent   {:>9}  after failures; those without an event_id may be counted twice", self.resent)?;
        }
        write!(f, "position {}", self.position)
    }
}
