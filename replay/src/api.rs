//! A client of a running tidemark's queries (⇄).

use axum::http::header::AUTHORIZATION;
use axum::http::{HeaderValue, Request, StatusCode};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty, Limited};
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
        let query = form_urlencoded::Serializer::new(String::new()).extend_pairs(parameters).finish();
        let url = format!("{}{path}?{query}", self.url);
        let unavailable = |reason: String| ApiError::Unavailable { url: self.url.clone(), reason };
        let mut request = Request::get(&url);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let request = request.body(Empty::new()).map_err(|error| unavailable(error.to_string()))?;
        let answered = async {
            let response = self.http.request(request).await.map_err(|error| unavailable(tidemark_https::with_sources(&error)))?;
            let status = response.status();
            let body = Limited::new(response.into_body(), MAX_ANSWER_BYTES).collect().await;
            Ok((status, body.map_err(|error| unavailable(error.to_string()))?.to_bytes()))
        };
        let late = |_| unavailable(format!("no answer within {} s", DEADLINE.as_secs()));
        let (status, body) = tokio::time::timeout(DEADLINE, answered).await.map_err(late)??;
        let answer: Result<Value, _> = serde_json::from_slice(&body);
        if status != StatusCode::OK {
            let detail = answer.ok().and_then(|problem| Some(problem.get("detail")?.as_str()?.to_owned()));
            return Err(ApiError::Refused { url: self.url.clone(), status, detail: detail.unwrap_or_default() });
        }
        answer.map_err(|error| self.nonsense(error.to_string()))
    }

    pub(crate) fn nonsense(&self, reason: impl Into<String>) -> ApiError {
        ApiError::Nonsense { url: self.url.clone(), reason: reason.into() }
    }
}
