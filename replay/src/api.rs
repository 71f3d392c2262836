//! A client of a running tidemark's queries (⇄).

use axum::http::header::{ACCEPT, AUTHORIZATION};
use axum::http::{HeaderName, HeaderValue, Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Incoming;
use hyper_util::rt::TokioExecutor;
use serde_json::Value;
use std::path::Path;
use std::time::Duration;

/// An answer may have a million rows.
const MAX_ANSWER_BYTES: usize = 1 << 30;
const DEADLINE: Duration = Duration::from_secs(120);

/// Where a tidemark answers.
#[derive(Debug)]
pub struct Api {
    http: hyper_util::client::legacy::Client<tidemark_https::Connector, Empty<Bytes>>,
    url: String,
    authorization: Option<HeaderValue>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    #[error("the key cannot be sent: it has characters that no header may have")]
    Key,
    #[error("{0}")]
    Authorities(String),
    #[error("{url} does not answer: {reason}")]
    Unavailable { url: String, reason: String },
    #[error("{url} refused ({status}): {detail}")]
    Refused { url: String, status: StatusCode, detail: String },
    #[error("{url} answered something that is no answer of tidemark's: {reason}")]
    Nonsense { url: String, reason: String },
}

impl Api {
    /// `authorities` (PEM) are trusted instead of the system's.
    pub fn new(url: &str, key: Option<&str>, authorities: Option<&Path>) -> Result<Self, ApiError> {
        let bearer = |key: &str| {
            let mut value = HeaderValue::from_str(&format!("Bearer {key}")).map_err(|_| ApiError::Key)?;
            value.set_sensitive(true);
            Ok(value)
        };
        let connector = tidemark_https::connector_trusting(authorities).map_err(ApiError::Authorities)?;
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build(connector);
        Ok(Self { http, url: url.trim_end_matches('/').to_owned(), authorization: key.map(bearer).transpose()? })
    }

    /// Asks `path` with these parameters.
    pub async fn get(&self, path: &str, parameters: &[(&str, &str)]) -> Result<Value, ApiError> {
        let body = self.body(path, parameters, "application/json").await?;
        serde_json::from_slice(&body).map_err(|error| self.nonsense(error.to_string()))
    }

    /// The same, for an answer in another form.
    pub async fn get_text(&self, path: &str, parameters: &[(&str, &str)], form: &str) -> Result<String, ApiError> {
        let body = self.body(path, parameters, form).await?;
        String::from_utf8(body.into()).map_err(|error| self.nonsense(error.to_string()))
    }

    /// Listens to server-sent events, from behind the one of that id on.
    pub async fn listen(&self, path: &str, parameters: &[(&str, &str)], last_id: Option<&str>) -> Result<Events, ApiError> {
        let headers = [(ACCEPT, Some("text/event-stream")), (HeaderName::from_static("last-event-id"), last_id)];
        let body = self.within(self.begin(path, parameters, &headers)).await?;
        Ok(Events { url: self.url.clone(), body, read: Vec::new() })
    }

    async fn body(&self, path: &str, parameters: &[(&str, &str)], form: &str) -> Result<Bytes, ApiError> {
        let answered = async {
            let body = self.begin(path, parameters, &[(ACCEPT, Some(form))]).await?;
            let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await;
            Ok(body.map_err(|error| self.unavailable(error.to_string()))?.to_bytes())
        };
        self.within(answered).await
    }

    async fn within<T>(&self, answered: impl Future<Output = Result<T, ApiError>>) -> Result<T, ApiError> {
        let late = |_| self.unavailable(format!("no answer within {} s", DEADLINE.as_secs()));
        tokio::time::timeout(DEADLINE, answered).await.map_err(late)?
    }

    /// An answer's body, if it is one; what was refused is an error.
    async fn begin(&self, path: &str, parameters: &[(&str, &str)], headers: &[(HeaderName, Option<&str>)]) -> Result<Incoming, ApiError> {
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        let mut request = Request::get(format!("{}{path}?{query}", self.url));
        for (name, value) in headers {
            request = value.iter().fold(request, |request, value| request.header(name, *value));
        }
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Empty::new()).map_err(|error| self.unavailable(error.to_string()))?;
        let response = self.http.request(request).await.map_err(|error| self.unavailable(tidemark_https::with_sources(&error)))?;
        let (status, body) = (response.status(), response.into_body());
        if status == StatusCode::OK {
            return Ok(body);
        }
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let problem: Option<Value> = serde_json::from_slice(&body).ok();
        let detail = problem.and_then(|problem| Some(problem.get("detail")?.as_str()?.to_owned()));
        Err(ApiError::Refused { url: self.url.clone(), status, detail: detail.unwrap_or_default() })
    }

    fn unavailable(&self, reason: String) -> ApiError {
        ApiError::Unavailable { url: self.url.clone(), reason }
    }

    pub(crate) fn nonsense(&self, reason: impl Into<String>) -> ApiError {
        ApiError::Nonsense { url: self.url.clone(), reason: reason.into() }
    }
}

/// One server-sent event.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    pub kind: String,
    pub id: Option<String>,
    pub data: Value,
}

/// Server-sent events, as they come.
#[derive(Debug)]
pub struct Events {
    url: String,
    body: Incoming,
    /// What has come of the next one.
    read: Vec<u8>,
}

impl Events {
    /// The next event; `None` when the server has ended the stream.
    pub async fn next(&mut self) -> Result<Option<Event>, ApiError> {
        loop {
            while let Some(end) = self.read.windows(2).position(|pair| pair == b"\n\n") {
                let text: Vec<u8> = self.read.drain(..end + 2).collect();
                let event = event(&String::from_utf8_lossy(&text));
                let nonsense = |reason| ApiError::Nonsense { url: self.url.clone(), reason };
                if let Some(event) = event.map_err(nonsense)? {
                    return Ok(Some(event));
                }
            }
            let frame = match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => frame.map_err(|error| ApiError::Unavailable { url: self.url.clone(), reason: error.to_string() })?,
            };
            if let Ok(data) = frame.into_data() {
                self.read.extend_from_slice(&data);
            }
        }
    }
}

/// The event of some lines; `None` if they are a comment, or something for the client alone.
fn event(text: &str) -> Result<Option<Event>, String> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let Some(data) = field("data") else { return Ok(None) };
    let data = serde_json::from_str(data).map_err(|error| format!("an event's data: {error}"))?;
    Ok(Some(Event { kind: field("event").unwrap_or("message").to_owned(), id: field("id").map(str::to_owned), data }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_are_told_from_comments() {
        let change = event("event: change\nid: 1/0:7\ndata: {\"rows\":[]}\n\n").expect("well formed").expect("an event");
        assert_eq!(change, Event { kind: "change".into(), id: Some("1/0:7".into()), data: json!({"rows": []}) });
        assert_eq!((event(": still here\n\n"), event("retry: 1000\n\n")), (Ok(None), Ok(None)));
        assert!(event("data: {\n\n").is_err());
    }
}
