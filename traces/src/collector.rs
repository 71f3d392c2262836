//! Where spans go: a collector that speaks OTLP over HTTP.

use crate::IS_ON;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_http::{Bytes, HttpClient, HttpError, Request, Response};
use opentelemetry_otlp::{SpanExporter, WithHttpConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use std::sync::OnceLock;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::runtime::{Builder, Runtime};
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::registry::LookupSpan;

/// How long the collector may take for an answer. What it does not take is lost, and logged.
const DEADLINE: Duration = Duration::from_secs(10);

/// An answer of the collector. It has a few bytes as a rule.
const MAX_ANSWER_BYTES: usize = 4 << 20;

static PROVIDER: OnceLock<SdkTracerProvider> = OnceLock::new();

/// Why traces cannot begin.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "{name} is `{value}`, but traces are sent by http/protobuf alone: set it so, and name the collector's port for that (4318 as a rule)"
    )]
    Protocol { name: &'static str, value: String },
    #[error("traces cannot be sent: {0}")]
    Exporter(String),
}

/// What spans must be given to so that they reach the collector that the environment names; `None` if it names none, or
/// says that there are to be no traces. `service` is the process's name in them unless the environment has one.
pub fn start<S>(service: &str) -> Result<Option<impl Layer<S>>, StartError>
where
    S: Subscriber + for<'s> LookupSpan<'s>,
{
    let said = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let named = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"].into_iter().any(|name| said(name).is_some());
    let exporter = said("OTEL_TRACES_EXPORTER");
    let wanted = named || exporter.as_deref() == Some("otlp");
    let forbidden =
        exporter.as_deref() == Some("none") || said("OTEL_SDK_DISABLED").is_some_and(|value| value.eq_ignore_ascii_case("true"));
    if !wanted || forbidden {
        return Ok(None);
    }
    for name in ["OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL"] {
        if let Some(value) = said(name).filter(|value| value != "http/protobuf") {
            return Err(StartError::Protocol { name, value });
        }
    }
    let failed = |error: &dyn std::fmt::Display| StartError::Exporter(error.to_string());
    let runtime = Builder::new_current_thread().enable_all().build().map_err(|error| failed(&error))?;
    let client = ThroughOwnRuntime { runtime, client: Client::builder(TokioExecutor::new()).build(tidemark_https::connector()) };
    let exporter = SpanExporter::builder().with_http().with_http_client(client).build().map_err(|error| failed(&error))?;
    let provider = SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource(service)).build();
    let tracer = provider.tracer("tidemark");
    if PROVIDER.set(provider).is_err() {
        return Err(StartError::Exporter("they have begun already".into()));
    }
    IS_ON.store(true, Ordering::Relaxed);
    let ours = Targets::new().with_target("tidemark", LevelFilter::TRACE);
    Ok(Some(tracing_opentelemetry::layer().with_tracer(tracer).with_filter(ours)))
}

/// Sends what has not been sent yet, at the end of the process.
pub fn flush() {
    if let Some(Err(error)) = PROVIDER.get().map(SdkTracerProvider::shutdown) {
        tracing::warn!("the last traces have not been sent: {error}");
    }
}

fn resource(service: &str) -> Resource {
    let attributes = std::env::var("OTEL_RESOURCE_ATTRIBUTES").unwrap_or_default();
    let named = std::env::var("OTEL_SERVICE_NAME").is_ok_and(|name| !name.is_empty())
        || attributes.split(',').any(|attribute| attribute.trim_start().starts_with("service.name="));
    let resource = Resource::builder();
    if named { resource } else { resource.with_service_name(service.to_owned()) }.build()
}

/// Spans are sent by a thread of their own, on which there is no runtime, and which may wait.
#[derive(Debug)]
struct ThroughOwnRuntime {
    runtime: Runtime,
    client: Client<tidemark_https::Connector, Full<Bytes>>,
}

#[async_trait::async_trait]
impl HttpClient for ThroughOwnRuntime {
    async fn send_bytes(&self, request: Request<Bytes>) -> Result<Response<Bytes>, HttpError> {
        let exchange = async {
            let (head, body) = self.client.request(request.map(Full::new)).await?.into_parts();
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await?.to_bytes();
            Ok(Response::from_parts(head, body))
        };
        self.runtime.block_on(async { tokio::time::timeout(DEADLINE, exchange).await })?
    }
}
