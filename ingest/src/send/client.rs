//! Posts one batch until it is answered (⇄).

use super::files::Batch;
use super::report::{Acknowledged, Answer};
use super::{Cause, Key, SendError, SendOptions, Stop};
use axum::http::header::{AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, RETRY_AFTER};
use axum::http::uri::PathAndQuery;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::rt::TokioExecutor;
use std::net::IpAddr;
use std::time::Duration;
use tidemark_core::cut::Cut;
use tokio::time::Instant;

/// How long an answer may take: twice what ingest waits for the brokers by default.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(60);
/// Pauses between attempts begin here and double…
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// …up to here; also the most that a server's Retry-After is heeded.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Longest answer: as many rejections as a batch can have.
const MAX_ANSWER_BYTES: usize = 64 * 1024 * 1024;
/// zstd's level for bodies: events shrink to a twelfth at the speed of a fast network.
const PACK_LEVEL: i32 = 1;

/// Where batches go.
#[derive(Debug)]
pub(super) struct Client {
    http: hyper_util::client::legacy::Client<tidemark_https::Connector, Full<Bytes>>,
    uri: Uri,
    pack: bool,
    authorization: Option<HeaderValue>,
    retry_for: Duration,
}

/// How one attempt ended.
enum Attempt {
    Done(Answer, Cut),
    /// It may be repeated, not before the pause that the server asked for.
    Failed {
        reason: String,
        pause: Option<Duration>,
    },
    Stopped(Cause),
}

impl Client {
    pub(super) fn new(url: &str, options: &SendOptions) -> Result<Self, SendError> {
        let uri = address(url).map_err(|reason| SendError::Url { url: url.to_owned(), reason })?;
        let bearer = |key: &Key| {
            let mut value = HeaderValue::from_str(&format!("Bearer {}", key.0)).map_err(|_| SendError::Key)?;
            value.set_sensitive(true);
            Ok(value)
        };
        let authorization = options.key.as_ref().map(bearer).transpose()?;
        let connector = tidemark_https::connector_trusting(options.authorities.as_deref());
        let connector = connector.map_err(|reason| SendError::Authorities { reason })?;
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new());
        Ok(Self {
            http: http.build(connector),
            pack: options.pack.unwrap_or_else(|| !is_this_machine(&uri)),
            uri,
            authorization,
            retry_for: options.retry_for,
        })
    }

    /// Posts a batch, again and again if need be, until it is answered or time is up.
    pub(super) async fn post(&self, mut batch: Batch) -> Result<Acknowledged, Stop> {
        let stop = |batch: &Batch, cause| Stop { name: batch.name.clone(), line: batch.first_line, cause };
        let body = std::mem::take(&mut batch.body);
        let body = self.packed(body).await.map_err(|cause| stop(&batch, cause))?;
        let (started, mut backoff, mut retries) = (Instant::now(), FIRST_PAUSE, 0);
        loop {
            let attempt = tokio::time::timeout(ATTEMPT_DEADLINE, self.attempt(body.clone())).await;
            let (reason, asked) = match attempt {
                Ok(Attempt::Done(answer, position)) => {
                    let judged = (answer.rejected.len() as u64).saturating_add(answer.accepted);
                    if judged != batch.events {
                        let reason = format!("it accounts for {judged} of {} events", batch.events);
                        return Err(stop(&batch, Cause::BadAnswer { reason }));
                    }
                    return Ok(Acknowledged { batch, answer, position, retries });
                }
                Ok(Attempt::Stopped(cause)) => return Err(stop(&batch, cause)),
                Ok(Attempt::Failed { reason, pause }) => (reason, pause),
                Err(_elapsed) => {
                    let seconds = ATTEMPT_DEADLINE.as_secs();
                    (format!("no answer within {seconds} s"), None)
                }
            };
            let pause = asked.unwrap_or_default().max(backoff).min(LONGEST_PAUSE);
            if started.elapsed() + pause > self.retry_for {
                let tried_for = started.elapsed();
                return Err(stop(&batch, Cause::GaveUp { tried_for, reason }));
            }
            tracing::debug!(target: "ingest", file = &*batch.name, line = batch.first_line, "sending a batch again: {reason}");
            tokio::time::sleep(pause).await;
            backoff *= 2;
            retries += 1;
        }
    }

    async fn packed(&self, body: Vec<u8>) -> Result<Bytes, Cause> {
        if !self.pack {
            return Ok(body.into());
        }
        let packed = tokio::task::spawn_blocking(move || zstd::bulk::compress(&body, PACK_LEVEL)).await;
        match packed {
            Ok(Ok(packed)) => Ok(packed.into()),
            Ok(Err(error)) => Err(Cause::Internal(format!("packing: {error}"))),
            Err(error) => Err(Cause::Internal(format!("packing: {error}"))),
        }
    }

    async fn attempt(&self, body: Bytes) -> Attempt {
        let failed = |reason, pause| Attempt::Failed { reason, pause };
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = self.uri.clone();
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        if self.pack {
            headers.insert(CONTENT_ENCODING, HeaderValue::from_static("zstd"));
        }
        let response = match self.http.request(request).await {
            Ok(response) => response,
            Err(error) => return failed(tidemark_https::with_sources(&error), None),
        };
        let (head, body) = response.into_parts();
        let text = match Limited::new(body, MAX_ANSWER_BYTES).collect().await {
            Ok(text) => text.to_bytes(),
            Err(error) => return failed(format!("the answer broke off: {error}"), None),
        };
        let detail = || problem_detail(&text);
        match head.status {
            StatusCode::OK => understand(&text),
            StatusCode::REQUEST_TIMEOUT
            | StatusCode::TOO_MANY_REQUESTS
            | StatusCode::BAD_GATEWAY
            | StatusCode::SERVICE_UNAVAILABLE
            | StatusCode::GATEWAY_TIMEOUT => failed(format!("{}: {}", head.status, detail()), retry_after(&head.headers)),
            status => Attempt::Stopped(Cause::Refused { status: status.as_u16(), detail: detail() }),
        }
    }
}

fn understand(text: &[u8]) -> Attempt {
    let bad = |reason| Attempt::Stopped(Cause::BadAnswer { reason });
    let answer: Answer = match serde_json::from_slice(text) {
        Ok(answer) => answer,
        Err(error) => return bad(error.to_string()),
    };
    match answer.position.parse() {
        Ok(position) => Attempt::Done(answer, position),
        Err(error) => bad(format!("{error}")),
    }
}

/// The detail of a problem document, else the beginning of whatever was answered.
fn problem_detail(text: &[u8]) -> String {
    const MAX_CHARS: usize = 300;
    let document: Option<serde_json::Value> = serde_json::from_slice(text).ok();
    let detail = document.as_ref().and_then(|it| it.get("detail")?.as_str());
    match detail {
        Some(detail) => detail.to_owned(),
        None => String::from_utf8_lossy(text).chars().take(MAX_CHARS).collect(),
    }
}

fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds = headers.get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// Completes what a user writes: the scheme may be missing, and so may the path.
fn address(url: &str) -> Result<Uri, String> {
    let whole = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let uri: Uri = whole.parse().map_err(|error| format!("{error}"))?;
    if !matches!(uri.scheme_str(), Some("http" | "https")) {
        return Err("it must begin with http:// or https://".to_owned());
    }
    let mut parts = uri.into_parts();
    let path = parts.path_and_query.as_ref().map_or("", PathAndQuery::path);
    if matches!(path, "" | "/") {
        parts.path_and_query = Some(PathAndQuery::from_static("/v1/events"));
    }
    Uri::from_parts(parts).map_err(|error| error.to_string())
}

fn is_this_machine(uri: &Uri) -> bool {
    let host = uri.host().unwrap_or_default();
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_leave_out_the_scheme_and_the_path() {
        let check = |url: &str, is: &str| {
            assert_eq!(address(url).map(|uri| uri.to_string()).as_deref(), Ok(is));
        };
        check("localhost:8080", "http://localhost:8080/v1/events");
        check("http://h", "http://h/v1/events");
        check("http://h/", "http://h/v1/events");
        check("http://h/behind/a/proxy", "http://h/behind/a/proxy");
        check("https://h", "https://h/v1/events");
        for wrong in ["ftp://h", "", "http://", "http://a b"] {
            assert!(address(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn this_machine_is_told_from_others() {
        let check = |url: &str| is_this_machine(&address(url).unwrap());
        assert!(check("localhost:1") && check("127.0.0.1:1") && check("[::1]:1"));
        assert!(!check("example.org") && !check("10.0.0.1:1"));
    }
}
