//! `GET /v1/query`

use super::{Shared, bad_request};
use crate::answer::Source;
use crate::engine::AnswerError;
use crate::kept::{Form, Written};
use crate::plan::plan;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::Instant;
use tidemark_history::History;
use tidemark_ingest::problem::Problem;

pub async fn query<H: History>(
    State(engine): State<Shared<H>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let began = Instant::now();
    let form = if wants_csv(&headers) { Form::Csv } else { Form::Json };
    let asked = (query.unwrap_or_default(), form);
    let (answer, source) = match engine.kept.get(&asked, &engine.live).await {
        Some(answer) => (answer, Source::Kept),
        None => {
            let parameters: Vec<(String, String)> = form_urlencoded::parse(asked.0.as_bytes()).into_owned().collect();
            let plan = plan(&engine.rules, &parameters).map_err(|error| bad_request(error.to_string()))?;
            let answer = engine.answer(&plan).await.map_err(problem)?;
            let source = answer.source;
            let answer = Arc::new(Written::new(&plan, answer, form));
            if source != Source::Raw {
                engine.kept.keep(asked, Arc::clone(&answer)).await;
            }
            (answer, source)
        }
    };
    engine.meters.answered(source, began.elapsed());
    let tag = answer.tag.clone();
    if headers.get(header::IF_NONE_MATCH).is_some_and(|known| known.as_bytes() == tag.as_bytes()) {
        return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, tag)]).into_response());
    }
    let kind = match form {
        Form::Json => "application/json",
        Form::Csv => "text/csv; charset=utf-8",
    };
    let fixed = [(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-cache"), (header::VARY, "accept")];
    let named = ([(header::ETAG, tag)], [("tidemark-cut", answer.cut_text.clone())]);
    Ok((fixed, named.0, named.1, answer.text(began.elapsed())).into_response())
}

fn wants_csv(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok());
    accept.is_some_and(|accept| accept.split(',').any(|kind| kind.trim().starts_with("text/csv")))
}

/// The one place where a missing answer becomes a status.
fn problem(error: AnswerError) -> Problem {
    let detail = error.to_string();
    match error {
        AnswerError::Starting(_) => {
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
