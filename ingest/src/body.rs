//! What a request's headers promise about its body, and unpacking it within a limit. Pure: no request, no runtime.

use crate::dialect::cloudevents::Head;
use crate::problem::Problem;
use axum::http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use std::fmt;
use std::io::{self, Read};

/// Longest body as it is sent. A client that has more sends several requests: an answer is all or nothing, so a huge
/// request is a huge retry.
pub const MAX_SENT_BYTES: usize = 32 * 1024 * 1024;
/// Longest body once it is unpacked; four times what may be sent, for one request may not fill the memory.
pub const MAX_UNPACKED_BYTES: usize = 128 * 1024 * 1024;
/// Largest zstd window, as a power of two: the 8 MiB that RFC 9659 sets for the content coding. Without a limit, a
/// frame's header could ask for a window of any size.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// What a packed body is expected to grow by; events in JSON shrink to between a tenth and a twentieth.
const EXPECTED_GROWTH: usize = 32;

/// How the items stand in the body.
#[derive(Clone, Debug)]
pub enum Form {
    /// One JSON object, or an array of them.
    Json,
    /// One JSON object a line.
    Lines,
    /// CloudEvents: the data of one, whose attributes are in the head.
    Binary(Head),
    /// CloudEvents: one.
    Structured,
    /// CloudEvents: an array of them.
    Batched,
    /// Segment: one call.
    Track,
    /// Segment: an object with calls in it.
    Batch,
}

impl Form {
    /// Whether a dialect means that the answer's status says what became of the one event in it.
    pub fn is_one(&self) -> bool {
        matches!(self, Self::Binary(_) | Self::Structured | Self::Track)
    }

    /// Whether there is an event in a body without a byte.
    pub fn may_be_empty(&self) -> bool {
        matches!(self, Self::Binary(_))
    }
}

/// How the body is packed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Coding {
    Identity,
    Gzip,
    Zstd,
}

impl fmt::Display for Coding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Identity => "identity",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        })
    }
}

/// Why a body could not be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum UnpackError {
    /// It goes on beyond the limit; unpacking stopped there.
    #[error("longer than {limit} bytes when unpacked")]
    TooLong { limit: usize },
    #[error("broken or cut off: {0}")]
    Broken(#[from] io::Error),
}

const TYPES: &str = "application/json (one object or an array of objects), application/x-ndjson (one object a line), \
                     application/cloudevents+json or application/cloudevents-batch+json";

/// Reads `Content-Type`: how events stand in a body of `POST /v1/events`.
pub fn form(headers: &HeaderMap) -> Result<Form, Problem> {
    let media_type = media_type(headers);
    match (media_type.as_deref(), Head::of(headers)) {
        (Some("application/cloudevents+json"), _) => Ok(Form::Structured),
        (Some("application/cloudevents-batch+json"), _) => Ok(Form::Batched),
        (Some(other), _) if other.starts_with("application/cloudevents") => Err(wrong_type(Some(other), TYPES)),
        (_, Some(head)) => Ok(Form::Binary(head)),
        (Some("application/json"), None) => Ok(Form::Json),
        (Some("application/x-ndjson" | "application/ndjson" | "application/jsonl"), None) => Ok(Form::Lines),
        (other, None) => Err(wrong_type(other, TYPES)),
    }
}

/// The same where only JSON is spoken.
pub fn json(headers: &HeaderMap, form: Form) -> Result<Form, Problem> {
    match media_type(headers).as_deref() {
        Some("application/json") => Ok(form),
        other => Err(wrong_type(other, "application/json")),
    }
}

fn media_type(headers: &HeaderMap) -> Option<String> {
    let sent = String::from_utf8_lossy(headers.get(CONTENT_TYPE)?.as_bytes()).to_ascii_lowercase();
    Some(sent.split(';').next().unwrap_or_default().trim().to_owned())
}

fn wrong_type(sent: Option<&str>, types: &str) -> Problem {
    let detail = match sent {
        Some(other) => format!("`{other}` is not accepted; send {types}, and say so in Content-Type"),
        None => format!("Content-Type is missing; send {types}"),
    };
    unsupported("unsupported-media-type", "Unsupported media type", detail)
        .header(ACCEPT, HeaderValue::from_static("application/json, application/x-ndjson"))
}

/// Reads `Content-Encoding`.
pub fn coding(headers: &HeaderMap) -> Result<Coding, Problem> {
    let sent =
        headers.get_all(CONTENT_ENCODING).iter().map(|value| String::from_utf8_lossy(value.as_bytes())).collect::<Vec<_>>().join(", ");
    match sent.trim().to_ascii_lowercase().as_str() {
        "" | "identity" => Ok(Coding::Identity),
        "gzip" | "x-gzip" => Ok(Coding::Gzip),
        "zstd" => Ok(Coding::Zstd),
        other => Err(unsupported(
            "unsupported-encoding",
            "Unsupported content encoding",
            format!("`{other}` is not accepted; pack the body once, with gzip or zstd, or send it as it is"),
        )
        .header(ACCEPT_ENCODING, HeaderValue::from_static("zstd, gzip, identity"))),
    }
}

fn unsupported(kind: &'static str, title: &str, detail: String) -> Problem {
    Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, kind, title, detail)
}

/// How much memory to set aside for a packed body before its real size is known.
pub fn expected_bytes(packed: usize) -> usize {
    packed.saturating_mul(EXPECTED_GROWTH).min(MAX_UNPACKED_BYTES)
}

/// Unpacks a whole body, and stops as soon as it is longer than `limit`.
pub fn unpack(coding: Coding, packed: &[u8], limit: usize) -> Result<Vec<u8>, UnpackError> {
    match coding {
        Coding::Identity => read_within(packed, limit),
        Coding::Gzip => read_within(flate2::bufread::MultiGzDecoder::new(packed), limit),
        Coding::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(packed)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            read_within(decoder, limit)
        }
    }
}

fn read_within(reader: impl Read, limit: usize) -> Result<Vec<u8>, UnpackError> {
    // Memory that is not written to costs nothing, while growing by doubling would cost twice what was set aside.
    let mut unpacked = Vec::with_capacity(limit.saturating_add(1));
    let one_more = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
    reader.take(one_more).read_to_end(&mut unpacked)?;
    if unpacked.len() > limit {
        return Err(UnpackError::TooLong { limit });
    }
    unpacked.shrink_to_fit();
    Ok(unpacked)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn packed(coding: Coding, bytes: &[u8]) -> Vec<u8> {
        match coding {
            Coding::Identity => bytes.to_vec(),
            Coding::Gzip => {
                let mut encoder = flate2::write::GzEncoder::new(Vec::new(), Default::default());
                encoder.write_all(bytes).unwrap();
                encoder.finish().unwrap()
            }
            Coding::Zstd => zstd::encode_all(bytes, 3).unwrap(),
        }
    }

    const ALL: [Coding; 3] = [Coding::Identity, Coding::Gzip, Coding::Zstd];

    #[test]
    fn a_body_is_unpacked_up_to_the_limit_and_not_a_byte_further() {
        let body = b"tide".repeat(50_000);
        for coding in ALL {
            let sent = packed(coding, &body);
            assert_eq!(unpack(coding, &sent, body.len()).unwrap(), body, "{coding}");
            let short = unpack(coding, &sent, body.len() - 1);
            assert!(matches!(short, Err(UnpackError::TooLong { .. })), "{coding}");
        }
    }

    #[test]
    fn members_one_after_the_other_are_one_body() {
        for coding in ALL {
            let sent = [packed(coding, b"ebb "), packed(coding, b"flow")].concat();
            assert_eq!(unpack(coding, &sent, 100).unwrap(), b"ebb flow", "{coding}");
            let many = [packed(coding, b"").repeat(20_000), sent].concat();
            assert_eq!(unpack(coding, &many, 100).unwrap(), b"ebb flow", "{coding}");
        }
    }

    #[test]
    fn a_body_that_is_cut_anywhere_or_followed_by_rubbish_is_broken() {
        for coding in [Coding::Gzip, Coding::Zstd] {
            let sent = packed(coding, &b"tide".repeat(50));
            for end in 1..sent.len() {
                let cut = unpack(coding, &sent[..end], 1000);
                assert!(matches!(cut, Err(UnpackError::Broken(_))), "{coding} at {end}");
            }
            let longer = [sent.as_slice(), b"rubbish"].concat();
            assert!(matches!(unpack(coding, &longer, 1000), Err(UnpackError::Broken(_))), "{coding}");
        }
    }

    #[test]
    fn headers_are_read_as_the_rfc_has_them_and_what_is_refused_names_what_is_not() {
        fn check(name: &'static str, value: &'static str, is: &str) {
            let mut headers = HeaderMap::new();
            headers.insert(name, HeaderValue::from_static(value));
            let form = form(&headers).map_or("refused".to_owned(), |form| format!("{form:?}"));
            assert!(form.starts_with(is), "{value}: {form}");
        }
        check("content-type", "application/json", "Json");
        check("content-type", "Application/JSON; charset=utf-8", "Json");
        check("content-type", "application/x-ndjson", "Lines");
        check("content-type", "application/ndjson", "Lines");
        check("content-type", "application/jsonl", "Lines");
        check("content-type", "application/CloudEvents+json; charset=utf-8", "Structured");
        check("content-type", "application/cloudevents-batch+json", "Batched");
        check("content-type", "application/cloudevents+avro", "refused");
        check("content-type", "text/plain", "refused");
        check("content-type", "", "refused");
        check("accept", "application/json", "refused");
        check("ce-id", "1", "Binary");
        check("ce-time", "2013-01-01T00:00:00Z", "refused");
        let refused = form(&HeaderMap::new()).unwrap_err();
        assert!(refused.detail.contains("application/x-ndjson"), "{}", refused.detail);
        for (value, is) in [
            ("gzip", Some(Coding::Gzip)),
            ("ZSTD", Some(Coding::Zstd)),
            ("identity", Some(Coding::Identity)),
            ("br", None),
            ("gzip, zstd", None),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("content-encoding", HeaderValue::from_static(value));
            assert_eq!(coding(&headers).ok(), is, "{value}");
        }
        assert_eq!(coding(&HeaderMap::new()).unwrap(), Coding::Identity);
    }
}
