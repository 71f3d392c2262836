//! `GET /v1/live`: a query's answer as server-sent events, and what changes of it.

use super::bad_request;
use super::query::problem;
use crate::push::{Push, PushError};
use axum::body::{Body, Bytes};
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use std::convert::Infallible;
use std::sync::Arc;
use tidemark_ingest::problem::Problem;

pub async fn live(State(push): State<Arc<Push>>, RawQuery(query): RawQuery, headers: HeaderMap) -> Result<Response, Problem> {
    let last_id = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let subscriber = push.subscribe(&query.unwrap_or_default(), last_id).await.map_err(refusal)?;
    let events = stream::unfold(subscriber, async |mut subscriber| {
        let text = subscriber.next().await?;
        Some((Ok::<_, Infallible>(Bytes::copy_from_slice(text.as_bytes())), subscriber))
    });
    // A proxy that gathers what it passes on would hold events up.
    let headers = [(header::CONTENT_TYPE, "text/event-stream"), (header::CACHE_CONTROL, "no-store")];
    Ok((headers, [("x-accel-buffering", "no")], Body::from_stream(events)).into_response())
}

fn refusal(error: PushError) -> Problem {
    match error {
        PushError::Answer(error) => problem(error),
        PushError::Plan(_) | PushError::TooManyRows(_) => bad_request(error.to_string()),
        PushError::TooManyQueries => {
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "too-many-live-queries", "Too many live queries", error.to_string())
        }
    }
}
