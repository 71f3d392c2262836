//! `GET /metrics`, and how long requests take.

use crate::{Family, Histogram, Registry, Unit, latencies};
use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::http::{StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use prometheus_client::encoding::text::{encode_eof, encode_registry};
use std::sync::Arc;
use std::time::Instant;

const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

type Route = [(&'static str, String); 2];
type Requests = Family<Route, Histogram, fn() -> Histogram>;

/// What a process tells: what is its own, and what belongs to the part of it that answers now, which may change.
#[derive(Clone)]
struct Told {
    own: Arc<Registry>,
    answering: Answering,
}

/// Says what is registered by the part of the process that answers now.
pub type Answering = Arc<dyn Fn() -> Arc<Registry> + Send + Sync>;

/// `GET /metrics`: all that is registered, as OpenMetrics text.
pub fn routes(own: Registry, answering: Answering) -> Router {
    Router::new().route("/metrics", get(metrics)).with_state(Told { own: Arc::new(own), answering })
}

async fn metrics(State(told): State<Told>) -> Response {
    let mut text = String::new();
    let answering = (told.answering)();
    let written =
        encode_registry(&mut text, &told.own).and_then(|()| encode_registry(&mut text, &answering)).and_then(|()| encode_eof(&mut text));
    match written {
        Ok(()) => ([(header::CONTENT_TYPE, OPEN_METRICS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("writing the metrics: {error}\n")).into_response(),
    }
}

/// Times the requests to all routes of `router`, by route and status.
pub fn timed(registry: &mut Registry, router: Router) -> Router {
    let requests: Requests = Family::new_with_constructor(latencies);
    let help = "From a request's head to its answer's, by route and status";
    registry.register_with_unit("tidemark_http_request_duration", help, Unit::Seconds, requests.clone());
    router.layer(from_fn_with_state(requests, time))
}

async fn time(State(requests): State<Requests>, request: Request, next: Next) -> Response {
    // What has no route is one row, whatever it was: addresses that people make up must not fill the memory.
    let path = request.extensions().get::<MatchedPath>().map_or_else(|| "none".to_owned(), |path| path.as_str().to_owned());
    let began = Instant::now();
    let response = next.run(request).await;
    let labels = [("route", path), ("status", response.status().as_u16().to_string())];
    requests.get_or_create(&labels).observe(began.elapsed().as_secs_f64());
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::{Body, to_bytes};
    use tower::ServiceExt as _;

    async fn get_text(router: &Router, path: &str) -> String {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let response = router.clone().oneshot(request).await.expect("an answer");
        let bytes = to_bytes(response.into_body(), usize::MAX).await.expect("a body");
        String::from_utf8(bytes.to_vec()).expect("text")
    }

    #[tokio::test]
    async fn requests_are_timed_by_route_and_status() {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(crate::Process));
        let router = Router::new().route("/v1/things/{id}", get(|| async { StatusCode::IM_A_TEAPOT }));
        let router =
            timed(&mut registry, router.fallback(|| async { StatusCode::NOT_FOUND })).merge(routes(registry, Arc::new(Arc::default)));
        for path in ["/v1/things/1", "/v1/things/2", "/made/up"] {
            get_text(&router, path).await;
        }
        let text = get_text(&router, "/metrics").await;
        for line in [
            "tidemark_http_request_duration_seconds_count{route=\"/v1/things/{id}\",status=\"418\"} 2",
            "tidemark_http_request_duration_seconds_count{route=\"none\",status=\"404\"} 1",
            "# TYPE process_cpu_seconds counter",
        ] {
            assert!(text.lines().any(|known| known == line), "{line} is not in\n{text}");
        }
        assert!(text.ends_with("# EOF\n"));
        let resident = text.lines().find_map(|line| line.strip_prefix("process_resident_memory_bytes ")).expect("memory");
        assert!(resident.parse::<u64>().expect("a number") > 1 << 20, "{resident} bytes");
    }
}
