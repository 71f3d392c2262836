//! Answers as they were written, to be sent again while nothing has moved.
//!
//! What a view answers is a function of the query's text and of what the answer says of itself: its cut, its mark and the
//! log's end. Closed epochs never change, and the cells of open ones are those of the records between mark and cut. So
//! the partitions are looked at for every request, and where cut, mark and end are still what they were, asking again
//! would give the same text. Nothing expires, and nothing older is sent than a new answer would be; a position that a
//! query waits for has been reached by every answer to it.
//!
//! Answers from raw events are not kept: what they are made of is not all said by their cut.

use crate::answer::{Answer, csv, json, json_end, lines};
use crate::live::Live;
use crate::plan::Plan;
use moka::future::Cache;
use std::sync::Arc;
use std::time::Duration;
use tidemark_core::cut::Cut;

/// Bytes that kept answers may take.
const KEPT_BYTES: u64 = 16 << 20;

/// Bytes of the largest answer that is kept. The cache makes room only after it has taken some answers more, so that these
/// must be small; and writing a large one again costs little beside sending it.
const LARGEST_KEPT: u32 = 256 << 10;

/// An answer that nobody has asked for so long goes.
const KEPT_FOR: Duration = Duration::from_secs(300);

/// What a query is answered with; `took_ms` is added when it is sent.
#[derive(Debug)]
pub struct Written {
    cut: Cut,
    mark: Cut,
    end: Cut,
    pub form: Form,
    /// The cut, as the header has it.
    pub cut_text: String,
    /// The ETag. Weak, since `end` and `took_ms` differ between two answers that count the same events.
    pub tag: String,
    text: String,
}

/// How an answer is written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Form {
    Json,
    Csv,
    /// A row a line, each as JSON has it.
    Lines,
}

impl Form {
    /// By the name that a client knows it by, as a header has it.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Csv => "text/csv; charset=utf-8",
            Self::Lines => "application/x-ndjson",
        }
    }
}

impl Written {
    pub fn new(plan: &Plan, answer: Answer, form: Form) -> Self {
        let text = match form {
            Form::Json => json(plan, &answer),
            Form::Csv => csv(plan, &answer),
            Form::Lines => lines(plan, &answer),
        };
        let tag = entity_tag(plan, &answer, form);
        let Answer { cut, mark, end, .. } = answer;
        Self { form, cut_text: cut.to_string(), tag, text, cut, mark, end }
    }

    /// The whole text, for a request that the server has had for so long.
    pub fn text(&self, took: Duration) -> String {
        match self.form {
            Form::Json => [&*self.text, &*json_end(took.as_secs_f64() * 1000.0)].concat(),
            Form::Csv | Form::Lines => self.text.clone(),
        }
    }
}

fn entity_tag(plan: &Plan, answer: &Answer, form: Form) -> String {
    let measures: Vec<&str> = plan.measures.iter().map(|m| m.name()).collect();
    let content = format!("{}|{}|{:?}|{}|{}|{form:?}", answer.generation, answer.cut, plan.top, measures.join(","), plan.identity);
    format!("W/\"{:032x}\"", tidemark_core::event::id_hash(&content))
}

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
    let positions = [&answer.cut, &answer.mark, &answer.end].map(|cut| 24 * cut.iter().len()).iter().sum::<usize>();
    u32::try_from(512 + query.len() + positions + answer.cut_text.len() + answer.text.capacity()).unwrap_or(u32::MAX)
}

impl Kept {
    /// The answer to this query, if a new one would be the same.
    pub async fn get(&self, asked: &Asked, live: &Live) -> Option<Arc<Written>> {
        let answer = self.0.get(asked).await?;
        live.is_still_at(&answer.cut, &answer.mark, &answer.end).then_some(answer)
    }

    /// Keeps an answer, unless it is large.
    pub async fn keep(&self, asked: Asked, answer: Arc<Written>) {
        if bytes(&asked, &answer) <= LARGEST_KEPT {
            self.0.insert(asked, answer).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(bytes: usize) -> Arc<Written> {
        let nowhere = Cut::default();
        let (mark, end) = (nowhere.clone(), nowhere.clone());
        let (cut_text, tag, text) = (String::new(), String::new(), "x".repeat(bytes));
        Arc::new(Written { cut: nowhere, mark, end, form: Form::Json, cut_text, tag, text })
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
