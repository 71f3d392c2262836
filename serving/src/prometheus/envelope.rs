//! Answers as Prometheus writes them.

use super::evaluate::{Points, Sample};
use super::failure::Failure;
use super::labels::Labels;
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::sync::Arc;

/// What an answer has beside its data.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Remarks {
    /// The answer may not be what was meant.
    pub warnings: Vec<String>,
    /// It is, and something should be known of it.
    pub infos: Vec<String>,
}

/// The whole of an answer; `data` is JSON.
pub fn success(data: &str, remarks: &Remarks) -> String {
    let mut out = String::with_capacity(data.len() + 64);
    out.extend(["{\"status\":\"success\",\"data\":", data]);
    for (name, texts) in [("warnings", &remarks.warnings), ("infos", &remarks.infos)] {
        if !texts.is_empty() {
            let _ = write!(out, ",\"{name}\":{}", Value::from(texts.clone()));
        }
    }
    out.push('}');
    out
}

/// The whole of an answer that there is not.
pub fn error(failure: &Failure) -> String {
    json!({"status": "error", "errorType": failure.kind(), "error": failure.to_string()}).to_string()
}

pub fn text(at_ms: i64, text: &str) -> String {
    format!("{{\"resultType\":\"string\",\"result\":[{},{}]}}", seconds(at_ms), Value::from(text))
}

pub fn scalar(at_ms: i64, value: f64) -> String {
    format!("{{\"resultType\":\"scalar\",\"result\":[{},\"{}\"]}}", seconds(at_ms), Float(value))
}

pub fn vector(at_ms: i64, samples: &[Sample]) -> String {
    let mut out = String::with_capacity(64 + samples.len() * 96);
    out.push_str("{\"resultType\":\"vector\",\"result\":[");
    let at = seconds(at_ms);
    for (n, sample) in samples.iter().enumerate() {
        let _ = write!(out, "{}{{\"metric\":", if n == 0 { "" } else { "," });
        push_labels(&mut out, &sample.labels);
        let _ = write!(out, ",\"value\":[{at},\"{}\"]}}", Float(sample.value));
    }
    out.push_str("]}");
    out
}

pub fn matrix<'s>(series: impl IntoIterator<Item = (&'s Arc<Labels>, &'s Points)>) -> String {
    let mut out = String::from("{\"resultType\":\"matrix\",\"result\":[");
    for (n, (labels, points)) in series.into_iter().enumerate() {
        let _ = write!(out, "{}{{\"metric\":", if n == 0 { "" } else { "," });
        push_labels(&mut out, labels);
        out.push_str(",\"values\":[");
        for (n, (at_ms, value)) in points.iter().enumerate() {
            let _ = write!(out, "{}[{},\"{}\"]", if n == 0 { "" } else { "," }, seconds(*at_ms), Float(*value));
        }
        out.push_str("]}");
    }
    out.push_str("]}");
    out
}

/// The labels of series, as a list.
pub fn series<'s>(series: impl IntoIterator<Item = &'s Labels>) -> String {
    let mut out = String::from("[");
    for (n, labels) in series.into_iter().enumerate() {
        out.push_str(if n == 0 { "" } else { "," });
        push_labels(&mut out, labels);
    }
    out.push(']');
    out
}

fn push_labels(out: &mut String, labels: &Labels) {
    out.push('{');
    for (n, (name, value)) in labels.iter().enumerate() {
        let _ = write!(out, "{}\"{name}\":{}", if n == 0 { "" } else { "," }, Value::from(value));
    }
    out.push('}');
}

/// Milliseconds as seconds, with as many decimals as are needed.
fn seconds(ms: i64) -> f64 {
    ms as f64 / 1000.0
}

/// A float as Prometheus writes it: in full where that is short.
struct Float(f64);

impl std::fmt::Display for Float {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            value if value.is_infinite() => f.write_str(if value > 0.0 { "+Inf" } else { "-Inf" }),
            value if value != 0.0 && !(1e-6..1e21).contains(&value.abs()) && !value.is_nan() => write!(f, "{value:e}"),
            value => write!(f, "{value}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_core::view::Dimension;

    #[test]
    fn floats_and_times_are_written_as_prometheus_writes_them() {
        let written: Vec<String> =
            [1.0, 0.1, 1e20, 1e21, 1e-7, -0.0, f64::NAN, f64::INFINITY, f64::NEG_INFINITY].map(|v| Float(v).to_string()).into();
        assert_eq!(written, ["1", "0.1", "100000000000000000000", "1e21", "1e-7", "-0", "NaN", "+Inf", "-Inf"]);
        assert_eq!([1_435_781_451_781, 300_000, -1].map(|ms| seconds(ms).to_string()), ["1435781451.781", "300", "-0.001"]);
    }

    #[test]
    fn an_answer_is_json_whatever_its_labels_have() {
        let labels = Labels::new(Some("tidemark_events"), [(Dimension::ProductId, "a\"\\\n"), (Dimension::EventType, "")]);
        let sample = Sample { labels: Arc::new(labels), value: 3.5 };
        let remarks = Remarks { warnings: vec!["\"careful\"".into()], ..Remarks::default() };
        let read: Value = serde_json::from_str(&success(&vector(1_500, &[sample]), &remarks)).expect("JSON");
        assert_eq!(
            read,
            json!({"status": "success", "warnings": ["\"careful\""], "data": {"resultType": "vector", "result": [
                {"metric": {"__name__": "tidemark_events", "product_id": "a\"\\\n"}, "value": [1.5, "3.5"]}]}})
        );
    }
}
