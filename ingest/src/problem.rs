//! Problem documents (RFC 9457): what every part of the HTTP interface answers when it cannot do what was asked.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use serde_json::{Map, Value};

/// Seconds after which a client may ask again, where a problem does not say otherwise.
const RETRY_AFTER_S: HeaderValue = HeaderValue::from_static("1");
const MEDIA_TYPE: HeaderValue = HeaderValue::from_static("application/problem+json");

/// An error as the client reads it. What the log says about it is written where it happened.
#[derive(Clone, PartialEq, Debug)]
pub struct Problem {
    pub status: StatusCode,
    /// The stable code for machines: `bad-body` becomes the type `urn:tidemark:problem:bad-body`.
    pub kind: &'static str,
    /// A few words, the same for each problem of this kind.
    pub title: String,
    /// What happened this time, and what to do about it.
    pub detail: String,
    /// Extension members. They cannot replace the standard ones.
    pub extra: Map<String, Value>,
    /// Headers that the status asks for, such as `Retry-After`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
}

impl Problem {
    /// A 503 and a 504 pass: they tell the client when to ask again.
    pub fn new(status: StatusCode, kind: &'static str, title: impl Into<String>, detail: impl Into<String>) -> Self {
        let (title, detail) = (title.into(), detail.into());
        let is_passing = matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::GATEWAY_TIMEOUT);
        let headers = is_passing.then_some((RETRY_AFTER, RETRY_AFTER_S)).into_iter().collect();
        Self { status, kind, title, detail, extra: Map::new(), headers }
    }

    /// Adds an extension member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a header, or replaces it.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// The document's members.
    pub fn document(&self) -> Map<String, Value> {
        let mut members = self.extra.clone();
        let mut set = |name: &str, value: Value| members.insert(name.to_owned(), value);
        set("type", format!("urn:tidemark:problem:{}", self.kind).into());
        set("title", self.title.as_str().into());
        set("status", self.status.as_u16().into());
        set("detail", self.detail.as_str().into());
        members
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response<Body> {
        let text = Value::Object(self.document()).to_string();
        let mut response = Response::new(Body::from(text));
        *response.status_mut() = self.status;
        response.headers_mut().insert(CONTENT_TYPE, MEDIA_TYPE);
        for (name, value) in self.headers {
            response.headers_mut().insert(name, value);
        }
        response
    }
}

/// A problem document (RFC 9457), as it is described. There may be further members.
#[derive(Debug, utoipa::ToSchema)]
#[schema(as = Problem)]
pub struct Described {
    /// The stable code for machines.
    #[schema(pattern = "^urn:tidemark:problem:", example = "urn:tidemark:problem:bad-request")]
    pub r#type: String,
    /// A few words, the same for each problem of this type.
    pub title: String,
    /// The status again.
    #[schema(minimum = 400, maximum = 599)]
    pub status: u16,
    /// What happened this time, and what to do about it.
    pub detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_passes_says_when_to_ask_again() {
        let again = |status| {
            let response = Problem::new(status, "kind", "Title", "detail").into_response();
            response.headers().get(RETRY_AFTER).map(|value| value.to_str().expect("digits").to_owned())
        };
        assert_eq!(again(StatusCode::SERVICE_UNAVAILABLE).as_deref(), Some("1"));
        assert_eq!(again(StatusCode::GATEWAY_TIMEOUT).as_deref(), Some("1"));
        assert_eq!(again(StatusCode::BAD_REQUEST), None);
        let later =
            Problem::new(StatusCode::SERVICE_UNAVAILABLE, "kind", "Title", "detail").header(RETRY_AFTER, HeaderValue::from_static("30"));
        assert_eq!(later.into_response().headers()[RETRY_AFTER], "30");
    }

    #[test]
    fn an_extension_member_cannot_replace_a_standard_one() {
        let problem = Problem::new(StatusCode::CONFLICT, "stale", "Stale", "look again").with("status", 200).with("position", "0:7");
        assert_eq!(
            Value::Object(problem.document()),
            serde_json::json!({
                "type": "urn:tidemark:problem:stale", "title": "Stale", "status": 409,
                "detail": "look again", "position": "0:7",
            })
        );
    }
}
