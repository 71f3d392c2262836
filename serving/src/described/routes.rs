//! The routes of serving, as they are described. The functions have no bodies of interest: the handlers, in `api/`, are made
//! for any history, and write their answers as text.

#![expect(dead_code, reason = "described, never called")]

use super::answers::{Answer, DeadLetters, Explanation, Layer, Status};
use super::parameters::{Number, Pinned, Question};
use crate::api::DeadLetterParameters;
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(paths(query, query_in_form, explain, live, status, dead_letters, layer, metrics, healthz, readyz, openapi, reference, page))]
pub struct Described;

/// Count
///
/// How many events there are of what the parameters say, and what their amounts add up to: exact at the cut that the answer names.
#[utoipa::path(
    get, path = "/v1/query", tag = "query", security(("key" = ["read"])),
    params(
        Question,
        Pinned,
        ("If-None-Match" = Option<String>, Header, description = "The ETag of an answer: 304 where nothing has changed since"),
        ("Prefer" = Option<String>, Header, description = "With If-None-Match: how many seconds to wait for another answer, at most 60", example = "wait=1"),
    ),
    responses(
        (status = 200, description = "The answer, in the form that Accept names", headers(("ETag" = String, description = "Of these events"), ("Tidemark-Cut" = String, description = "The cut")), content(
            (Answer = "application/json", example = json!({
                "rows": [{"window": "2013-01-01T10:00:00.000Z", "event_type": "UA", "count": 12, "sum": "3456.0000"}],
                "cut": {"0": 3222, "1": 3129}, "mark": {"0": 0, "1": 0}, "end": {"0": 3222, "1": 3129}, "generation": 1, "exact": true, "took_ms": 1.057,
            })),
            (String = "text/csv"),
            (String = "application/x-ndjson"),
            (Vec<u8> = "application/vnd.apache.arrow.stream"),
            (Vec<u8> = "application/vnd.apache.parquet"),
        )),
        (status = 304, description = "Nothing has changed"),
        (status = 400, description = "The question cannot be understood, or its answer is too large"),
        (status = 410, description = "The generation that `at` names has been dropped"),
        (status = 503, description = "What is needed for an exact answer cannot be reached, or the server has more questions than it can answer now"),
        (status = 504, description = "The position of `at_least` was not reached in time"),
    ),
)]
fn query() {}

/// Count, for those who can choose nothing but an address
#[utoipa::path(
    get, path = "/v1/query.{form}", tag = "query", security(("key" = ["read"])),
    params(("form" = inline(Form), Path, description = "The answer's form", example = "csv"), Question, Pinned),
    responses(
        (status = 200, description = "The answer", content(
            (String = "text/csv"),
            (String = "application/x-ndjson"),
            (Vec<u8> = "application/vnd.apache.arrow.stream"),
            (Vec<u8> = "application/vnd.apache.parquet"),
        )),
        (status = 304, description = "Nothing has changed"),
        (status = 400, description = "The question cannot be understood, or its answer is too large"),
        (status = 410, description = "The generation that `at` names has been dropped"),
        (status = 404, description = "There is no such form"),
        (status = 503, description = "What is needed for an exact answer cannot be reached, or the server has more questions than it can answer now"),
        (status = 504, description = "The position of `at_least` was not reached in time"),
    ),
)]
fn query_in_form() {}

#[derive(utoipa::ToSchema)]
#[schema(rename_all = "lowercase")]
enum Form {
    Csv,
    Ndjson,
    Arrow,
    Parquet,
}

/// What a number is made of
///
/// One number of an answer: its epochs and the layer that answers for each, how many of its events came late, what was not counted around them, and the events, page by page. Without `at`, at the latest cut of history.
#[utoipa::path(
    get, path = "/v1/explain", tag = "query", security(("key" = ["read"])),
    params(
        ("from" = Option<String>, Query, description = "As of /v1/query; so are all up to `timeout_ms`"),
        ("to" = Option<String>, Query, description = "Until when, not included"),
        ("last" = Option<String>, Query, description = "A range that moves"),
        ("step" = Option<String>, Query, description = "How long a bucket is, of which `window` is one"),
        ("group_by" = Option<String>, Query, description = "Dimensions, for each of which `group` gives the row's value"),
        ("where" = Option<Vec<String>>, Query, description = "`dimension:value`"),
        ("tz" = Option<String>, Query, description = "Whose days and weeks are meant"),
        ("timeout_ms" = Option<u64>, Query, description = "How long to wait for history to reach `at`"),
        Pinned,
        Number,
    ),
    responses(
        (status = 200, description = "The number, and what it is made of", body = Explanation),
        (status = 400, description = "The question cannot be understood, or aims at no one number"),
        (status = 410, description = "The generation that `at` names has been dropped"),
        (status = 500, description = "The raw events do not add up to the number: one of them is wrong"),
        (status = 503, description = "History cannot be reached, or the server has more questions than it can answer now"),
        (status = 504, description = "History has not come so far in time"),
    ),
)]
fn explain() {}

/// Listen to a query
///
/// Server-sent events: `snapshot` is the whole answer, `change` has the rows that have changed, each with a revision and whether its window is final, and those that are `gone`; `lagged` says that a snapshot follows, since
/// the listener was too slow. An event's `id` is its generation and cut.
#[utoipa::path(
    get, path = "/v1/live", tag = "query", security(("key" = ["read"])),
    params(Question, ("Last-Event-ID" = Option<String>, Header, description = "The id of the last event that was received: the stream goes on behind it")),
    responses(
        (status = 200, description = "The stream", content((String = "text/event-stream"))),
        (status = 400, description = "The question cannot be understood, or its answer is too large"),
        (status = 503, description = "What is needed for an exact answer cannot be reached, the server has more questions than it can answer now, or too many queries are listened to"),
        (status = 504, description = "The position of `at_least` was not reached in time"),
    ),
)]
fn live() {}

/// Where everything stands
#[utoipa::path(get, path = "/v1/status", tag = "operate", security(("key" = ["read"])), responses((status = 200, description = "The status", body = Status)))]
fn status() {}

/// What was not counted, and why
#[utoipa::path(
    get, path = "/v1/dead-letters", tag = "operate", security(("key" = ["read"])), params(DeadLetterParameters),
    responses(
        (status = 200, description = "A page of dead letters", body = DeadLetters),
        (status = 400, description = "A parameter is not what it must be"),
        (status = 503, description = "History cannot be reached, or the server has more questions than it can answer now"),
    ),
)]
fn dead_letters() {}

/// Pause or resume a layer
#[utoipa::path(
    post, path = "/v1/layers/{layer}/{action}", tag = "operate", security(("key" = ["admin"])),
    params(
        ("layer" = inline(LayerName), Path, description = "Which one", example = "speed"),
        ("action" = inline(Action), Path, description = "What to do", example = "resume"),
    ),
    responses((status = 200, description = "As it is now", body = Layer), (status = 400, description = "There is no such layer in this process, or no such action")),
)]
fn layer() {}

#[derive(utoipa::ToSchema)]
#[schema(rename_all = "lowercase")]
enum LayerName {
    Speed,
    Batch,
}

#[derive(utoipa::ToSchema)]
#[schema(rename_all = "lowercase")]
enum Action {
    Pause,
    Resume,
}

/// Figures for Prometheus
#[utoipa::path(get, path = "/metrics", tag = "operate", security(("key" = ["read"])), responses((status = 200, description = "OpenMetrics", content((String = "application/openmetrics-text")))))]
fn metrics() {}

/// Whether the process is well
#[utoipa::path(get, path = "/healthz", tag = "operate", responses(
    (status = 200, description = "Well", content((String = "text/plain"))), (status = 500, description = "An invariant is broken"),
))]
fn healthz() {}

/// Whether a query can be answered
#[utoipa::path(get, path = "/readyz", tag = "operate", responses(
    (status = 200, description = "Ready", content((String = "text/plain"))), (status = 503, description = "Not yet, or not any more"),
))]
fn readyz() {}

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "operate", responses((status = 200, description = "OpenAPI 3.1", content((serde_json::Map<String, serde_json::Value> = "application/json")))))]
fn openapi() {}

/// This document, to be read
#[utoipa::path(get, path = "/docs", tag = "operate", responses((status = 200, description = "A page", content((String = "text/html")))))]
fn reference() {}

/// The dashboard
///
/// The page loads three files beside it, from `/dashboard.js`, `/dashboard.css` and `/icon.svg`.
#[utoipa::path(get, path = "/", tag = "query", responses((status = 200, description = "A page", content((String = "text/html")))))]
fn page() {}
