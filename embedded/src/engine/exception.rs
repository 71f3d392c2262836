//! What goes wrong in the engine, in ClickHouse's own terms: a number, a text, and the HTTP status that goes with it.

use std::fmt;

use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

/// The ClickHouse error numbers that this front uses itself. The engine's own come through as they are.
pub(crate) mod code {
    pub(crate) const BAD_ARGUMENTS: u32 = 36;
    pub(crate) const CHECKSUM_DOESNT_MATCH: u32 = 40;
    pub(crate) const UNKNOWN_COMPRESSION_METHOD: u32 = 89;
    pub(crate) const UNKNOWN_SETTING: u32 = 115;
    pub(crate) const TIMEOUT_EXCEEDED: u32 = 159;
    pub(crate) const READONLY: u32 = 164;
    pub(crate) const TOO_MANY_SIMULTANEOUS_QUERIES: u32 = 202;
    pub(crate) const NETWORK_ERROR: u32 = 210;
    pub(crate) const CORRUPTED_DATA: u32 = 246;
    pub(crate) const CANNOT_DECOMPRESS: u32 = 271;
    pub(crate) const QUERY_IS_PROHIBITED: u32 = 392;
    pub(crate) const HTTP_BODY_TOO_LARGE: u32 = 641;
    /// ClickHouse's number for errors without a number of their own.
    pub(crate) const ENGINE_LOST: u32 = 1002;
}

/// A ClickHouse exception: `code` is what a program acts on, `text` what a person reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Exception {
    pub(crate) code: u32,
    pub(crate) text: String,
}

impl Exception {
    /// An error of this front, worded like the engine's own, so that clients parse both alike.
    pub(crate) fn new(code: u32, text: impl fmt::Display) -> Self {
        Self { code, text: format!("Code: {code}. DB::Exception: {text}") }
    }

    /// An error text of the engine. The first `Code: N` counts: nested exceptions repeat the pattern.
    pub(crate) fn from_engine(text: String) -> Self {
        let digits = text.split_once("Code: ").map_or("", |(_, rest)| rest);
        let end = digits.find(|c: char| !c.is_ascii_digit()).unwrap_or(digits.len());
        let code = digits[..end].parse().unwrap_or(code::ENGINE_LOST);
        Self { code, text }
    }

    /// The status that a ClickHouse server gives with this code; what the server leaves at 500 stays 500.
    pub(crate) fn status(&self) -> StatusCode {
        match self.code {
            // malformed texts, values and settings
            6 | 26 | 27 | 33 | 36 | 38 | 40 | 41 | 43 | 44 | 53 | 62 | 69 | 70 | 72 | 89 | 115 | 117 | 120 | 131 | 271 | 354 | 386
            | 392 | 456 | 457 => StatusCode::BAD_REQUEST,
            // a table, column, function, type, engine, database that is not there
            16 | 46 | 47 | 50 | 56 | 60 | 81 => StatusCode::NOT_FOUND,
            164 | 291 | 446 | 497 => StatusCode::FORBIDDEN,
            159 | 209 => StatusCode::REQUEST_TIMEOUT,
            641 => StatusCode::PAYLOAD_TOO_LARGE,
            48 => StatusCode::NOT_IMPLEMENTED,
            202 | 439 => StatusCode::SERVICE_UNAVAILABLE,
            _ => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

impl fmt::Display for Exception {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl IntoResponse for Exception {
    fn into_response(self) -> Response {
        let headers = [
            (header::HeaderName::from_static("x-clickhouse-exception-code"), self.code.to_string()),
            (header::CONTENT_TYPE, "text/plain; charset=UTF-8".to_owned()),
        ];
        (self.status(), headers, self.text + "\n").into_response()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_code_in_the_text_counts() {
        #[track_caller]
        fn check(text: &str, code: u32, status: u16) {
            let exception = Exception::from_engine(text.to_owned());
            assert_eq!((exception.code, exception.status().as_u16()), (code, status), "{text}");
        }
        check("Code: 60. DB::Exception: Table x does not exist. (UNKNOWN_TABLE)", 60, 404);
        check("while pushing to view v: Code: 395. DB::Exception: Value: Code: 62. (X)", 395, 500);
        check("Code: 62. DB::Exception: Syntax error", 62, 400);
        check("Code: 497", 497, 403);
        check("Code: ", 1002, 500);
        check("no number at all", 1002, 500);
    }
}
