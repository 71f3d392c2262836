//! From merged rows to the text of an answer. Pure.

use crate::measure::{Measure, Value};
use crate::plan::Plan;
use std::collections::HashMap;
use std::fmt::Write as _;
use tidemark_core::cell::Cell;
use tidemark_core::cut::Cut;
use tidemark_core::generation::Generation;
use tidemark_core::question::{RowKey, Rows};
use tidemark_core::window::{Step, rfc3339};

/// An answer, and the cut that it is exact at.
#[derive(Clone, Debug)]
pub struct Answer {
    pub rows: Vec<(RowKey, Cell)>,
    /// S: every event below has been counted, none above. H, or somewhat below it, where raw events were asked.
    pub cut: Cut,
    /// M: history answered below, the speed layer from here up.
    pub mark: Cut,
    /// The log's end.
    pub end: Cut,
    pub generation: Generation,
}

/// Ranks and completes merged rows as the plan wants them.
pub fn arrange(plan: &Plan, rows: Rows) -> Vec<(RowKey, Cell)> {
    let total = plan.question.buckets.step() == Step::Total;
    let mut rows: Vec<(RowKey, Cell)> = rows.into_iter().collect();
    if total && plan.question.group_by.is_empty() && rows.is_empty() {
        rows.push((RowKey { bucket_ms: 0, values: Vec::new() }, Cell::EMPTY));
    }
    if let Some((n, by)) = plan.top {
        keep_top(&mut rows, n, by, total);
    }
    rows
}

/// Keeps the N groups that rank highest over the whole range; ties go to the smaller key. A total comes in order of
/// rank, other steps in order of time.
fn keep_top(rows: &mut Vec<(RowKey, Cell)>, n: usize, by: Measure, total: bool) {
    let mut groups: HashMap<Vec<Box<str>>, Cell> = HashMap::new();
    for (key, cell) in rows.iter() {
        groups.entry(key.values.clone()).or_default().merge(cell);
    }
    let mut ranked: Vec<(Vec<Box<str>>, Cell)> = groups.into_iter().collect();
    ranked.sort_by(|(a, x), (b, y)| by.compare(y, x).then_with(|| a.cmp(b)));
    ranked.truncate(n);
    let rank: HashMap<Vec<Box<str>>, usize> = ranked.into_iter().enumerate().map(|(rank, (values, _))| (values, rank)).collect();
    rows.retain(|(key, _)| rank.contains_key(&key.values));
    if total {
        rows.sort_by_key(|(key, _)| rank.get(&key.values).copied());
    }
}

/// The answer as JSON. `took_ms` is the server's own time.
pub fn json(plan: &Plan, answer: &Answer, took_ms: f64) -> String {
    let mut out = String::with_capacity(128 + answer.rows.len() * 96);
    out.push_str("{\"rows\":[");
    for (n, (key, cell)) in answer.rows.iter().enumerate() {
        out.push_str(if n == 0 { "{" } else { ",{" });
        let mut comma = "";
        if plan.question.buckets.step() != Step::Total {
            let _ = write!(out, "\"window\":\"{}\"", rfc3339(key.bucket_ms));
            comma = ",";
        }
        for (dimension, value) in plan.question.group_by.iter().zip(&key.values) {
            let _ = write!(out, "{comma}\"{dimension}\":{}", quoted(value));
            comma = ",";
        }
        for measure in &plan.measures {
            let _ = write!(out, "{comma}\"{}\":", measure.name());
            comma = ",";
            let _ = match measure.of(cell) {
                Value::Integer(n) => write!(out, "{n}"),
                Value::Decimal(text) => write!(out, "\"{text}\""),
                Value::Null => write!(out, "null"),
            };
        }
        out.push('}');
    }
    let Answer { cut, mark, end, generation, .. } = answer;
    let _ = write!(
        out,
        "],\"cut\":{},\"mark\":{},\"end\":{},\"generation\":{generation},\"exact\":true,\"took_ms\":{took_ms:.3}}}",
        positions(cut),
        positions(mark),
        positions(end)
    );
    out
}

fn positions(cut: &Cut) -> String {
    let pairs: Vec<String> = cut.iter().map(|(p, next)| format!("\"{p}\":{next}")).collect();
    format!("{{{}}}", pairs.join(","))
}

fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// The answer's rows as CSV (RFC 4180); the cut is in the response's headers.
pub fn csv(plan: &Plan, answer: &Answer) -> String {
    let total = plan.question.buckets.step() == Step::Total;
    let names = plan.question.group_by.iter().map(|d| d.name()).chain(plan.measures.iter().map(|m| m.name()));
    let header: Vec<&str> = (!total).then_some("window").into_iter().chain(names).collect();
    let mut out = header.join(",") + "\r\n";
    for (key, cell) in &answer.rows {
        let window = (!total).then(|| rfc3339(key.bucket_ms));
        let values = key.values.iter().map(|value| field(value));
        let measures = plan.measures.iter().map(|measure| match measure.of(cell) {
            Value::Integer(n) => n.to_string(),
            Value::Decimal(text) => text,
            Value::Null => String::new(),
        });
        let fields: Vec<String> = window.into_iter().chain(values).chain(measures).collect();
        out.push_str(&fields.join(","));
        out.push_str("\r\n");
    }
    out
}

/// A text field. One that a spreadsheet would take for a formula is made harmless by an apostrophe.
fn field(text: &str) -> String {
    let formula = text.starts_with(['=', '+', '-', '@', '\t', '\r']);
    let text = if formula { format!("'{text}") } else { text.to_owned() };
    if text.contains(['"', ',', '\n', '\r']) { format!("\"{}\"", text.replace('"', "\"\"")) } else { text }
}
