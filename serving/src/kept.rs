//! Answers as they were written, to be sent again while nothing has moved.
//!
//! What a view answers is a function of the query's text and of what the answer says of itself: its cut, its mark and the
//! log's end. Closed epochs never change, and the cells of open ones are those of the records between mark and cut. So
//! the partitions are looked at for every request, and where cut, mark, end and history's revision are still what they were, asking again
//! would give the same text. Nothing expires, and nothing older is sent than a new answer would be; a position that a
//! query waits for has been reached by every answer to it.
//!
//! An answer that is pinned to a cut stays the same while history's revision does. Answers from raw events are not kept:
//! what they are made of is not all said by their cut.

use crate::answer::Source;
use crate::engine::Engine;
use crate::written::{Form, Written};
use moka::future::Cache;
use std::sync::Arc;
use std::time::Duration;

/// Bytes that kept answers may take.
const KEPT_BYTES: u64 = 16 << 20;

/// Bytes of the largest answer that is kept. The cache makes room only after it has taken some answers more, so that these
/// must be small; and writing a large one again costs little beside sending it.
const LARGEST_KEPT: u32 = 384 << 10;

/// An answer that nobody has asked for so long goes.
const KEPT_FOR: Duration = Duration::from_secs(300);

/// The text of a query, and how its answer is to be written.
pub type Asked = (String, Form);

/// The last answer to each query.
#[derive(Debug)]
pub struct Kept(Cache<Asked, Arc<Written>>);

impl Default for Kept {
    fn default() -> Self {
        Self(
            Cache::builder()
                .max_capacity(KEPT_BYTES)
                .weigher(|asked: &Asked, answer: &Arc<Written>| bytes(asked, answer))
                .time_to_idle(KEPT_FOR)
                .build(),
        )
    }
}

/// What an answer takes in memory, about.
fn bytes((query, _): &Asked, answer: &Written) -> u32 {
    u32::try_from(1024 + query.len() + answer.bytes()).unwrap_or(u32::MAX)
}

impl Kept {
    /// The answer to this query, if a new one would be the same.
    pub async fn get(&self, asked: &Asked, engine: &Engine) -> Option<Arc<Written>> {
        let answer = self.0.get(asked).await?;
        let is_current = answer.revision == engine.history.revision();
        (is_current && (answer.is_pinned() || engine.is_still_at(&answer.cut, &answer.mark, &answer.end))).then_some(answer)
    }

    /// Keeps an answer, unless it is large, or from raw events.
    pub async fn keep(&self, asked: Asked, answer: Arc<Written>) {
        if answer.source != Source::Raw && bytes(&asked, &answer) <= LARGEST_KEPT {
            self.0.insert(asked, answer).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::written::tests::written;

    fn answer(bytes: usize) -> Arc<Written> {
        let mut answer = written("", "0:1", Source::Cache, Form::Json);
        answer.head = vec![0; bytes].into();
        Arc::new(answer)
    }

    #[tokio::test]
    async fn what_is_kept_has_a_bound_and_so_has_each_answer() {
        let kept = Kept::default();
        kept.keep(("large".to_owned(), Form::Json), answer(LARGEST_KEPT as usize)).await;
        assert!(!kept.0.contains_key(&("large".to_owned(), Form::Json)));
        for n in 0..1_000 {
            kept.keep((n.to_string(), Form::Json), answer(100_000)).await;
        }
        kept.0.run_pending_tasks().await;
        let (bytes, answers) = (kept.0.weighted_size(), kept.0.entry_count());
        assert!(bytes <= KEPT_BYTES && answers > 100, "{answers} answers of {bytes} bytes");
    }
}
