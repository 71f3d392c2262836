//! Segment's HTTP tracking interface: `POST /v1/track` and `POST /v1/batch`. Of its calls only `track` is an event.

use super::object::{Object, string};
use super::{Names, Telling, present};
use crate::items::{BodyError, Refusal};
use crate::problem::Problem;
use bytes::Bytes;
use serde_json::value::RawValue;
use tidemark_core::event::Reject;

pub const NAMES: Names = &[
    ("event_type", "event"),
    ("timestamp", "timestamp, else sentAt"),
    ("event_id", "messageId"),
    ("product_id", "properties.product_id"),
    ("user_id", "userId, else anonymousId"),
    ("order_amount", "properties.revenue, else properties.value"),
];

/// The body of `/v1/batch`, taken apart.
pub struct Batch<'a> {
    /// A JSON array.
    pub calls: &'a RawValue,
    /// When the sender sent it: the time of a call that has none.
    pub sent_at: Option<&'a RawValue>,
}

impl<'a> Batch<'a> {
    pub fn read(text: &'a str) -> Result<Self, BodyError> {
        let bad = |refusal: Refusal| BodyError::NoBatch { reason: refusal.detail };
        let body = Object::read(text).map_err(bad)?;
        let calls = body.get("batch").map_err(bad)?.filter(|calls| calls.get().starts_with('['));
        let calls = calls.ok_or_else(|| BodyError::NoBatch { reason: "there is no array of calls in `batch`".to_owned() })?;
        Ok(Self { calls, sent_at: present(body.get("sentAt").map_err(bad)?) })
    }
}

/// A call of `/v1/track`, where it goes without saying what it is, or of a batch, which was sent at that time.
pub fn track(text: &str, batch: Option<&Batch<'_>>) -> Result<Bytes, Refusal> {
    let call = Object::read(text)?;
    let kind = present(call.get("type")?).and_then(string).transpose()?;
    if kind.as_deref().unwrap_or(if batch.is_none() { "track" } else { "" }) != "track" {
        let detail = "only calls of the type `track` are events; identify, page, screen, group and alias are not counted";
        return Err(Refusal { reason: "not_track", detail: detail.to_owned() });
    }
    let mut telling = Telling::new();
    let mut set = |name, value: Option<&RawValue>| telling.set(name, value.map(RawValue::get));
    set("event_type", present(call.get("event")?));
    set("timestamp", call.first(["timestamp", "sentAt"])?.or(batch.and_then(|batch| batch.sent_at)));
    set("event_id", call.get("messageId")?);
    set("user_id", call.first(["userId", "anonymousId"])?);
    let properties = present(call.get("properties")?);
    if let Some(properties) = properties {
        let members = match Object::read(properties.get()) {
            Err(refusal) if refusal.reason == Reject::NotAnObject.reason() => return Err(Reject::BadProperties.into()),
            members => members?,
        };
        set("product_id", members.get("product_id")?);
        set("order_amount", members.first(["revenue", "value"])?);
    }
    set("properties", properties);
    Ok(telling.end())
}

/// Adds the members by which Segment's libraries know what went wrong.
pub fn problem(problem: Problem) -> Problem {
    let (code, message) = (problem.kind, problem.detail.clone());
    problem.with("code", code).with("message", message)
}
