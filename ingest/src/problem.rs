//! Problem documents (RFC 9457): what every part of the HTTP interface answers when it cannot do what was asked.

use axum::body::Body;
use axum::http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use axum::http::{Response, StatusCode};
use axum::response::IntoResponse;
use serde_json::{Map, Value};

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
    pub fn new(status: StatusCode, kind: &'static str, title: impl Into<String>, detail: impl Into<String>) -> Self {
        let (title, detail) = (title.into(), detail.into());
        Self { status, kind, title, detail, extra: Map::new(), headers: Vec::new() }
    }

    /// Adds an extension member.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.extra.insert(name.to_owned(), value.into());
        self
    }

    /// Adds a header.
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
