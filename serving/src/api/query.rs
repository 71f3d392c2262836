//! `GET /v1/query`

use super::{Shared, bad_request};
use crate::answer::Source;
use crate::engine::AnswerError;
use crate::plan::{PlanError, absolute, plan_text};
use crate::written::{Form, Written};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidemark_history::History;
use tidemark_ingest::problem::Problem;
use tidemark_topic::now_ms;

/// The longest that `Prefer: wait` waits, in seconds.
const MAX_WAIT_SECS: u64 = 60;

/// Before it is looked again whether an answer is another one, where nothing tells: the range may have moved.
const LOOK: Duration = Duration::from_secs(1);

/// In the form that `Accept` wants.
pub async fn query<H: History>(State(engine): State<Shared<H>>, query: RawQuery, headers: HeaderMap) -> Result<Response, Problem> {
    let form = accepted(&headers);
    answer(engine, query, headers, form).await
}

/// For those who can choose nothing but an address.
pub async fn csv<H: History>(State(engine): State<Shared<H>>, query: RawQuery, headers: HeaderMap) -> Result<Response, Problem> {
    answer(engine, query, headers, Form::Csv).await
}

pub async fn lines<H: History>(State(engine): State<Shared<H>>, query: RawQuery, headers: HeaderMap) -> Result<Response, Problem> {
    answer(engine, query, headers, Form::Lines).await
}

pub async fn arrow<H: History>(State(engine): State<Shared<H>>, query: RawQuery, headers: HeaderMap) -> Result<Response, Problem> {
    answer(engine, query, headers, Form::Arrow).await
}

pub async fn parquet<H: History>(State(engine): State<Shared<H>>, query: RawQuery, headers: HeaderMap) -> Result<Response, Problem> {
    answer(engine, query, headers, Form::Parquet).await
}

async fn answer<H: History>(engine: Shared<H>, RawQuery(query): RawQuery, headers: HeaderMap, form: Form) -> Result<Response, Problem> {
    let (query, known) = (query.unwrap_or_default(), headers.get(header::IF_NONE_MATCH));
    let until = Instant::now() + known.map_or(Duration::ZERO, |_| wait(&headers));
    let mut changes = engine.live.changes();
    loop {
        changes.mark_unchanged();
        let began = Instant::now();
        let (answer, source) = answered(&engine, &query, form).await?;
        let took = began.elapsed();
        engine.meters.answered(source, took);
        if known.is_none_or(|known| known.as_bytes() != answer.tag.as_bytes()) {
            return Ok(whole(&answer, took));
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok((StatusCode::NOT_MODIFIED, [(header::ETAG, answer.tag.clone())]).into_response());
        }
        let _ = tokio::time::timeout(left.min(LOOK), changes.changed()).await;
    }
}

fn whole(answer: &Written, took: Duration) -> Response {
    let fixed = [(header::CONTENT_TYPE, answer.form.media_type()), (header::CACHE_CONTROL, "no-cache"), (header::VARY, "accept")];
    let named = ([(header::ETAG, answer.tag.clone())], [("tidemark-cut", answer.cut_text.clone())]);
    (fixed, named.0, named.1, answer.body(took)).into_response()
}

/// An answer to a query as it is meant now, kept or new.
async fn answered<H: History>(engine: &Shared<H>, query: &str, form: Form) -> Result<(Arc<Written>, Source), Problem> {
    let refused = |error: PlanError| bad_request(error.to_string());
    let asked = (absolute(query, now_ms()).map_err(refused)?.into_owned(), form);
    if let Some(answer) = engine.kept.get(&asked, &engine.live).await {
        return Ok((answer, Source::Kept));
    }
    let plan = plan_text(&engine.rules, &asked.0).map_err(refused)?;
    let answer = engine.answer(&plan).await.map_err(problem)?;
    let source = answer.source;
    let answer = Arc::new(Written::new(&plan, answer, form));
    if source != Source::Raw {
        engine.kept.keep(asked, Arc::clone(&answer)).await;
    }
    Ok((answer, source))
}

/// How long the caller would rather wait than hear that nothing has changed (RFC 7240): `Prefer: wait=30`.
fn wait(headers: &HeaderMap) -> Duration {
    let preferences = headers.get_all("prefer").iter().filter_map(|value| value.to_str().ok()).flat_map(|value| value.split([',', ';']));
    let mut waits = preferences.filter_map(|preference| preference.trim().strip_prefix("wait=")?.trim().parse::<u64>().ok());
    Duration::from_secs(waits.next().unwrap_or(0).min(MAX_WAIT_SECS))
}

/// The first form that is named; JSON if none is.
fn accepted(headers: &HeaderMap) -> Form {
    let accept = headers.get(header::ACCEPT).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let form = |kind: &str| match kind.split(';').next()?.trim() {
        "application/json" => Some(Form::Json),
        "text/csv" => Some(Form::Csv),
        "application/x-ndjson" => Some(Form::Lines),
        "application/vnd.apache.arrow.stream" => Some(Form::Arrow),
        "application/vnd.apache.parquet" => Some(Form::Parquet),
        _ => None,
    };
    accept.split(',').find_map(form).unwrap_or(Form::Json)
}

/// The one place where a missing answer becomes a status.
pub(super) fn problem(error: AnswerError) -> Problem {
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
