//! An answer as it is sent: in one of several forms, with the headers that name it.

use crate::answer::{Answer, csv, json, json_end, lines};
use crate::columnar::{arrow, parquet};
use crate::plan::Plan;
use axum::body::Bytes;
use std::time::Duration;
use tidemark_core::cut::Cut;

/// How an answer is written.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Form {
    Json,
    Csv,
    /// A row a line, each as JSON has it.
    Lines,
    /// An Arrow IPC stream.
    Arrow,
    Parquet,
}

impl Form {
    /// By the name that a client knows it by, as a header has it.
    pub fn media_type(self) -> &'static str {
        match self {
            Self::Json => "application/json",
            Self::Csv => "text/csv; charset=utf-8",
            Self::Lines => "application/x-ndjson",
            Self::Arrow => "application/vnd.apache.arrow.stream",
            Self::Parquet => "application/vnd.apache.parquet",
        }
    }
}

/// What a query is answered with; `took_ms` is added when it is sent.
#[derive(Debug)]
pub struct Written {
    pub(crate) cut: Cut,
    pub(crate) mark: Cut,
    pub(crate) end: Cut,
    pub form: Form,
    /// The cut, as the header has it.
    pub cut_text: String,
    /// The ETag. Weak, since `end` and `took_ms` differ between two answers that count the same events.
    pub tag: String,
    pub(crate) head: Bytes,
}

impl Written {
    pub fn new(plan: &Plan, answer: Answer, form: Form) -> Self {
        let head = match form {
            Form::Json => json(plan, &answer).into(),
            Form::Csv => csv(plan, &answer).into(),
            Form::Lines => lines(plan, &answer).into(),
            Form::Arrow => arrow(plan, &answer).into(),
            Form::Parquet => parquet(plan, &answer).into(),
        };
        let tag = entity_tag(plan, &answer, form);
        let Answer { cut, mark, end, .. } = answer;
        Self { form, cut_text: cut.to_string(), tag, head, cut, mark, end }
    }

    /// The whole body, for a request that the server has had for so long.
    pub fn body(&self, took: Duration) -> Bytes {
        match self.form {
            Form::Json => [&*self.head, json_end(took.as_secs_f64() * 1000.0).as_bytes()].concat().into(),
            Form::Csv | Form::Lines | Form::Arrow | Form::Parquet => self.head.clone(),
        }
    }
}

fn entity_tag(plan: &Plan, answer: &Answer, form: Form) -> String {
    let measures: Vec<&str> = plan.measures.iter().map(|m| m.name()).collect();
    let content = format!("{}|{}|{:?}|{}|{}|{form:?}", answer.generation, answer.cut, plan.top, measures.join(","), plan.identity);
    format!("W/\"{:032x}\"", tidemark_core::event::id_hash(&content))
}
