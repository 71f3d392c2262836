//! Traces (OpenTelemetry): the way of a request, and of the events that it brought, through all processes.
//!
//! On where the environment names a collector (`OTEL_EXPORTER_OTLP_ENDPOINT` and its kin, as the OpenTelemetry
//! specification has them), else off, and then a span costs the look at a number. A part opens spans with `tracing`, at
//! the level `trace`; here they become spans of OpenTelemetry, and find their parents across processes: by the header
//! `traceparent` of requests and of Kafka records (W3C Trace Context). The one door to the crates of OpenTelemetry.

mod collector;
mod http;
mod journeys;

pub use collector::{StartError, flush, start};
pub use http::requests;
pub use journeys::Journeys;

use opentelemetry::propagation::TextMapPropagator as _;
use opentelemetry::trace::TraceContextExt as _;
use opentelemetry_sdk::propagation::TraceContextPropagator;
use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// The header that tells a server, or a reader of the log, whose work its own is part of.
pub const TRACEPARENT: &str = "traceparent";

static IS_ON: AtomicBool = AtomicBool::new(false);

/// True if spans are sent anywhere.
pub fn is_on() -> bool {
    IS_ON.load(Ordering::Relaxed)
}

/// What a [`TRACEPARENT`] must say so that work elsewhere is part of this span; `None` if nobody follows it.
pub fn traceparent(span: &Span) -> Option<String> {
    if !is_on() {
        return None;
    }
    let context = span.context();
    if !context.span().span_context().is_sampled() {
        return None;
    }
    let mut headers = HashMap::new();
    TraceContextPropagator::new().inject_context(&context, &mut headers);
    headers.remove(TRACEPARENT)
}

/// Makes a span that has just been opened part of work elsewhere.
fn join(span: &Span, traceparent: &str) {
    let headers = HashMap::from([(TRACEPARENT.to_owned(), traceparent.to_owned())]);
    // What is no traceparent gives no parent, and the span begins a trace of its own, as the specification wants.
    let _ = span.set_parent(TraceContextPropagator::new().extract(&headers));
}
