//! `GET /v1/dead-letters`: what was not counted, and why, newest first.

use super::query::problem;
use super::{Shared, bad_request};
use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use serde::Deserialize;
use serde_json::{Value, json};
use tidemark_core::offset::{Offset, Partition};
use tidemark_core::window::rfc3339;
use tidemark_history::{DeadLetter, DeadLetterQuery};
use tidemark_ingest::problem::Problem;
use utoipa::IntoParams;

const DEFAULT_LIMIT: u32 = 100;
const MAX_LIMIT: u32 = 1_000;

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct Parameters {
    /// Of this partition alone.
    #[param(value_type = Option<u64>, maximum = 4294967295u64, example = 0)]
    partition: Option<u32>,
    /// For this reason alone.
    #[param(example = "duplicate")]
    reason: Option<String>,
    /// At most so many; 100 by itself.
    #[param(minimum = 1, maximum = 1000, example = 10)]
    limit: Option<u32>,
    /// `next` of the page before.
    #[param(pattern = "^-?[0-9]{1,18}:[0-9]{1,9}:[0-9]{1,18}$", example = "1357035300000:0:12")]
    before: Option<String>,
}

pub async fn dead_letters(
    State(engine): State<Shared>,
    parameters: Result<Query<Parameters>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(parameters) =
        parameters.map_err(|error| bad_request(format!("{}; there are partition, reason, limit and before", error.body_text())))?;
    let limit = parameters.limit.unwrap_or(DEFAULT_LIMIT);
    if limit == 0 || limit > MAX_LIMIT {
        return Err(bad_request(format!("limit must be between 1 and {MAX_LIMIT}")));
    }
    let before = parameters
        .before
        .as_deref()
        .map(|text| place(text).ok_or_else(|| bad_request("before must be the `next` of an earlier answer")))
        .transpose()?;
    let query = DeadLetterQuery { partition: parameters.partition.map(Partition), reason: parameters.reason, before, limit };
    let _turn = engine.admission.raw.enter().await.map_err(|busy| problem(busy.into()))?;
    let letters = engine.history.dead_letters(&query).await.map_err(|error| {
        tracing::warn!("{error}");
        Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "history-unavailable",
            "History cannot be reached",
            "dead letters are kept in history, which does not answer now. Try again shortly",
        )
    })?;
    let next = (letters.len() == limit as usize)
        .then(|| letters.last().map(|l| format!("{}:{}:{}", l.record_timestamp_ms, l.partition, l.offset)))
        .flatten();
    let letters: Vec<Value> = letters.iter().map(|letter| shown(&engine.topic, letter)).collect();
    Ok(Json(json!({"dead_letters": letters, "next": next})))
}

fn place(text: &str) -> Option<(i64, Partition, Offset)> {
    let mut parts = text.splitn(3, ':');
    Some((parts.next()?.parse().ok()?, Partition(parts.next()?.parse().ok()?), Offset::new(parts.next()?.parse().ok()?)))
}

/// The payload as text where it is UTF-8, else in hexadecimal, so that nothing of it is lost.
fn shown(topic: &str, letter: &DeadLetter) -> Value {
    let mut shown = json!({
        "topic": topic,
        "partition": letter.partition.0,
        "offset": letter.offset.get(),
        "record_timestamp": rfc3339(letter.record_timestamp_ms),
        "reason": letter.reason,
    });
    match std::str::from_utf8(&letter.payload) {
        Ok(text) => shown["payload"] = text.into(),
        Err(_) => shown["payload_hex"] = letter.payload.iter().map(|byte| format!("{byte:02x}")).collect::<String>().into(),
    }
    shown
}
