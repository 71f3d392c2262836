//! `GET /v1/query`

use super::wanted::{accepted, coding, wait};
use super::{Shared, bad_request};
use crate::answer::Source;
use crate::answering::Answering;
use crate::engine::{AnswerError, Engine};
use crate::packed::Coding;
use crate::plan::{PlanError, absolute, generation_asked, plan_text};
use crate::written::{Form, Written};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidemark_core::generation::Generation;
use tidemark_ingest::problem::Problem;
use tidemark_topic::now_ms;

/// An answer of so many bytes is packed on a thread of its own.
const LONG_TO_PACK: usize = 256 << 10;

/// Before it is looked again whether an answer is another one, where nothing tells: the range may have moved.
const LOOK: Duration = Duration::from_secs(1);

/// In the form that `Accept` wants.
pub async fn query(State(answering): State<Answering>, query: RawQuery, headers: HeaderMap) -> Result<Response, Problem> {
    let form = accepted(&headers);
    let mut answer = answer(&answering, query, &headers, form).await?;
    answer.headers_mut().append(header::VARY, HeaderValue::from_static("accept"));
    Ok(answer)
}

/// For those who can choose nothing but an address: a form has one of its own.
pub fn in_form(form: Form) -> MethodRouter<Answering> {
    get(async move |State(answering): State<Answering>, query: RawQuery, headers: HeaderMap| {
        answer(&answering, query, &headers, form).await
    })
}

async fn answer(answering: &Answering, RawQuery(query): RawQuery, headers: &HeaderMap, form: Form) -> Result<Response, Problem> {
    let query = query.unwrap_or_default();
    let engine = engine_for(answering, &query)?;
    let until = Instant::now() + if headers.contains_key(header::IF_NONE_MATCH) { wait(headers) } else { Duration::ZERO };
    let mut changes = engine.live.changes();
    loop {
        changes.mark_unchanged();
        let began = Instant::now();
        let (answer, source) = answered(&engine, &query, form).await?;
        let took = began.elapsed();
        engine.meters.answered(source, took);
        let coding = coding(headers).filter(|_| answer.is_packable());
        if !answer.is_known(headers) {
            return whole(&engine, answer, coding, took).await;
        }
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() || answer.is_pinned() {
            return Ok(not_modified(&answer, coding));
        }
        let _ = tokio::time::timeout(left.min(LOOK), changes.changed()).await;
    }
}

/// The one that answers, or that of the generation that the query names.
pub(super) fn engine_for(answering: &Answering, query: &str) -> Result<Shared, Problem> {
    let live = answering.live();
    let Some(wanted) = generation_asked(query).map_err(refused)? else { return Ok(live) };
    if live.rules.generation == wanted {
        return Ok(live);
    }
    let others = answering.others();
    if let Some((engine, _)) = others.iter().find(|(engine, _)| engine.rules.generation == wanted) {
        return Ok(Arc::clone(engine));
    }
    let newest = others.iter().map(|(engine, _)| engine.rules.generation).fold(live.rules.generation, Ord::max);
    if wanted > newest || wanted < Generation::FIRST {
        return Err(bad_request(format!("at names generation {wanted}, and the newest is {newest}")));
    }
    let detail = format!(
        "generation {wanted} has been dropped, and nothing can be counted by its rules any more; generation {} answers now: ask by its rules, with the cut alone in `at`",
        live.rules.generation
    );
    Err(Problem::new(StatusCode::GONE, "generation-gone", "The generation is gone", detail))
}

async fn whole(engine: &Engine, answer: Arc<Written>, coding: Option<Coding>, took: Duration) -> Result<Response, Problem> {
    let mut headers = headers(&answer, coding);
    let timing = format!("total;dur={:.3}", took.as_secs_f64() * 1000.0);
    headers.insert("server-timing", HeaderValue::try_from(timing).expect("digits"));
    let is_quick = coding.is_none() || answer.bytes() < LONG_TO_PACK;
    let body = if is_quick {
        answer.body(coding, took)
    } else {
        engine.admission.long.apart(move || answer.body(coding, took)).await.map_err(|busy| problem(busy.into()))?
    };
    headers.insert(header::CONTENT_LENGTH, body.len().into());
    let body = engine.admission.body(body).map_err(problem)?;
    Ok((headers, body).into_response())
}

fn not_modified(answer: &Written, coding: Option<Coding>) -> Response {
    let mut headers = headers(answer, coding);
    headers.remove(header::CONTENT_TYPE);
    headers.remove(header::CONTENT_ENCODING);
    (StatusCode::NOT_MODIFIED, headers).into_response()
}

fn headers(answer: &Written, coding: Option<Coding>) -> HeaderMap {
    let mut headers = answer.headers(coding);
    headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
    headers
}

/// An answer to a query as it is meant now, kept or new.
async fn answered(engine: &Shared, query: &str, form: Form) -> Result<(Arc<Written>, Source), Problem> {
    let asked = (absolute(query, now_ms()).map_err(refused)?.into_owned(), form);
    if let Some(answer) = engine.kept.get(&asked, engine).await {
        return Ok((answer, Source::Kept));
    }
    let engine = Arc::clone(engine);
    engine.admission.elsewhere.clone().run(async move { new_answer(&engine, asked, form).await }).await
}

/// A query that cannot be understood.
pub(super) fn refused(error: PlanError) -> Problem {
    bad_request(error.to_string())
}

/// A new answer, which is kept.
async fn new_answer(engine: &Shared, asked: (String, Form), form: Form) -> Result<(Arc<Written>, Source), Problem> {
    let plan = plan_text(&engine.rules, &asked.0).map_err(refused)?;
    let answer = engine.answer(&plan).await.map_err(problem)?;
    let query = asked.0.clone();
    let writing = engine.admission.work(answer.rows.len(), move || Written::new(&query, &plan, answer, form));
    let answer = Arc::new(writing.await.map_err(|busy| problem(busy.into()))?);
    engine.kept.keep(asked, Arc::clone(&answer)).await;
    let source = answer.source;
    Ok((answer, source))
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
        AnswerError::Busy => Problem::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "busy",
            "Too busy",
            detail + "; try again shortly. If this is so for long, it needs more serving nodes, or clients that ask less often",
        ),
        AnswerError::Damaged(_) => {
            // A repair takes half a minute at least.
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "history-damaged", "History is damaged", detail)
                .header(header::RETRY_AFTER, HeaderValue::from_static("30"))
        }
        AnswerError::TimedOut { .. } => Problem::new(
            StatusCode::GATEWAY_TIMEOUT,
            "position-not-reached",
            "Not counted yet",
            detail + "; try again, or raise timeout_ms",
        ),
        AnswerError::NoSuchPartition(_)
        | AnswerError::BeyondTheEnd { .. }
        | AnswerError::TooManyRows(_)
        | AnswerError::TooLarge
        | AnswerError::TooDear(_)
        | AnswerError::TooManyEpochs
        | AnswerError::Buckets(_) => bad_request(detail),
        AnswerError::DoesNotAddUp { .. } => {
            Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "does-not-add-up", "The number and its events differ", detail)
        }
    }
}
