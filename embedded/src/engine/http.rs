//! ClickHouse's HTTP interface in front of the library: receive the whole request, admit it, run it in a session of its own.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::header::{AUTHORIZATION, ORIGIN};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::any;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::StreamExt as _;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::exception::{Exception, code};
use super::request::{Ask, Work};
use super::{BODY_LIMIT_BYTES, gate};
use crate::ffi::chdb::{Chdb, Connection, ResultBuffer};

/// Requests that run at once. Each takes a thread, and the memory of a query; two layers, a server and a dashboard use fewer.
pub(crate) const RUNNING_LIMIT: usize = 16;
/// How long a request waits for its turn before it is told that the engine is busy.
const TURN_LIMIT: Duration = Duration::from_secs(30);
/// Bytes of request bodies in memory at once: two of the largest. Beyond it a client is told to come back.
const BODIES_LIMIT_BYTES: usize = 2 * BODY_LIMIT_BYTES;
/// A client that sends nothing for this long is given up, with what it has sent: a stopped process must not hold memory.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);

/// What all requests share.
pub(crate) struct Front {
    chdb: Chdb,
    /// Arguments of every session.
    base: Vec<String>,
    known_settings: HashSet<String>,
    /// Clients that do not send it may only read.
    secret: Option<String>,
    running: Arc<Semaphore>,
    bodies: Arc<Semaphore>,
    /// A request has met a part that cannot be read.
    corrupted: Notify,
}

impl Front {
    pub(crate) fn new(chdb: Chdb, base: Vec<String>, known_settings: HashSet<String>, secret: Option<String>) -> Self {
        Self {
            chdb,
            base,
            known_settings,
            secret,
            running: Arc::new(Semaphore::new(RUNNING_LIMIT)),
            bodies: Arc::new(Semaphore::new(BODIES_LIMIT_BYTES)),
            corrupted: Notify::new(),
        }
    }

    /// Returns when a request has met a part that cannot be read.
    pub(crate) async fn corrupted(&self) {
        self.corrupted.notified().await;
    }

    pub(crate) fn router(self: &Arc<Self>) -> Router {
        Router::new().fallback(any(handle)).with_state(Arc::clone(self))
    }

    /// Returns when nothing runs any more, also of clients that have gone; nothing can start after that.
    pub(crate) async fn drained(&self) {
        let all = u32::try_from(RUNNING_LIMIT).unwrap_or(u32::MAX);
        if let Ok(turns) = self.running.acquire_many(all).await {
            turns.forget();
        }
    }

    /// Whether a request may change anything.
    fn may_write(&self, headers: &HeaderMap) -> bool {
        let Some(secret) = &self.secret else { return true };
        let basic = || {
            let packed = headers.get(AUTHORIZATION)?.to_str().ok()?.strip_prefix("Basic ")?;
            let pair = String::from_utf8(STANDARD.decode(packed.trim()).ok()?).ok()?;
            Some(pair.split_once(':')?.1.to_owned())
        };
        let key = || Some(headers.get("x-clickhouse-key")?.to_str().ok()?.to_owned());
        // All of it is compared, so that the time does not tell how much is right.
        let is_it = |sent: String| {
            let differing = sent.bytes().zip(secret.bytes()).fold(0, |differing, (a, b)| differing | (a ^ b));
            sent.len() == secret.len() && differing == 0
        };
        key().or_else(basic).is_some_and(is_it)
    }

    async fn turn(&self) -> Result<OwnedSemaphorePermit, Exception> {
        match timeout(TURN_LIMIT, Arc::clone(&self.running).acquire_owned()).await {
            Ok(Ok(turn)) => Ok(turn),
            Ok(Err(_)) => Err(Exception::new(code::ENGINE_LOST, "the engine is stopping; try again when it is back")),
            Err(_) => Err(Exception::new(
                code::TOO_MANY_SIMULTANEOUS_QUERIES,
                format!("{RUNNING_LIMIT} requests have been running for {TURN_LIMIT:?}; try again later"),
            )),
        }
    }

    /// The whole body, and its share of the memory for bodies. A client that goes away in the middle is an error, so
    /// that nothing of what it sent reaches the engine.
    async fn receive(&self, body: Body) -> Result<(Vec<Bytes>, Option<OwnedSemaphorePermit>), Exception> {
        let (mut chunks, mut total) = (Vec::new(), 0);
        let mut share: Option<OwnedSemaphorePermit> = None;
        let mut stream = body.into_data_stream();
        loop {
            let next = timeout(SILENCE_LIMIT, stream.next())
                .await
                .map_err(|_| Exception::new(code::TIMEOUT_EXCEEDED, "the body stopped coming; nothing of it was used, send it again"))?;
            let Some(chunk) = next else {
                return Ok((chunks, share));
            };
            let chunk =
                chunk.map_err(|error| Exception::new(code::NETWORK_ERROR, format!("the client went away, nothing was run: {error}")))?;
            total += chunk.len();
            if total > BODY_LIMIT_BYTES {
                return Err(Exception::new(
                    code::HTTP_BODY_TOO_LARGE,
                    format!("the body is larger than {BODY_LIMIT_BYTES} bytes; send fewer rows in one request"),
                ));
            }
            let size = u32::try_from(chunk.len()).unwrap_or(u32::MAX);
            let more = Arc::clone(&self.bodies).try_acquire_many_owned(size).map_err(|_| {
                Exception::new(
                    code::TOO_MANY_SIMULTANEOUS_QUERIES,
                    format!("{BODIES_LIMIT_BYTES} bytes of other requests are waiting; try again later"),
                )
            })?;
            match &mut share {
                Some(share) => share.merge(more),
                None => share = Some(more),
            }
            chunks.push(chunk);
        }
    }

    fn session(&self, ask: &Ask) -> Result<Connection, Exception> {
        let mut arguments = [self.base.as_slice(), ask.settings.as_slice()].concat();
        if ask.only_reads {
            // 2, as a server does for GET: nothing is written, and settings may still be given.
            arguments.push("--readonly=2".to_owned());
        }
        let session = self.chdb.connect(&arguments).map_err(|error| Exception {
            // The engine does not say which one it was.
            text: format!("{}; settings given: {}", error.text, ask.settings.join(" ")),
            ..error
        })?;
        if let Some(database) = ask.database.as_deref().filter(|&name| name != "default") {
            let quoted = database.replace('\\', "\\\\").replace('`', "\\`");
            session.query(&format!("USE `{quoted}`"), "Null", &[])?;
        }
        Ok(session)
    }

    /// Runs on a thread of its own, for as long as the engine takes.
    fn run(&self, ask: &Ask, work: Work) -> Result<ResultBuffer, Exception> {
        let session = self.session(ask)?;
        match work {
            Work::Insert { sql, format, rows } => {
                // The parser wants the FORMAT; the streamed insert wants it beside the text.
                let whole = format!("{sql} FORMAT {format}");
                gate::admit(&whole, session.classify(&whole), ask.only_reads)?;
                let mut insert = session.insert(&sql, &format)?;
                for chunk in rows {
                    insert.append(&chunk)?;
                }
                insert.finish()
            }
            Work::Statement(sql) => {
                gate::admit(&sql, session.classify(&sql), ask.only_reads)?;
                session.query(&sql, &ask.format, &ask.parameters)
            }
        }
    }
}

async fn handle(State(front): State<Arc<Front>>, request: Request) -> Response {
    match request.uri().path() {
        "/ping" => "Ok.\n".into_response(),
        "/" => answer(front, request).await.unwrap_or_else(Exception::into_response),
        _ => (StatusCode::NOT_FOUND, "there is only / and /ping\n").into_response(),
    }
}

async fn answer(front: Arc<Front>, request: Request) -> Result<Response, Exception> {
    let start = Instant::now();
    let (head, body) = request.into_parts();
    if head.headers.contains_key(ORIGIN) || head.headers.get("sec-fetch-site").is_some_and(|site| site != "none") {
        return Err(Exception::new(code::READONLY, "pages in a browser ask nothing here (READONLY)"));
    }
    let mut ask = Ask::from_url(&head.method, head.uri.query().unwrap_or(""), &front.known_settings)?;
    ask.only_reads |= !front.may_write(&head.headers);
    let (body, share) = front.receive(body).await?;
    let work = ask.with_body(&head.headers, body)?;
    let turn = front.turn().await?;
    // The turn and the share go with the work, not with this request: a client that leaves does not end it.
    let run = move || {
        let _held = (turn, share);
        let result = front.run(&ask, work);
        if result.as_ref().is_err_and(|error| error.code == code::CORRUPTED_DATA) {
            front.corrupted.notify_one();
        }
        result
    };
    let result = tokio::task::spawn_blocking(run)
        .await
        .map_err(|_| Exception::new(code::ENGINE_LOST, "the request's thread failed; the engine's log says why"))??;
    Ok(success(result, start))
}

fn success(result: ResultBuffer, start: Instant) -> Response {
    let summary = serde_json::json!({
        "read_rows": result.rows_read().to_string(),
        "read_bytes": "0",
        "written_rows": result.rows_written().to_string(),
        "written_bytes": "0",
        "elapsed_ns": start.elapsed().as_nanos().to_string(),
    });
    let mut headers = HeaderMap::new();
    if let Ok(summary) = HeaderValue::from_str(&summary.to_string()) {
        headers.insert("x-clickhouse-summary", summary);
    }
    (headers, Body::from(Bytes::copy_from_slice(result.as_ref()))).into_response()
}
