//! Events and their decoding: `decode(record) -> Event | Reject`, the same for both layers and for ingest.
//!
//! Invariant I5: decoding is a pure function of the record's bytes, its own timestamp and the rules' limits. It borrows
//! from the record; only a string with escapes is copied.
//!
//! Where several rules are broken, the first of these decides: size, emptiness, UTF-8, then JSON's syntax (with depth
//! and surrogates, in reading order), being an object, repeated fields, the fields in the order in which [`Event`]
//! lists them, and last the timestamp's plausibility.

mod json;
mod shift;
mod timestamp;

use crate::amount::{Amount, AmountError};
use json::{Scanner, Text, Value};
pub use shift::{Stamp, stamp_of};
use std::borrow::Cow;
use std::fmt;
use std::num::NonZeroU128;

/// Bounds of what is accepted; part of a generation's rules.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Longest record, in bytes.
    pub max_bytes: usize,
    /// Deepest nesting; the event itself is depth 1.
    pub max_depth: u32,
    /// Events before this instant are rejected.
    pub earliest_ms: i64,
    /// How far an event's timestamp may lie ahead of its record's Kafka timestamp.
    pub max_ahead_ms: i64,
    /// Events after this instant are rejected, whatever the record's own timestamp says: the start of the last window that
    /// history can name, for its windows are 32-bit seconds. Not configurable: it is the format's.
    pub latest_ms: i64,
    /// Whether `order_amount` may be a decimal in a string.
    pub amount_strings: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bytes: 64 * 1024,
            max_depth: 32,
            earliest_ms: 946_684_800_000,
            max_ahead_ms: 24 * 60 * 60 * 1000,
            latest_ms: 4_294_967_100_000,
            amount_strings: false,
        }
    }
}

const MAX_EVENT_TYPE_BYTES: usize = 128;
/// Longest `event_id`, `product_id` or `user_id`, in bytes.
pub const MAX_ID_BYTES: usize = 256;

/// A valid event. An optional string that is absent, null or empty is `None`.
#[derive(Clone, PartialEq, Debug)]
pub struct Event<'a> {
    pub event_type: Cow<'a, str>,
    pub timestamp_ms: i64,
    pub event_id: Option<Cow<'a, str>>,
    pub product_id: Option<Cow<'a, str>>,
    pub user_id: Option<Cow<'a, str>>,
    pub order_amount: Option<Amount>,
    pub properties: Properties<'a>,
}

/// Why a record is not an event. [`Reject::reason`] is the stable code, `Display` says what to do.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Reject {
    TooLong,
    Empty,
    NotUtf8,
    NotJson,
    TooDeep,
    LoneSurrogate,
    NotAnObject,
    RepeatedField(&'static str),
    MissingEventType,
    BadEventType,
    MissingTimestamp,
    BadTimestamp,
    BadEventId,
    BadProductId,
    BadUserId,
    BadOrderAmount,
    OrderAmountOutOfRange,
    BadProperties,
    TooOld,
    TooFarAhead,
}

impl Reject {
    const fn both(self) -> (&'static str, &'static str) {
        match self {
            Self::TooLong => ("too_long", "the record is longer than the limit (64 KiB by default)"),
            Self::Empty => ("empty", "the record is empty; send one JSON object"),
            Self::NotUtf8 => ("not_utf8", "the record is not UTF-8"),
            Self::NotJson => ("not_json", "the record is not valid JSON"),
            Self::TooDeep => ("too_deep", "the record is nested deeper than the limit (32 by default)"),
            Self::LoneSurrogate => {
                ("lone_surrogate", "a \\u escape is half of a surrogate pair; escape both halves or send the character as UTF-8")
            }
            Self::NotAnObject => ("not_an_object", "the record is JSON, but not one object"),
            Self::RepeatedField(_) => ("repeated_field", "a field stands twice in the object; send it once"),
            Self::MissingEventType => ("missing_event_type", "event_type is required"),
            Self::BadEventType => ("bad_event_type", "event_type must be a string of 1 to 128 bytes"),
            Self::MissingTimestamp => ("missing_timestamp", "timestamp is required"),
            Self::BadTimestamp => {
                ("bad_timestamp", "timestamp must be RFC 3339, such as 2013-01-01T10:15:00Z, or an integer of epoch milliseconds")
            }
            Self::BadEventId => ("bad_event_id", "event_id must be a string of at most 256 bytes"),
            Self::BadProductId => ("bad_product_id", "product_id must be a string of at most 256 bytes"),
            Self::BadUserId => ("bad_user_id", "user_id must be a string of at most 256 bytes"),
            Self::BadOrderAmount => {
                ("bad_order_amount", "order_amount must be a JSON number or null (a decimal string only where order_amount_strings is on)")
            }
            Self::OrderAmountOutOfRange => ("order_amount_out_of_range", "order_amount must lie within ±10^14"),
            Self::BadProperties => ("bad_properties", "properties must be an object"),
            Self::TooOld => ("too_old", "timestamp is before the earliest that is accepted (2000-01-01 by default)"),
            Self::TooFarAhead => (
                "too_far_ahead",
                "timestamp is further ahead of the record's own than is accepted (24 h by default), or after January 2106",
            ),
        }
    }

    const ALL: [Self; 20] = [
        Self::TooLong,
        Self::Empty,
        Self::NotUtf8,
        Self::NotJson,
        Self::TooDeep,
        Self::LoneSurrogate,
        Self::NotAnObject,
        Self::RepeatedField("a field"),
        Self::MissingEventType,
        Self::BadEventType,
        Self::MissingTimestamp,
        Self::BadTimestamp,
        Self::BadEventId,
        Self::BadProductId,
        Self::BadUserId,
        Self::BadOrderAmount,
        Self::OrderAmountOutOfRange,
        Self::BadProperties,
        Self::TooOld,
        Self::TooFarAhead,
    ];

    /// The reject of a code that [`Reject::reason`] has given.
    pub fn of_reason(reason: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|reject| reject.reason() == reason)
    }

    /// A stable code for machines.
    pub const fn reason(self) -> &'static str {
        self.both().0
    }
}

impl fmt::Display for Reject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::RepeatedField(name) => write!(f, "{name} stands twice in the object; send it once"),
            other => f.write_str(other.both().1),
        }
    }
}

impl std::error::Error for Reject {}

/// An event's `properties`: validated, and read again only by who wants them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Properties<'a>(&'a str);

impl<'a> Properties<'a> {
    /// Names and values in order, values as text: strings unescaped, everything else, nested values too, as it was
    /// written.
    pub fn iter(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> + use<'a> {
        json::members(self.0).map(|(name, value)| (name.unescape(), value.text()))
    }

    pub fn is_empty(&self) -> bool {
        self.iter().next().is_none()
    }
}

/// The known fields as they stand in the document, before they are judged.
#[derive(Default)]
struct Fields<'a> {
    event_type: Option<Value<'a>>,
    timestamp: Option<Value<'a>>,
    event_id: Option<Value<'a>>,
    product_id: Option<Value<'a>>,
    user_id: Option<Value<'a>>,
    order_amount: Option<Value<'a>>,
    properties: Option<Value<'a>>,
    repeated: Option<&'static str>,
}

impl<'a> Fields<'a> {
    #[inline]
    fn set(&mut self, name: Text<'a>, value: Value<'a>) {
        let (place, name) = match name.unescape().as_bytes() {
            b"event_type" => (&mut self.event_type, "event_type"),
            b"timestamp" => (&mut self.timestamp, "timestamp"),
            b"event_id" => (&mut self.event_id, "event_id"),
            b"product_id" => (&mut self.product_id, "product_id"),
            b"user_id" => (&mut self.user_id, "user_id"),
            b"order_amount" => (&mut self.order_amount, "order_amount"),
            b"properties" => (&mut self.properties, "properties"),
            _ => return,
        };
        if place.replace(value).is_some() {
            self.repeated.get_or_insert(name);
        }
    }
}

/// Decodes one record. `record_timestamp_ms` is the record's own Kafka timestamp, the only time that counts here.
pub fn decode<'a>(payload: Option<&'a [u8]>, record_timestamp_ms: i64, limits: &Limits) -> Result<Event<'a>, Reject> {
    event_of(fields_of(payload.ok_or(Reject::Empty)?, limits)?, record_timestamp_ms, limits)
}

/// The known fields of a record that is one object.
#[inline(always)]
fn fields_of<'a>(payload: &'a [u8], limits: &Limits) -> Result<Fields<'a>, Reject> {
    if payload.len() > limits.max_bytes {
        return Err(Reject::TooLong);
    }
    if payload.iter().all(|b| json::is_space(*b)) {
        return Err(Reject::Empty);
    }
    let text = simdutf8::basic::from_utf8(payload).map_err(|_| Reject::NotUtf8)?;
    let mut fields = Fields::default();
    let is_object = Scanner::new(text, limits.max_depth).document(|name, value| fields.set(name, value))?;
    if !is_object {
        return Err(Reject::NotAnObject);
    }
    match fields.repeated {
        Some(name) => Err(Reject::RepeatedField(name)),
        None => Ok(fields),
    }
}

#[inline(always)]
fn event_of<'a>(fields: Fields<'a>, record_timestamp_ms: i64, limits: &Limits) -> Result<Event<'a>, Reject> {
    let event = Event {
        event_type: event_type(fields.event_type)?,
        timestamp_ms: timestamp(fields.timestamp)?,
        event_id: optional_string(fields.event_id, Reject::BadEventId)?,
        product_id: optional_string(fields.product_id, Reject::BadProductId)?,
        user_id: optional_string(fields.user_id, Reject::BadUserId)?,
        order_amount: order_amount(fields.order_amount, limits)?,
        properties: properties(fields.properties)?,
    };
    if event.timestamp_ms < limits.earliest_ms {
        return Err(Reject::TooOld);
    }
    if event.timestamp_ms > record_timestamp_ms.saturating_add(limits.max_ahead_ms).min(limits.latest_ms) {
        return Err(Reject::TooFarAhead);
    }
    Ok(event)
}

#[inline(always)]
fn event_type(value: Option<Value<'_>>) -> Result<Cow<'_, str>, Reject> {
    match value {
        None => Err(Reject::MissingEventType),
        Some(Value::String(text)) => {
            let text = text.unescape();
            if text.is_empty() || text.len() > MAX_EVENT_TYPE_BYTES { Err(Reject::BadEventType) } else { Ok(text) }
        }
        Some(_) => Err(Reject::BadEventType),
    }
}

#[inline(always)]
fn timestamp(value: Option<Value<'_>>) -> Result<i64, Reject> {
    let ms = match value {
        None => return Err(Reject::MissingTimestamp),
        Some(Value::String(text)) => timestamp::rfc3339(text.unescape().as_bytes()),
        Some(Value::Number(digits)) => timestamp::integer(digits),
        Some(_) => None,
    };
    ms.ok_or(Reject::BadTimestamp)
}

#[inline(always)]
fn optional_string(value: Option<Value<'_>>, reject: Reject) -> Result<Option<Cow<'_, str>>, Reject> {
    match value {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => {
            let text = text.unescape();
            if text.len() > MAX_ID_BYTES { Err(reject) } else { Ok((!text.is_empty()).then_some(text)) }
        }
        Some(_) => Err(reject),
    }
}

#[inline(always)]
fn order_amount(value: Option<Value<'_>>, limits: &Limits) -> Result<Option<Amount>, Reject> {
    let parsed = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::Number(digits)) => Amount::parse_decimal(digits.as_bytes()),
        Some(Value::String(text)) if limits.amount_strings => Amount::parse_decimal(text.unescape().as_bytes()),
        Some(_) => return Err(Reject::BadOrderAmount),
    };
    parsed.map(Some).map_err(|error| match error {
        AmountError::NotANumber => Reject::BadOrderAmount,
        AmountError::OutOfRange => Reject::OrderAmountOutOfRange,
    })
}

#[inline(always)]
fn properties(value: Option<Value<'_>>) -> Result<Properties<'_>, Reject> {
    match value {
        None | Some(Value::Null) => Ok(Properties::default()),
        Some(Value::Object(raw)) => Ok(Properties(raw)),
        Some(_) => Err(Reject::BadProperties),
    }
}

/// The 128-bit hash by which ids are compared: XXH3 over the id's UTF-8 bytes, seed 0, the same on every platform; 1
/// where that is 0.
#[inline]
pub fn id_hash(event_id: &str) -> NonZeroU128 {
    NonZeroU128::new(xxhash_rust::xxh3::xxh3_128(event_id.as_bytes())).unwrap_or(NonZeroU128::MIN)
}
