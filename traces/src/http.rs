//! Requests: each a span, part of the caller's trace if it tells of one.

use crate::{TRACEPARENT, is_on, join};
use axum::Router;
use axum::extract::{MatchedPath, Request};
use axum::middleware::{Next, from_fn};
use axum::response::Response;
use tracing::{Instrument as _, Span, field, trace_span};

/// Opens a span for each request to a route of `router`, if spans are sent anywhere.
pub fn requests(router: Router) -> Router {
    if is_on() { router.layer(from_fn(follow)) } else { router }
}

/// Those to `/v1/` and `/api/v1/`: probes and pages would be noise.
async fn follow(request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map(MatchedPath::as_str)
        .filter(|route| route.trim_start_matches("/api").starts_with("/v1/"));
    let Some(span) = route.map(|route| opened(&request, route)) else { return next.run(request).await };
    let response = next.run(request).instrument(span.clone()).await;
    let status = response.status();
    span.record("http.response.status_code", status.as_u16());
    if status.is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    response
}

fn opened(request: &Request, route: &str) -> Span {
    let method = request.method().as_str();
    let span = trace_span!(
        parent: None,
        "request",
        otel.name = format!("{method} {route}"),
        otel.kind = "server",
        otel.status_code = field::Empty,
        http.request.method = method,
        http.route = route,
        http.response.status_code = field::Empty,
    );
    if let Some(traceparent) = request.headers().get(TRACEPARENT).and_then(|value| value.to_str().ok()) {
        join(&span, traceparent);
    }
    span
}
