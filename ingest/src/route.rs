//! `POST /v1/events` and its like (⇄): bounds what is in flight, keeps long work off the runtime's threads, and answers when the
//! whole request has been acknowledged.
//!
//! Memory: a request takes room for its body as the bytes arrive, and, if the body is packed, room for the body unpacked.
//! A request that finds no room for two seconds gets a 503 and gives its own back, so requests cannot wait for each other.
//! Work on bodies waits for its turn as long, so that what else the server answers does not wait behind all of them.

use crate::body::{self, Coding, Form, MAX_SENT_BYTES, MAX_UNPACKED_BYTES, UnpackError};
use crate::described::{Attributes, Call, Calls, CloudEvent, Event, Events};
use crate::dialect::segment;
use crate::items::{self, BodyError, Checked, Refusal, Rejection};
use crate::problem::Problem;
use axum::body::Body;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, Request, State};
use axum::http::header::{ALLOW, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::{Router, routing};
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt as _;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;
use tidemark_core::cut::Cut;
use tidemark_core::event::Limits;
use tidemark_https::admission::{Busy, Elsewhere, Gate, Memory, Queue, Taken};
use tidemark_metrics::{Collector, Counter, DescriptorEncoder, Family, Label, Page, Registry};
use tidemark_topic::{Outgoing, Position, Producer, SendError, Throttled, now_ms};
use tracing::{Instrument as _, trace_span};
use utoipa::{IntoParams, ToSchema};

/// Bodies in flight, all together: half for bodies as sent, half for unpacked ones. Each half holds the largest
/// body there may be. Full means that requests get a 503.
const MAX_IN_FLIGHT_BYTES: usize = 256 * 1024 * 1024;
/// Bodies up to this size are dealt with at once, which takes less than a millisecond; longer ones on a thread that
/// may be blocked.
const MAX_INLINE_BYTES: usize = 64 * 1024;
/// How long a body may take to arrive. It holds its room meanwhile.
const ARRIVAL_DEADLINE: Duration = Duration::from_secs(60);
/// After this long without a byte, a body is given up.
const STALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a request waits for room, or for its turn to be worked on, before it gets a 503.
const PATIENCE: Duration = Duration::from_secs(2);
/// Room that is taken for a body before its first byte, at most.
const FIRST_ROOM: usize = 64 * 1024;

/// What ingest needs: where to write, and the rules.
#[derive(Debug)]
pub struct Ingest<P> {
    producer: P,
    limits: Limits,
    sent: Memory,
    unpacked: Memory,
    /// Work on bodies that are dealt with at once, and on longer ones.
    short: Gate,
    long: Gate,
    elsewhere: Elsewhere,
    items: Family<Label, Counter>,
    accepted: Counter,
    rejected: Counter,
    failed: Counter,
}

/// What ingest has done since it started, in items.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Counts {
    /// Acknowledged by the brokers.
    pub accepted: u64,
    /// Not events, in requests that need not be sent again.
    pub rejected: u64,
    /// Valid, but not known to be in the topic. They were answered with a 503.
    pub failed: u64,
}

impl<P: Producer> Ingest<P> {
    /// `limits` are the rules of the generation that reads the topic, so that what is accepted here is an event there.
    pub fn new(producer: P, limits: Limits) -> Self {
        let room = || Memory::new(MAX_IN_FLIGHT_BYTES / 2, PATIENCE);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        // Connections bound how many wait.
        let queue = Queue { length: usize::MAX, patience: PATIENCE };
        let (short, long) = (Gate::new(2 * cores, queue), Gate::new(cores, queue));
        let items: Family<Label, Counter> = Family::default();
        let of = |outcome| items.get_or_create_owned(&[("outcome", outcome)]);
        let (accepted, rejected, failed) = (of("accepted"), of("rejected"), of("failed"));
        let elsewhere = Elsewhere::here();
        Self { producer, limits, sent: room(), unpacked: room(), short, long, elsewhere, items, accepted, rejected, failed }
    }

    /// Registers what ingest has to say.
    pub fn register(&self, registry: &mut Registry) {
        let help = "Items of requests: acknowledged by Kafka, not events, and not known to be in the topic";
        registry.register("tidemark_ingest_items", help, self.items.clone());
        let rooms = [("sent", self.sent.clone()), ("unpacked", self.unpacked.clone())];
        registry.register_collector(Box::new(Standing { rooms, throttled: self.producer.throttled() }));
    }

    pub fn producer(&self) -> &P {
        &self.producer
    }

    pub fn counts(&self) -> Counts {
        Counts { accepted: self.accepted.get(), rejected: self.rejected.get(), failed: self.failed.get() }
    }
}

/// How things stand, looked up when it is asked for.
#[derive(Debug)]
struct Standing {
    /// For bodies.
    rooms: [(&'static str, Memory); 2],
    throttled: Throttled,
}

impl Collector for Standing {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut page = Page(encoder);
        let bytes = |of: fn(&Memory) -> usize| self.rooms.iter().map(move |(body, room)| (*body, of(room) as u64));
        page.gauges(
            ("tidemark_ingest_room_used_bytes", "Room that bodies in flight take up; when it is full, requests get a 503"),
            "body",
            bytes(Memory::used),
        )?;
        page.gauges(("tidemark_ingest_room_limit_bytes", "Room for bodies in flight"), "body", bytes(Memory::limit))?;
        let help = "How long Kafka makes the producer wait for an answer, because of a quota";
        page.gauge(("tidemark_ingest_throttled_seconds", help), self.throttled.current().as_secs_f64())
    }
}

/// Where events are sent to, writing through `ingest`.
pub fn routes<P: Producer + Send + Sync + 'static>(ingest: Arc<Ingest<P>>) -> Router {
    Router::new()
        .route("/v1/events", routing::post(post_events::<P>).fallback(only_post))
        .route("/v1/track", routing::post(post_track::<P>).fallback(only_post))
        .route("/v1/batch", routing::post(post_batch::<P>).fallback(only_post))
        .with_state(ingest)
}

async fn only_post() -> Problem {
    Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "method-not-allowed",
        "Method not allowed",
        "events are sent with POST; they are counted with GET /v1/query",
    )
    .header(ALLOW, HeaderValue::from_static("POST"))
}

/// Send events
///
/// Answers when Kafka has acknowledged them. A CloudEvents event may be sent in binary mode too: its attributes as headers, its data as the body, of any
/// JSON media type.
#[utoipa::path(
    post, path = "/v1/events", tag = "ingest", params(Wanted, Attributes), security(("key" = ["ingest"])),
    request_body(description = "Packed by gzip or zstd, if Content-Encoding says so; at most 32 MiB as sent, 128 MiB unpacked, 100,000 events.", content(
        (Events = "application/json", examples(
            ("event" = (summary = "One event", value = json!({"event_type": "Order Completed", "timestamp": "2013-01-01T10:15:00Z", "event_id": "order-1", "product_id": "p-1", "user_id": "user-1", "order_amount": 19.99}))),
            ("events" = (summary = "Several", value = json!([{"event_type": "Product Viewed", "timestamp": 1_357_035_300_000_i64}]))),
        )),
        (String = "application/x-ndjson", example = json!("{\"event_type\":\"Product Viewed\",\"timestamp\":1357035300000}\n")),
        (CloudEvent = "application/cloudevents+json", example = json!({"specversion": "1.0", "id": "1", "source": "/shop", "type": "com.example.order", "time": "2013-01-01T10:15:00Z", "data": {"product_id": "p-1", "order_amount": 19.99}})),
        (Vec<CloudEvent> = "application/cloudevents-batch+json", example = json!([{"specversion": "1.0", "id": "2", "source": "/shop", "type": "com.example.order", "time": "2013-01-01T10:15:00Z"}])),
    )),
    responses(
        (status = 200, description = "What is an event is in the topic", body = Answer),
        (status = 400, description = "The body cannot be read, or the one CloudEvents event in it is rejected; nothing was written"),
        (status = 408, description = "The body did not arrive in time"),
        (status = 413, description = "Too large"),
        (status = 415, description = "Another media type or coding"),
        (status = 503, description = "Not all was acknowledged, or there is no room for the body now: send the same again"),
    ),
)]
async fn post_events<P: Producer + Send + Sync + 'static>(
    State(ingest): State<Arc<Ingest<P>>>,
    wanted: Asked,
    request: Request,
) -> Result<Response, Problem> {
    let form = body::form(request.headers())?;
    let answer = post(ingest, wanted, form, request).await?;
    json_answer(&answer)
}

/// Send one call of Segment's
#[utoipa::path(
    post, path = "/v1/track", tag = "ingest", params(Wanted), security(("key" = ["ingest"])),
    request_body(content = Call, example = json!({"event": "Order Completed", "messageId": "message-1", "userId": "user-1", "timestamp": "2013-01-01T10:15:00Z", "properties": {"product_id": "p-1", "revenue": 19.99}})),
    responses(
        (status = 200, description = "The call is in the topic", body = CallsAnswer),
        (status = 400, description = "The body cannot be read, or the call is rejected; nothing was written"),
        (status = 408, description = "The body did not arrive in time"),
        (status = 413, description = "Too large"),
        (status = 415, description = "Another media type or coding"),
        (status = 503, description = "Not all was acknowledged, or there is no room for the body now: send the same again"),
    ),
)]
async fn post_track<P: Producer + Send + Sync + 'static>(
    ingest: State<Arc<Ingest<P>>>,
    wanted: Asked,
    request: Request,
) -> Result<Response, Problem> {
    post_calls(ingest, wanted, Form::Track, request).await
}

/// Send calls of Segment's
///
/// The host to name in its libraries is this server, the write key a key with the scope `ingest`: they send it as the user's name of HTTP Basic.
#[utoipa::path(
    post, path = "/v1/batch", tag = "ingest", params(Wanted), security(("key" = ["ingest"])),
    request_body(content = Calls, example = json!({"sentAt": "2013-01-01T10:15:00Z", "batch": [{"type": "track", "event": "Product Viewed", "messageId": "message-2", "anonymousId": "visitor-1", "timestamp": "2013-01-01T10:15:00Z"}]})),
    responses(
        (status = 200, description = "What is an event is in the topic", body = CallsAnswer),
        (status = 400, description = "The body cannot be read; nothing was written"),
        (status = 408, description = "The body did not arrive in time"),
        (status = 413, description = "Too large"),
        (status = 415, description = "Another media type or coding"),
        (status = 503, description = "Not all was acknowledged, or there is no room for the body now: send the same again"),
    ),
)]
async fn post_batch<P: Producer + Send + Sync + 'static>(
    ingest: State<Arc<Ingest<P>>>,
    wanted: Asked,
    request: Request,
) -> Result<Response, Problem> {
    post_calls(ingest, wanted, Form::Batch, request).await
}

/// Answers as Segment's libraries read it.
async fn post_calls<P: Producer + Send + Sync + 'static>(
    State(ingest): State<Arc<Ingest<P>>>,
    wanted: Asked,
    form: Form,
    request: Request,
) -> Result<Response, Problem> {
    let answered = async {
        let form = body::json(request.headers(), form)?;
        post(ingest, wanted, form, request).await
    };
    let answer = answered.await.map_err(segment::problem)?;
    json_answer(&CallsAnswer { success: answer.rejected_count == 0, answer })
}

/// What is described here.
#[derive(Debug, utoipa::OpenApi)]
#[openapi(paths(post_events, post_track, post_batch), components(schemas(Event)))]
pub struct Described;

/// What the query string may say.
#[derive(Clone, Copy, Debug, Default, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct Wanted {
    /// Whether to say where each accepted event stands.
    #[serde(default)]
    #[param(example = true)]
    positions: bool,
}

type Asked = Result<Query<Wanted>, QueryRejection>;

/// The way of every request, whatever its form.
async fn post<P: Producer + Send + Sync + 'static>(
    ingest: Arc<Ingest<P>>,
    wanted: Asked,
    form: Form,
    request: Request,
) -> Result<Answer, Problem> {
    let Query(Wanted { positions }) = wanted.map_err(|error| bad_parameter(&error))?;
    let (head, arriving) = request.into_parts();
    let coding = body::coding(&head.headers)?;
    let sent = receive(&ingest.sent, &head.headers, arriving).await?;
    if sent.bytes.is_empty() && !form.may_be_empty() {
        return Err(bad_body(BodyError::Empty.to_string()));
    }
    ingest.elsewhere.clone().run(async move { ingest.take_in(sent, coding, form, positions).await }).await
}

/// A body and the room that it takes up.
struct Held {
    bytes: Bytes,
    room: Taken,
}

/// Reads the body as it was sent. Room is taken as bytes arrive, not as they are announced: a client that sends nothing holds
/// next to nothing.
async fn receive(room: &Memory, headers: &HeaderMap, body: Body) -> Result<Held, Problem> {
    // The server has already compared a length that is there with what is sent.
    let promised = headers.get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse::<usize>().ok());
    if promised.is_some_and(|length| length > MAX_SENT_BYTES) {
        return Err(sent_too_long());
    }
    let all = collect(room, body, promised.unwrap_or_default());
    tokio::time::timeout(ARRIVAL_DEADLINE, all).await.unwrap_or_else(|_elapsed| Err(too_slow(ARRIVAL_DEADLINE)))
}

async fn collect(room: &Memory, mut body: Body, promised: usize) -> Result<Held, Problem> {
    let mut bytes = BytesMut::with_capacity(promised.min(FIRST_ROOM));
    let mut held = room.take(bytes.capacity()).await.map_err(no_room)?;
    while let Some(frame) = tokio::time::timeout(STALL_TIMEOUT, body.frame()).await.map_err(|_elapsed| too_slow(STALL_TIMEOUT))? {
        let frame = frame.map_err(|error| bad_body(format!("the body broke off, and nothing of it was written: {error}")))?;
        if let Ok(data) = frame.into_data() {
            if bytes.len() + data.len() > MAX_SENT_BYTES {
                return Err(sent_too_long());
            }
            // Memory grows by doubling, and all of it is room that is taken.
            bytes.reserve(data.len());
            if bytes.capacity() > held.bytes() {
                held.merge(room.take(bytes.capacity() - held.bytes()).await.map_err(no_room)?);
            }
            bytes.extend_from_slice(&data);
        }
    }
    held.shrink_to(bytes.capacity());
    Ok(Held { bytes: bytes.freeze(), room: held })
}

fn too_slow(within: Duration) -> Problem {
    let detail = match within {
        STALL_TIMEOUT => format!("nothing of the body arrived for {} s, and nothing of it was written; send it again", within.as_secs()),
        _ => format!("the body did not arrive within {} s, and nothing of it was written; send fewer events at a time", within.as_secs()),
    };
    Problem::new(StatusCode::REQUEST_TIMEOUT, "slow-body", "Body too slow", detail)
}

fn no_room(_: Busy) -> Problem {
    let detail = "the server has as much in flight as it takes, and nothing of this body was written; send the same events again";
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "no-room", "No room", detail)
}

fn busy(_: Busy) -> Problem {
    let detail = format!(
        "so many bodies are being worked on that this one had no turn within {} s, and nothing of it was written; send the same events again",
        PATIENCE.as_secs()
    );
    Problem::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "Too busy", detail)
}

impl<P: Producer> Ingest<P> {
    /// A whole body.
    async fn take_in(&self, sent: Held, coding: Coding, form: Form, positions: bool) -> Result<Answer, Problem> {
        let body = match coding {
            Coding::Identity => sent,
            packed => self.unpack(packed, sent).await?,
        };
        let is_one = form.is_one();
        let (checked, _room) = self.check(body, form).await?;
        let written = write(&self.producer, &checked, positions).await;
        let (accepted, failed) = (written.accepted, written.failed());
        self.accepted.inc_by(accepted);
        self.failed.inc_by(failed);
        if failed > 0 {
            return Err(not_written(&written));
        }
        self.rejected.inc_by(checked.rejected_count());
        match checked.rejected.first() {
            Some(only) if is_one => Err(refused_alone(&only.refusal)),
            _ => Ok(Answer::new(checked, written)),
        }
    }

    /// Unpacks within the room that such a body should need. If it needs more, that room is given back before more is
    /// taken, and unpacking begins again.
    async fn unpack(&self, coding: Coding, sent: Held) -> Result<Held, Problem> {
        let expected = body::expected_bytes(sent.bytes.len());
        for limit in [expected, MAX_UNPACKED_BYTES] {
            let room = self.unpacked.take(limit).await.map_err(no_room)?;
            let bytes = sent.bytes.clone();
            // The room goes with the work: that goes on when the client has gone away.
            let (unpacked, mut room) = self.work(limit, move || (body::unpack(coding, &bytes, limit), room)).await?;
            match unpacked {
                Ok(bytes) => {
                    room.shrink_to(bytes.len());
                    let bytes = Bytes::from(bytes);
                    return Ok(Held { bytes, room });
                }
                Err(UnpackError::TooLong { .. }) if limit < MAX_UNPACKED_BYTES => {}
                Err(UnpackError::TooLong { .. }) => break,
                Err(error @ UnpackError::Broken(_)) => {
                    return Err(bad_body(format!("the {coding} body is {error}; nothing of it was written, send it again as a whole")));
                }
            }
        }
        Err(too_large(format!("the body is longer than {} MiB when unpacked; send fewer events at a time", MAX_UNPACKED_BYTES >> 20)))
    }

    async fn check(&self, body: Held, form: Form) -> Result<(Checked, Taken), Problem> {
        let limits = self.limits.clone();
        let (checked, room) = self.work(body.bytes.len(), move || (items::check(&body.bytes, &form, now_ms(), &limits), body.room)).await?;
        match checked {
            Ok(checked) => Ok((checked, room)),
            Err(error @ BodyError::TooMany) => Err(too_large(error.to_string())),
            Err(error) => Err(bad_body(error.to_string())),
        }
    }

    /// Does work on about so many bytes in its turn, on a thread of its own if it is much.
    async fn work<T: Send + 'static>(&self, bytes: usize, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
        if bytes > MAX_INLINE_BYTES {
            return self.long.apart(work).await.map_err(busy);
        }
        let _turn = self.short.enter().await.map_err(busy)?;
        Ok(work())
    }
}

/// What became of a request's items at the brokers.
#[derive(Debug, Default)]
struct Written {
    accepted: u64,
    /// Written or not: no acknowledgement came.
    unknown: u64,
    /// Certainly not written, and may be sent again.
    unavailable: u64,
    /// Certainly not written, and will not be.
    refused: u64,
    /// The worst failure: a refusal if there is one, for it says what is to be put right.
    failure: Option<SendError>,
    position: Cut,
    /// Where each accepted item stands, in the order sent, if that is wanted.
    positions: Option<Vec<Placed>>,
}

impl Written {
    fn failed(&self) -> u64 {
        self.unknown + self.unavailable + self.refused
    }

    fn add(&mut self, index: usize, outcome: Result<Position, SendError>) {
        let failure = match outcome {
            Ok(at) => {
                self.accepted += 1;
                if let Some(positions) = &mut self.positions {
                    positions.push(Placed { index, partition: at.partition.0, offset: at.offset.get() });
                }
                return self.position.raise(at.partition, at.offset.next());
            }
            Err(failure) => failure,
        };
        let count = match failure {
            SendError::Refused { .. } => &mut self.refused,
            SendError::Unavailable { .. } => &mut self.unavailable,
            SendError::Unknown { .. } => &mut self.unknown,
        };
        *count += 1;
        let first_refusal = matches!(failure, SendError::Refused { .. }) && self.refused == 1;
        if first_refusal || self.failure.is_none() {
            self.failure = Some(failure);
        }
    }
}

async fn write(producer: &impl Producer, checked: &Checked, positions: bool) -> Written {
    let items = checked.items.iter();
    let mut records: Vec<_> =
        items.map(|item| Outgoing { key: item.key.as_deref(), payload: Some(&item.payload), ..Outgoing::default() }).collect();
    let span = trace_span!("send", otel.kind = "producer", messaging.system = "kafka", messaging.batch.message_count = records.len());
    // One record shows the way of all: they go together.
    let traceparent = tidemark_traces::traceparent(&span);
    if let Some(first) = records.first_mut() {
        first.traceparent = traceparent.as_deref();
    }
    let mut written = Written { positions: positions.then(Vec::new), ..Written::default() };
    for (item, outcome) in checked.items.iter().zip(producer.send_batch(&records).instrument(span).await) {
        written.add(item.index, outcome);
    }
    written
}

/// Where an event stands.
#[derive(Clone, Copy, Debug, Serialize, ToSchema)]
struct Placed {
    /// The item's, as in `rejected`.
    index: usize,
    partition: u32,
    offset: u64,
}

/// What became of the events.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Sent)]
struct Answer {
    /// How many are in the topic.
    accepted: u64,
    /// The first 1,000 of those that are no events.
    rejected: Vec<RejectedItem>,
    /// How many are no events.
    rejected_count: u64,
    /// The same by reason.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, u64>, example = json!({"bad_timestamp": 1}))]
    rejected_reasons: BTreeMap<&'static str, u64>,
    /// The next offset of each partition that was written to: what `at_least` of a query takes.
    #[schema(example = "0:1234,3:99")]
    position: String,
    /// Of the accepted ones, in the order sent, if it was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    positions: Option<Vec<Placed>>,
}

/// What became of the calls.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = SentCalls)]
struct CallsAnswer {
    /// Whether every call was accepted.
    success: bool,
    #[serde(flatten)]
    answer: Answer,
}

/// An item that is no event.
#[derive(Debug, Serialize, ToSchema)]
struct RejectedItem {
    /// Its place in the array, or its line; from 0.
    index: usize,
    /// A stable code.
    #[schema(example = "bad_timestamp")]
    reason: &'static str,
    /// What to do.
    detail: String,
}

impl Answer {
    fn new(checked: Checked, written: Written) -> Self {
        let rejected_count = checked.rejected_count();
        let item = |Rejection { index, refusal: Refusal { reason, detail } }| RejectedItem { index, reason, detail };
        Self {
            accepted: written.accepted,
            rejected: checked.rejected.into_iter().map(item).collect(),
            rejected_count,
            rejected_reasons: checked.reasons,
            position: written.position.to_string(),
            positions: written.positions,
        }
    }
}

fn json_answer(answer: &impl Serialize) -> Result<Response, Problem> {
    let text = serde_json::to_vec(answer).map_err(|error| internal(&error.to_string()))?;
    Ok(([(CONTENT_TYPE, "application/json")], text).into_response())
}

/// The event is all that the request has, and its sender looks at the status.
fn refused_alone(refusal: &Refusal) -> Problem {
    let detail = format!("{}; nothing was written", refusal.detail);
    Problem::new(StatusCode::BAD_REQUEST, "event-rejected", "The event is rejected", detail).with("reason", refusal.reason)
}

fn bad_parameter(error: &QueryRejection) -> Problem {
    let detail = format!("{}; there is `positions`, true or false", error.body_text());
    Problem::new(StatusCode::BAD_REQUEST, "bad-request", "The request cannot be understood", detail)
}

/// Not everything was acknowledged. What was is in the topic all the same.
fn not_written(written: &Written) -> Problem {
    let failed = written.failed();
    let reason = written.failure.as_ref().map_or_else(String::new, ToString::to_string);
    tracing::warn!(
        target: "ingest", accepted = written.accepted, unknown = written.unknown, unavailable = written.unavailable,
        refused = written.refused, "events not acknowledged: {reason}"
    );
    let again = if written.refused > 0 {
        "kafka will not take them until that is put right; then send the same events again"
    } else {
        "send the same events again"
    };
    let detail = format!(
        "{failed} of {} valid events were not acknowledged ({reason}); {again}: those with an event_id are counted once",
        failed + written.accepted
    );
    let problem = Problem::new(StatusCode::SERVICE_UNAVAILABLE, "not-acknowledged", "Not acknowledged", detail)
        .with("accepted", written.accepted)
        .with("unknown", written.unknown)
        .with("position", written.position.to_string());
    match &written.positions {
        Some(positions) => problem.with("positions", serde_json::json!(positions)),
        None => problem,
    }
}

fn bad_body(detail: String) -> Problem {
    Problem::new(StatusCode::BAD_REQUEST, "bad-body", "Bad body", detail)
}

fn too_large(detail: String) -> Problem {
    Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too-large", "Too large", detail)
}

fn sent_too_long() -> Problem {
    too_large(format!("the body is longer than {} MiB; send fewer events at a time, or pack them with zstd", MAX_SENT_BYTES >> 20))
}

fn internal(reason: &str) -> Problem {
    tracing::error!(target: "ingest", "a request could not be dealt with: {reason}");
    Problem::new(
        StatusCode::INTERNAL_SERVER_ERROR,
        "internal",
        "Internal error",
        "a fault of this server, which its log explains; send the same events again: those with an event_id are counted once",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::pin::pin;
    use std::task::{Context, Waker};
    use tidemark_core::offset::{Offset, Partition};
    use tower::ServiceExt as _;

    /// A topic that takes everything, and tells nobody.
    struct Nowhere;

    impl Producer for Nowhere {
        async fn send_batch(&self, records: &[Outgoing<'_>]) -> Vec<Result<Position, SendError>> {
            let at = Position { partition: Partition(0), offset: Offset::new(0) };
            vec![Ok(at); records.len()]
        }
    }

    fn lines(body: impl Into<Body>) -> Request {
        Request::post("/v1/events").header(CONTENT_TYPE, "application/x-ndjson").body(body.into()).unwrap()
    }

    #[tokio::test]
    async fn a_request_that_has_no_room_waits_and_gives_its_own_back() {
        let ingest = Arc::new(Ingest::new(Nowhere, Limits::default()));
        let taken = ingest.sent.take(MAX_IN_FLIGHT_BYTES / 2).await.unwrap();
        let mut request = pin!(routes(Arc::clone(&ingest)).oneshot(lines("x\n")));
        let mut context = Context::from_waker(Waker::noop());
        assert!(request.as_mut().poll(&mut context).is_pending());
        drop(taken);
        assert_eq!(request.await.unwrap().status(), StatusCode::OK);
        assert_eq!(ingest.sent.used(), 0);
    }

    #[tokio::test]
    async fn after_every_kind_of_answer_all_room_is_free_again() {
        let ingest = Arc::new(Ingest::new(Nowhere, Limits::default()));
        let long = "1\n".repeat(items::MAX_ITEMS + 1);
        for (body, coding) in [
            (b"x".to_vec(), "identity"),
            (Vec::new(), "identity"),
            (long.clone().into_bytes(), "identity"),
            (zstd::encode_all(long.as_bytes(), 1).unwrap(), "zstd"),
            (zstd::encode_all(&vec![b' '; 1 << 20][..], 1).unwrap(), "zstd"),
            (b"rubbish".to_vec(), "gzip"),
        ] {
            let mut request = lines(body);
            request.headers_mut().insert("content-encoding", HeaderValue::from_static(coding));
            drop(routes(Arc::clone(&ingest)).oneshot(request).await.unwrap());
            assert_eq!((ingest.sent.used(), ingest.unpacked.used(), ingest.long.taken(), ingest.short.taken()), (0, 0, 0, 0), "{coding}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_arrive_gives_its_room_back() {
        let ingest = Arc::new(Ingest::new(Nowhere, Limits::default()));
        let never = Body::from_stream(futures_util::stream::pending::<Result<Bytes, std::io::Error>>());
        let response = routes(Arc::clone(&ingest)).oneshot(lines(never)).await.unwrap();
        assert_eq!(response.status(), StatusCode::REQUEST_TIMEOUT);
        assert_eq!(ingest.sent.used(), 0);
    }
}
