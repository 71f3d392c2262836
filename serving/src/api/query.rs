//! `GET /v1/query`

use super::{Shared, bad_request};
use crate::answer::{Answer, csv, json};
use crate::engine::AnswerError;
use crate::plan::{Plan, plan};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::time::Instant;
use tidemark_history::History;
use tidemark_ingest::problem::Problem;

pub async fn query<H: History>(
    State(engine): State<Shared<H>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let began = Instant::now();
    let parameters: Vec<(String, String)> = form_urlencoded::parse(query.unwrap_or_default().as_bytes()).into_owned().collect();
    let plan = plan(&engine.rules, &parameters).map_err(|error| bad_request(error.to_string()))?;
    let answer = engine.answer(&plan).await.map_err(problem)?;
    let tag = entity_tag(&plan, &answer, wants_csv(&headers));
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let cut = answer.cut.to_string();
    let (kind, body) = if wants_csv(&headers) {
        ("text/csv; charset=utf-8", csv(&plan, &answer))
    } else {
        ("application/json", json(&plan, &answer, began.elapsed().as_secs_f64() * 1000.0))
    };
    let named = [
        (header::CONTENT_TYPE, kind.to_owned()),
        (header::ETAG, tag),
        (header::CACHE_CONTROL, "no-cache".to_owned()),
        (header::VARY, "accept".to_owned()),
    ];
    Ok((named, [("tidemark-cut", cut)], body).into_response())
}

fn wants_csv(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.split(',').any(|kind| kind.trim().starts_with("text/csv")))
}

/// Weak, since `end` and `took_ms` differ between two answers that count the same events.
fn entity_tag(plan: &Plan, answer: &Answer, csv: bool) -> String {
    let measures: Vec<&str> = plan.measures.iter().map(|m| m.name()).collect();
    let content = format!("{}|{}|{:?}|{}|{}|{csv}", answer.generation, answer.cut, plan.top, measures.join(","), plan.identity);
    format!("W/\"{:032x}\"", tidemark_core::event::id_hash(&content))
}

/// The one place where a missing answer becomes a status.
fn problem(error: AnswerError) -> Problem {
    let detail = error.to_string();
    match error {
        AnswerError::Starting => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "starting", "Not ready yet", detail + "; try again when /readyz answers 200")
        }
        AnswerError::History(_) => {
            tracing::warn!("{detail}");
            Problem::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "history-unavailable",
                "History cannot be reached",
                "this question needs history, which does not answer now; live answers of open epochs alone would be wrong, so there is none. Try again shortly",
            )
        }
        AnswerError::TimedOut { .. } => Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            "position-not-reached",
            "Not counted yet",
            detail + "; try again, or raise timeout_ms",
        ),
        AnswerError::NoSuchPartition(_) | AnswerError::TooManyRows(_) | AnswerError::Buckets(_) => bad_request(detail),
    }
}
