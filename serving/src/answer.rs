//! From merged rows to the text of an answer. Pure.

use crate::measure::{Measure, Value};
use crate::plan::Plan;
use std::cmp::Ordering;
use std::collections::{HashMap, HashSet};
use std::fmt::Write as _;
use tidemark_core::cell::Cell;
use tidemark_core::cut::Cut;
use tidemark_core::generation::Generation;
use tidemark_core::question::{RowKey, Rows};
use tidemark_core::window::{Step, rfc3339};
use tidemark_history::audit::Change;
use tidemark_https::admission::Taken;

/// An answer, and the cut that it is exact at.
#[derive(Debug)]
pub struct Answer {
    pub rows: Vec<(RowKey, Cell)>,
    /// What they take, of the bound for all answers.
    pub memory: Option<Taken>,
    /// S: every event below has been counted, none above. H, or somewhat below it, where raw events were asked.
    pub cut: Cut,
    /// M: history answered below, the speed layer from here up.
    pub mark: Cut,
    /// The log's end.
    pub end: Cut,
    pub generation: Generation,
    /// How often history below the mark had changed.
    pub revision: u64,
    /// What has changed since the answer that a link is from.
    pub revised: Vec<Change>,
    pub source: Source,
}

/// Where an answer comes from, the part of open epochs apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Source {
    /// The text of an answer before.
    Kept,
    /// What history has said before.
    Cache,
    History,
    /// Raw events.
    Raw,
    /// History at a cut that was given: the same whenever it is asked.
    Pinned,
}

impl Source {
    pub fn name(self) -> &'static str {
        match self {
            Self::Kept => "kept",
            Self::Cache => "cache",
            Self::History => "history",
            Self::Raw => "raw",
            Self::Pinned => "pinned",
        }
    }
}

/// Merges the two layers' rows, and ranks and completes them as the plan wants. Only what is in the answer is copied.
pub fn arrange(plan: &Plan, speed: &Rows, history: &Rows) -> Vec<(RowKey, Cell)> {
    let total = plan.question.buckets.step() == Step::Total;
    let mut rows = merged(speed, history);
    if let Some((n, by)) = plan.top {
        if total { keep_top_rows(&mut rows, n, by) } else { keep_top_groups(&mut rows, n, by) }
    }
    let mut rows: Vec<(RowKey, Cell)> = rows.into_iter().map(|(key, cell)| (key.clone(), cell)).collect();
    if total && plan.question.group_by.is_empty() && rows.is_empty() {
        rows.push((RowKey { bucket_ms: 0, values: Vec::new() }, Cell::EMPTY));
    }
    rows
}

/// Rows of both, in order.
fn merged<'r>(one: &'r Rows, other: &'r Rows) -> Vec<(&'r RowKey, Cell)> {
    let mut rows = Vec::with_capacity(one.len().max(other.len()));
    let (mut one, mut other) = (one.iter().peekable(), other.iter().peekable());
    loop {
        let next = match (one.peek(), other.peek()) {
            (Some((a, _)), Some((b, _))) => a.cmp(b),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return rows,
        };
        let first = if next.is_le() { one.next() } else { None };
        let second = if next.is_ge() { other.next() } else { None };
        if let Some((key, cell)) = first.or(second) {
            let mut cell = *cell;
            if let (Some(_), Some((_, more))) = (first, second) {
                cell.merge(more);
            }
            rows.push((key, cell));
        }
    }
}

/// A group and its cell: the highest rank first, ties to the smaller key.
fn rank(by: Measure, (a, x): (&[Box<str>], &Cell), (b, y): (&[Box<str>], &Cell)) -> Ordering {
    by.compare(y, x).then_with(|| a.cmp(b))
}

/// Keeps the N rows of a total that rank highest, in order of rank: there each group is one row.
fn keep_top_rows(rows: &mut Vec<(&RowKey, Cell)>, n: usize, by: Measure) {
    let order = |(a, x): &(&RowKey, Cell), (b, y): &(&RowKey, Cell)| rank(by, (&a.values, x), (&b.values, y));
    if n < rows.len() {
        rows.select_nth_unstable_by(n, order);
        rows.truncate(n);
    }
    rows.sort_unstable_by(order);
}

/// Keeps the rows of the N groups that rank highest over the whole range, in order of time.
fn keep_top_groups(rows: &mut Vec<(&RowKey, Cell)>, n: usize, by: Measure) {
    let mut groups: HashMap<&[Box<str>], Cell> = HashMap::new();
    for (key, cell) in rows.iter() {
        groups.entry(&key.values).or_default().merge(cell);
    }
    let mut ranked: Vec<(&[Box<str>], Cell)> = groups.into_iter().collect();
    if n < ranked.len() {
        ranked.select_nth_unstable_by(n, |(a, x), (b, y)| rank(by, (a, x), (b, y)));
        ranked.truncate(n);
    }
    let kept: HashSet<&[Box<str>]> = ranked.into_iter().map(|(values, _)| values).collect();
    rows.retain(|(key, _)| kept.contains(&*key.values));
}

/// The answer as JSON; of one that is not pinned, all but its end: [`json_end`] is different for every request.
pub fn json(plan: &Plan, answer: &Answer) -> String {
    let mut out = String::with_capacity(128 + answer.rows.len() * 96);
    out.push_str("{\"rows\":[");
    let mut windows = Windows::default();
    for (n, (key, cell)) in answer.rows.iter().enumerate() {
        out.push_str(if n == 0 { "{" } else { ",{" });
        push_row(&mut out, plan, &mut windows, key, cell);
        out.push('}');
    }
    out.push_str("],");
    push_positions(&mut out, answer);
    if !answer.revised.is_empty() {
        let revised: Vec<String> = answer.revised.iter().map(revised).collect();
        let _ = write!(out, ",\"revised\":[{}]", revised.join(","));
    }
    out.push_str(if answer.source == Source::Pinned { ",\"exact\":true}" } else { ",\"exact\":true" });
    out
}

/// Where an answer stands, as JSON's members. Mark and end move while the numbers stay: one that is pinned has none.
pub(crate) fn push_positions(out: &mut String, Answer { cut, mark, end, generation, revision, source, .. }: &Answer) {
    let _ = write!(out, "\"cut\":{}", positions(cut));
    if *source != Source::Pinned {
        let _ = write!(out, ",\"mark\":{},\"end\":{}", positions(mark), positions(end));
    }
    let _ = write!(out, ",\"generation\":{generation}");
    if *revision > 0 {
        let _ = write!(out, ",\"history_revision\":{revision}");
    }
}

/// What has happened to a closed epoch.
fn revised(Change { partition, epoch, entry, at_ms, .. }: &Change) -> String {
    serde_json::json!({"partition": partition.0, "epoch": epoch.0, "change": entry.name(), "what": entry.what(), "at": rfc3339(*at_ms)})
        .to_string()
}

/// Windows as text. Rows of one window mostly follow each other.
#[derive(Default)]
pub(crate) struct Windows {
    window: Option<i64>,
    text: String,
}

impl Windows {
    fn text(&mut self, bucket_ms: i64) -> &str {
        if self.window.replace(bucket_ms) != Some(bucket_ms) {
            self.text = rfc3339(bucket_ms);
        }
        &self.text
    }
}

/// What names a row, as JSON's members.
pub(crate) fn push_key(out: &mut String, plan: &Plan, windows: &mut Windows, key: &RowKey) {
    let mut comma = "";
    if plan.question.buckets.step() != Step::Total {
        let _ = write!(out, "\"window\":\"{}\"", windows.text(key.bucket_ms));
        comma = ",";
    }
    for (dimension, value) in plan.question.group_by.iter().zip(&key.values) {
        let _ = write!(out, "{comma}\"{dimension}\":");
        push_quoted(out, value);
        comma = ",";
    }
}

/// A row, as JSON's members.
pub(crate) fn push_row(out: &mut String, plan: &Plan, windows: &mut Windows, key: &RowKey, cell: &Cell) {
    let before = out.len();
    push_key(out, plan, windows, key);
    for measure in &plan.measures {
        let comma = if out.len() == before { "" } else { "," };
        let _ = write!(out, "{comma}\"{}\":", measure.name());
        let _ = match measure.of(cell) {
            Value::Integer(n) => write!(out, "{n}"),
            Value::Decimal(text) => write!(out, "\"{text}\""),
            Value::Null => write!(out, "null"),
        };
    }
}

/// The end of an answer as JSON. `took_ms` is the server's own time.
pub fn json_end(took_ms: f64) -> String {
    format!(",\"took_ms\":{took_ms:.3}}}")
}

fn positions(cut: &Cut) -> String {
    let pairs: Vec<String> = cut.iter().map(|(p, next)| format!("\"{p}\":{next}")).collect();
    format!("{{{}}}", pairs.join(","))
}

fn push_quoted(out: &mut String, text: &str) {
    if text.bytes().all(|byte| byte >= b' ' && byte != b'"' && byte != b'\\') {
        out.extend(["\"", text, "\""]);
    } else {
        out.push_str(&serde_json::Value::from(text).to_string());
    }
}

/// The answer's rows as JSON, one a line; the cut is in the response's headers.
pub fn lines(plan: &Plan, answer: &Answer) -> String {
    let mut out = String::with_capacity(answer.rows.len() * 96);
    let mut windows = Windows::default();
    for (key, cell) in &answer.rows {
        out.push('{');
        push_row(&mut out, plan, &mut windows, key, cell);
        out.push_str("}\n");
    }
    out
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::plan;
    use tidemark_core::epoch::EpochBits;
    use tidemark_core::event::Limits;
    use tidemark_core::generation::Rules;
    use tidemark_core::view::Views;

    fn planned(query: &str) -> Plan {
        let views = Views::declare([("by_type", vec!["event_type"])]).expect("valid");
        let epoch_bits = EpochBits::new(18).expect("valid");
        let rules = Rules { generation: Generation(1), widens: None, epoch_bits, views, limits: Limits::default(), dedup: true };
        let pairs: Vec<(String, String)> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
        plan(&rules, &pairs).expect("valid")
    }

    /// `0 a=2  300000 b=1`: buckets, values and counts.
    fn rows(text: &str) -> Rows {
        let mut rows = Rows::new();
        for row in text.split("  ").filter(|row| !row.is_empty()) {
            let (key, count) = row.split_once('=').expect("key=count");
            let (bucket, value) = key.split_once(' ').expect("bucket value");
            let values = if value == "-" { Vec::new() } else { vec![value.into()] };
            let cell = Cell::from_parts(count.parse().expect("a count"), 0, Default::default(), None, 0);
            rows.insert(RowKey { bucket_ms: bucket.parse().expect("a bucket"), values }, cell);
        }
        rows
    }

    fn check(query: &str, speed: &str, history: &str, expected: &str) {
        let text = |(key, cell): &(RowKey, Cell)| format!("{} {}={}", key.bucket_ms, key.values.first().map_or("-", |v| v), cell.count);
        let answer: Vec<String> = arrange(&planned(query), &rows(speed), &rows(history)).iter().map(text).collect();
        assert_eq!(answer.join("  "), expected, "{query}");
    }

    #[test]
    fn rows_of_both_layers_are_added_up_in_order() {
        check(
            "step=5m&group_by=event_type",
            "0 a=1  0 c=1  600000 a=1",
            "0 b=1  0 c=2  300000 a=5",
            "0 a=1  0 b=1  0 c=3  300000 a=5  600000 a=1",
        );
        check("step=5m&group_by=event_type", "", "0 a=1", "0 a=1");
        check("step=5m&group_by=event_type", "0 a=1", "", "0 a=1");
        check("step=5m&group_by=event_type", "", "", "");
    }

    #[test]
    fn a_total_of_nothing_is_one_row() {
        check("", "", "", "0 -=0");
        check("group_by=event_type", "", "", "");
    }

    #[test]
    fn the_top_is_ranked_over_both_layers_and_the_whole_range_and_ties_go_to_the_smaller_key() {
        check("group_by=event_type&top=2:count", "0 a=1  0 b=4", "0 a=2  0 c=3  0 d=3", "0 b=4  0 a=3");
        check("group_by=event_type&top=9:count", "0 a=1", "0 b=2", "0 b=2  0 a=1");
        check("step=5m&group_by=event_type&top=1:count", "0 a=3  300000 b=2", "0 b=2  300000 a=0", "0 b=2  300000 b=2");
    }
}
