//! Posts one batch until it is answered (⇄).

use super::files::Batch;
use super::report::{Acknowledged, Answer};
use super::{Cause, SendError, SendOptions, Stop};
use axum::http::Uri;
use axum::http::uri::PathAndQuery;
use bytes::Bytes;
use std::net::IpAddr;
use std::time::Duration;
use tidemark_client::{Body, ClientError};
use tidemark_core::cut::Cut;
use tokio::time::Instant;

/// How long an answer may take: twice what ingest waits for the brokers by default.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(60);
/// Pauses between attempts begin here and double…
const FIRST_PAUSE: Duration = Duration::from_millis(100);
/// …up to here; also the most that a server's Retry-After is heeded.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// zstd's level for bodies: events shrink to a twelfth at the speed of a fast network.
const PACK_LEVEL: i32 = 1;

/// Where batches go.
#[derive(Debug)]
pub(super) struct Client {
    http: tidemark_client::Client,
    /// What is posted to.
    path: String,
    pack: bool,
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
        let key = options.key.as_ref().map(|key| key.0.as_str());
        let server = format!("{}://{}", uri.scheme_str().unwrap_or_default(), uri.authority().map_or("", |authority| authority.as_str()));
        let http = tidemark_client::Client::new(&server, key, options.authorities.as_deref());
        let http = http.map_err(|error| match error {
            ClientError::Key => SendError::Key,
            other => SendError::Authorities { reason: other.to_string() },
        })?;
        let path = uri.path_and_query().map_or("", |path| path.as_str()).to_owned();
        Ok(Self { http, path, pack: options.pack.unwrap_or_else(|| !is_this_machine(&uri)), retry_for: options.retry_for })
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
                    let judged = answer.reasons().values().sum::<u64>().saturating_add(answer.accepted);
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

    async fn attempt(&self, content: Bytes) -> Attempt {
        let body = Body { content, media_type: Some("application/x-ndjson"), coding: self.pack.then_some("zstd") };
        match self.http.post(&self.path, body).await {
            Ok(text) => understand(&text),
            Err(error) => failed(error),
        }
    }
}

fn failed(error: ClientError) -> Attempt {
    let is_passing = error.is_passing();
    match error {
        ClientError::Refused { status, detail, retry_after, .. } if is_passing => {
            Attempt::Failed { reason: format!("{status}: {detail}"), pause: retry_after }
        }
        ClientError::Refused { status, detail, .. } => Attempt::Stopped(Cause::Refused { status: status.as_u16(), detail }),
        ClientError::Unavailable { reason, .. } => Attempt::Failed { reason, pause: None },
        other => Attempt::Stopped(Cause::Internal(other.to_string())),
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
