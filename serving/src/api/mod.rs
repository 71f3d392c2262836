//! The HTTP interface of serving. One file a resource; this one puts them together.

mod control;
mod dead_letters;
mod documents;
mod explain;
mod health;
mod live;
mod page;
mod prometheus;
mod query;
mod status;
mod wanted;

pub use control::steer;
pub(crate) use dead_letters::Parameters as DeadLetterParameters;
pub use health::healthz;

use crate::answering::Answering;
use crate::engine::Engine;
use crate::push::Push;
use crate::written::Form;
use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;
use axum::routing::{get, post};
use std::sync::Arc;
use tidemark_ingest::problem::Problem;

/// Shared by all handlers.
type Shared = Arc<Engine>;

/// Resources by who may use them.
#[derive(Debug)]
pub struct Routes {
    /// Anybody: nothing here says what is counted. The page asks for a key itself.
    pub open: Router,
    pub read: Router,
    pub admin: Router,
    /// What is pushed: streams that end when it is closed, and not before.
    pub push: Arc<Push>,
}

/// All resources but ingest's.
pub fn routes(answering: &Answering) -> Routes {
    let push = Push::new(answering.clone());
    let open = Router::new()
        .merge(page::routes())
        .route("/healthz", get(healthz))
        .route("/readyz", get(health::readyz))
        .route("/openapi.json", get(documents::openapi))
        .route("/docs", get(documents::reference))
        .with_state(answering.clone());
    // Of these, answers are often kept, and sent at once.
    let queries = Router::new()
        .route("/v1/query", get(query::query))
        .route("/v1/query.csv", query::in_form(Form::Csv))
        .route("/v1/query.ndjson", query::in_form(Form::Lines))
        .route("/v1/query.arrow", query::in_form(Form::Arrow))
        .route("/v1/query.parquet", query::in_form(Form::Parquet))
        .with_state(answering.clone());
    let read = Router::new()
        .route("/v1/explain", get(explain::explain))
        .route("/v1/status", get(status::status))
        .route("/v1/dead-letters", get(dead_letters::dead_letters))
        .merge(prometheus::routes())
        .with_state(answering.clone())
        .merge(Router::new().route("/v1/live", get(live::live)).with_state(Arc::clone(&push)))
        .route_layer(from_fn_with_state(answering.clone(), elsewhere))
        .merge(queries);
    let admin = Router::new().route("/v1/layers/{layer}/{action}", post(control::control)).with_state(answering.clone());
    Routes { open, read, admin, push }
}

/// Answers where answers are made ([`crate::admission`]).
async fn elsewhere(State(answering): State<Answering>, request: Request, next: Next) -> Response {
    answering.live().admission.elsewhere.run(next.run(request)).await
}

/// What is not there says what is.
pub async fn not_found() -> Problem {
    let there = "there are /, /v1/events, /v1/track and /v1/batch (POST), /v1/query, /v1/explain, /v1/live, /v1/status, /v1/dead-letters, /api/v1/query and the others of Prometheus, /v1/layers/{speed|batch}/{pause|resume} (POST), /metrics, /healthz, /readyz, /openapi.json and /docs";
    Problem::new(StatusCode::NOT_FOUND, "not-found", "No such resource", there)
}

/// A 400 that says what to write instead.
fn bad_request(detail: impl Into<String>) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad-request", "The request cannot be understood", detail.into())
}
