//! What a record says: [`decode`] turns its bytes into an [`Event`] or a [`Reject`], the same in both layers.
//!
//! One pass, nothing copied: the whole document is checked against JSON's grammar while the known fields' places are
//! noted ([`json`]); only then are the fields judged. A string that is written without escapes is borrowed from the
//! record, so an ordinary event costs no allocation.

mod json;
mod properties;
mod reject;
mod timestamp;

pub use properties::Properties;
pub use reject::Reject;

use crate::amount::{Amount, AmountError};
use json::{Fault, Scanner, Text, Value};
use std::borrow::Cow;

/// What is accepted. Part of a generation's rules: the same bytes decode alike for as long as the limits are the same.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Limits {
    /// Longest payload: a record beyond it is not even looked at.
    pub max_bytes: usize,
    /// Deepest nesting, in ignored fields too; the top object is at depth 1. Acts as 128 where it is larger.
    pub max_depth: u32,
    /// Earliest `timestamp`, in epoch milliseconds.
    pub earliest_ms: i64,
    /// How far `timestamp` may lie ahead of the record's own Kafka timestamp.
    pub max_ahead_ms: i64,
    /// Whether `order_amount` may be a JSON string that holds a number in JSON's grammar (no spaces).
    pub amount_strings: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_bytes: 65_536,
            max_depth: 32,
            earliest_ms: 946_684_800_000, // 2000-01-01T00:00:00Z
            max_ahead_ms: 86_400_000,
            amount_strings: false,
        }
    }
}

/// Longest `event_type`, in bytes of UTF-8 once escapes are resolved.
pub const MAX_EVENT_TYPE_BYTES: usize = 128;
/// Longest `event_id`, `product_id` and `user_id`, in bytes of UTF-8 once escapes are resolved.
pub const MAX_ID_BYTES: usize = 256;

/// One event. Of an optional field, absent, `null` and (for the ids) the empty string are the same: `None`.
#[derive(Clone, PartialEq, Debug)]
pub struct Event<'a> {
    /// 1 to [`MAX_EVENT_TYPE_BYTES`] bytes.
    pub event_type: Cow<'a, str>,
    /// Epoch milliseconds; what is finer was cut off.
    pub timestamp_ms: i64,
    /// 1 to [`MAX_ID_BYTES`] bytes, as the other ids.
    pub event_id: Option<Cow<'a, str>>,
    pub product_id: Option<Cow<'a, str>>,
    pub user_id: Option<Cow<'a, str>>,
    pub order_amount: Option<Amount>,
    pub properties: Properties<'a>,
}

/// Decodes one record: a pure function of its payload, its Kafka timestamp and the limits (invariant I5).
///
/// A record that breaks several rules is rejected for the first of these: too long; empty; not UTF-8; in reading
/// order the first of not JSON, too deep and lone surrogate; not an object; a repeated field (the first repetition);
/// then field by field, in the order of [`Event`] with `event_type` and `timestamp` first, whatever their order in the
/// document; then too old, too far ahead. So a document that is broken anywhere is `not_json`, whatever its fields say.
///
/// `null` is the same as an absent field, also for the required ones. Unknown fields are ignored, but must be JSON.
#[inline]
pub fn decode<'a>(payload: Option<&'a [u8]>, record_timestamp_ms: i64, limits: &Limits) -> Result<Event<'a>, Reject> {
    let text = readable(payload.unwrap_or_default(), limits)?;
    let fields = Fields::scan(text, limits)?;
    let event = fields.judge(limits)?;
    if event.timestamp_ms < limits.earliest_ms {
        return Err(Reject::TooOld);
    }
    if event.timestamp_ms > record_timestamp_ms.saturating_add(limits.max_ahead_ms) {
        return Err(Reject::TooFarAhead);
    }
    Ok(event)
}

/// A stable 128-bit hash of an `event_id`, by which duplicates are found: XXH3-128 with seed 0 of the id's UTF-8 bytes,
/// the two halves read as one number (high half first). Version 1: the function is frozen, since both layers, and
/// every restart, must remember ids alike. It gives the same number on every platform.
#[inline]
pub fn id_hash(event_id: &str) -> u128 {
    xxhash_rust::xxh3::xxh3_128(event_id.as_bytes())
}

fn readable<'a>(payload: &'a [u8], limits: &Limits) -> Result<&'a str, Reject> {
    if payload.len() > limits.max_bytes {
        return Err(Reject::TooLong);
    }
    if payload.iter().all(|&b| json::is_whitespace(b)) {
        return Err(Reject::Empty);
    }
    simdutf8::basic::from_utf8(payload).map_err(|_| Reject::NotUtf8)
}

/// The fields that mean something here.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Field {
    EventType,
    Timestamp,
    EventId,
    ProductId,
    UserId,
    OrderAmount,
    Properties,
}

impl Field {
    const COUNT: usize = 7;

    const fn name(self) -> &'static str {
        match self {
            Self::EventType => "event_type",
            Self::Timestamp => "timestamp",
            Self::EventId => "event_id",
            Self::ProductId => "product_id",
            Self::UserId => "user_id",
            Self::OrderAmount => "order_amount",
            Self::Properties => "properties",
        }
    }

    fn named(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"event_type" => Self::EventType,
            b"timestamp" => Self::Timestamp,
            b"event_id" => Self::EventId,
            b"product_id" => Self::ProductId,
            b"user_id" => Self::UserId,
            b"order_amount" => Self::OrderAmount,
            b"properties" => Self::Properties,
            _ => return None,
        })
    }
}

/// The known fields' values as they stand in a document that has been checked to its end.
struct Fields<'a> {
    values: [Option<Value<'a>>; Field::COUNT],
    /// The first field that came a second time.
    repeated: Option<Field>,
}

impl<'a> Fields<'a> {
    #[inline]
    fn scan(text: &'a str, limits: &Limits) -> Result<Self, Reject> {
        let mut scanner = Scanner::new(text, limits.max_depth);
        let mut fields = Self { values: [None; Field::COUNT], repeated: None };
        let is_object = scanner.document(|name, value| fields.note(name, value)).map_err(|fault| match fault {
            Fault::Syntax => Reject::NotJson,
            Fault::TooDeep => Reject::TooDeep,
            Fault::LoneSurrogate => Reject::LoneSurrogate,
        })?;
        if is_object { Ok(fields) } else { Err(Reject::NotAnObject) }
    }

    #[inline]
    fn note(&mut self, name: Text<'a>, value: Value<'a>) {
        let Some(field) = Field::named(name.unescaped().as_bytes()) else { return };
        if self.values[field as usize].replace(value).is_some() {
            self.repeated = self.repeated.or(Some(field));
        }
    }

    /// The field's value, `None` for `null`.
    fn value(&self, field: Field) -> Option<Value<'a>> {
        self.values[field as usize].filter(|value| !matches!(value, Value::Null))
    }

    #[inline]
    fn judge(&self, limits: &Limits) -> Result<Event<'a>, Reject> {
        if let Some(field) = self.repeated {
            return Err(Reject::RepeatedField(field.name()));
        }
        Ok(Event {
            event_type: self.event_type()?,
            timestamp_ms: self.timestamp()?,
            event_id: self.id(Field::EventId, Reject::BadEventId)?,
            product_id: self.id(Field::ProductId, Reject::BadProductId)?,
            user_id: self.id(Field::UserId, Reject::BadUserId)?,
            order_amount: self.order_amount(limits.amount_strings)?,
            properties: self.properties()?,
        })
    }

    fn event_type(&self) -> Result<Cow<'a, str>, Reject> {
        match self.value(Field::EventType) {
            None => Err(Reject::MissingEventType),
            Some(Value::Text(text)) => {
                Some(text.unescaped()).filter(|t| (1..=MAX_EVENT_TYPE_BYTES).contains(&t.len())).ok_or(Reject::BadEventType)
            }
            Some(_) => Err(Reject::BadEventType),
        }
    }

    fn timestamp(&self) -> Result<i64, Reject> {
        let ms = match self.value(Field::Timestamp) {
            None => return Err(Reject::MissingTimestamp),
            Some(Value::Text(text)) => timestamp::rfc3339_ms(text.unescaped().as_bytes()),
            Some(Value::Number(number)) => timestamp::integer_ms(number),
            Some(_) => None,
        };
        ms.ok_or(Reject::BadTimestamp)
    }

    fn id(&self, field: Field, bad: Reject) -> Result<Option<Cow<'a, str>>, Reject> {
        match self.value(field) {
            None => Ok(None),
            Some(Value::Text(text)) => {
                let id = text.unescaped();
                if id.len() > MAX_ID_BYTES { Err(bad) } else { Ok(Some(id).filter(|id| !id.is_empty())) }
            }
            Some(_) => Err(bad),
        }
    }

    fn order_amount(&self, strings: bool) -> Result<Option<Amount>, Reject> {
        let amount = match self.value(Field::OrderAmount) {
            None => return Ok(None),
            Some(Value::Number(number)) => Amount::parse_decimal(number.as_bytes()),
            Some(Value::Text(text)) if strings => Amount::parse_decimal(text.unescaped().as_bytes()),
            Some(_) => return Err(Reject::BadOrderAmount),
        };
        amount.map(Some).map_err(|error| match error {
            AmountError::NotANumber => Reject::BadOrderAmount,
            AmountError::OutOfRange => Reject::OrderAmountOutOfRange,
        })
    }

    fn properties(&self) -> Result<Properties<'a>, Reject> {
        match self.value(Field::Properties) {
            None => Ok(Properties::default()),
            Some(Value::Object(object)) if object.flat => Ok(Properties::of(object)),
            Some(_) => Err(Reject::BadProperties),
        }
    }
}
