//! Requests and their answers (⇄).

use crate::answer::{Answer, Sent, Status};
use crate::error::ClientError;
use crate::events::Events;
use crate::live::Live;
use crate::query::Query;
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, RETRY_AFTER};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioExecutor;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// An answer may have a million rows.
const MAX_ANSWER_BYTES: usize = 1 << 30;
/// An answer that takes longer is none. A query waits at most as long as its `timeout_ms`.
const DEADLINE: Duration = Duration::from_secs(120);
/// What is shown of an answer that is no problem document.
const SHOWN_CHARS: usize = 300;

/// A tidemark, as its clients know it. Clones share connections.
#[derive(Clone, Debug)]
pub struct Client {
    http: hyper_util::client::legacy::Client<tidemark_https::Connector, Full<Bytes>>,
    url: String,
    authorization: Option<HeaderValue>,
}

/// What is posted.
#[derive(Clone, Debug, Default)]
pub struct Body {
    pub content: Bytes,
    pub media_type: Option<&'static str>,
    /// How it is packed: `zstd` or `gzip`.
    pub coding: Option<&'static str>,
}

impl Client {
    /// `authorities` (a file, PEM) are trusted instead of the system's.
    pub fn new(url: &str, key: Option<&str>, authorities: Option<&Path>) -> Result<Self, ClientError> {
        let bearer = |key: &str| {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| ClientError::Key)?;
            value.set_sensitive(true);
            Ok(value)
        };
        let connector = tidemark_https::connector_trusting(authorities).map_err(ClientError::Authorities)?;
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), authorization: key.map(bearer).transpose()? })
    }

    /// Asks a question.
    pub async fn query(&self, query: &Query) -> Result<Answer, ClientError> {
        self.get_as("/v1/query", &query.parameters()).await
    }

    /// Listens to a question. Nothing is asked before the first [`Live::next`].
    pub fn live(&self, query: Query) -> Live {
        Live::new(self.clone(), query)
    }

    /// Where everything stands.
    pub async fn status(&self) -> Result<Status, ClientError> {
        self.get_as("/v1/status", &[]).await
    }

    /// Sends events, at most 100,000 at a time, and waits until Kafka has acknowledged them. After an error that
    /// [is passing](ClientError::is_passing) the same may be sent again: events with an id are counted once.
    pub async fn send(&self, events: &[impl Serialize]) -> Result<Sent, ClientError> {
        let mut lines = Vec::new();
        for event in events {
            serde_json::to_writer(&mut lines, event).map_err(|error| self.nonsense(format!("an event is not JSON: {error}")))?;
            lines.push(b'\n');
        }
        let body = Body { content: lines.into(), media_type: Some("application/x-ndjson"), coding: None };
        self.understood(&self.post("/v1/events", body).await?)
    }

    /// Asks `path` with these parameters.
    pub async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value, ClientError> {
        self.get_as(path, parameters).await
    }

    async fn get_as<T: DeserializeOwned>(&self, path: &str, parameters: &[(&str, &str)]) -> Result<T, ClientError> {
        self.understood(&self.asked(path, parameters, "application/json").await?)
    }

    /// The same, for an answer in another form.
    pub async fn get_text(&self, path: &str, parameters: &[(&str, &str)], form: &str) -> Result<String, ClientError> {
        let body = self.asked(path, parameters, form).await?;
        String::from_utf8(body.into()).map_err(|error| self.nonsense(error.to_string()))
    }

    /// Listens to server-sent events, from behind the one of that id on.
    pub async fn listen(&self, path: &str, parameters: &[(&str, &str)], last_id: Option<&str>) -> Result<Events, ClientError> {
        let headers = [(ACCEPT, Some("text/event-stream")), (HeaderName::from_static("last-event-id"), last_id)];
        let request = self.request(Method::GET, &with_query(path, parameters), &headers, Bytes::new())?;
        let response = self.within(self.begun(request)).await?;
        Ok(Events::new(self.url.clone(), response.into_body()))
    }

    /// Posts a body, and gives the answer's.
    pub async fn post(&self, path: &str, body: Body) -> Result<Bytes, ClientError> {
        let headers = [(CONTENT_TYPE, body.media_type), (CONTENT_ENCODING, body.coding)];
        let request = self.request(Method::POST, path, &headers, body.content)?;
        self.within(self.answered(request)).await
    }

    async fn asked(&self, path: &str, parameters: &[(&str, &str)], form: &str) -> Result<Bytes, ClientError> {
        let request = self.request(Method::GET, &with_query(path, parameters), &[(ACCEPT, Some(form))], Bytes::new())?;
        self.within(self.answered(request)).await
    }

    async fn within<T>(&self, answered: impl Future<Output = Result<T, ClientError>>) -> Result<T, ClientError> {
        let late = |_| self.unavailable(format!("no answer within {} s", DEADLINE.as_secs()));
        tokio::time::timeout(DEADLINE, answered).await.map_err(late)?
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        headers: &[(HeaderName, Option<&str>)],
        body: Bytes,
    ) -> Result<Request<Full<Bytes>>, ClientError> {
        let mut request = Request::builder().method(method).uri(format!("{}{path}", self.url));
        for (name, value) in headers {
            request = value.iter().fold(request, |request, value| request.header(name, *value));
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        request.body(Full::new(body)).map_err(|error| self.unavailable(error.to_string()))
    }

    async fn answered(&self, request: Request<Full<Bytes>>) -> Result<Bytes, ClientError> {
        let body = Limited::new(self.begun(request).await?.into_body(), MAX_ANSWER_BYTES).collect().await;
        Ok(body.map_err(|error| self.unavailable(format!("the answer broke off: {error}")))?.to_bytes())
    }

    /// An answer whose body is still to come; what was refused is an error.
    async fn begun(&self, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, ClientError> {
        let response = self.http.request(request).await.map_err(|error| self.unavailable(tidemark_https::with_sources(&error)))?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let (detail, retry_after) = (detail(&body), retry_after(&head.headers));
        Err(ClientError::Refused { url: self.url.clone(), status: head.status, detail, retry_after })
    }

    fn understood<T: DeserializeOwned>(&self, body: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(body).map_err(|error| self.nonsense(error.to_string()))
    }

    fn unavailable(&self, reason: String) -> ClientError {
        ClientError::Unavailable { url: self.url.clone(), reason }
    }

    /// For an answer that does not say what it should.
    pub fn nonsense(&self, reason: impl Into<String>) -> ClientError {
        ClientError::Nonsense { url: self.url.clone(), reason: reason.into() }
    }
}

fn with_query(path: &str, parameters: &[(&str, &str)]) -> String {
    if parameters.is_empty() {
        return path.to_owned();
    }
    format!("{path}?{}", form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish())
}

/// The detail of a problem document, else the beginning of whatever was answered.
fn detail(body: &[u8]) -> String {
    let problem: Option<Value> = serde_json::from_slice(body).ok();
    let detail = problem.as_ref().and_then(|problem| problem.get("detail")?.as_str());
    detail.map_or_else(|| String::from_utf8_lossy(body).chars().take(SHOWN_CHARS).collect(), str::to_owned)
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}
