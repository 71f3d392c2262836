//! Rows as the history's tables take them: encoded once, to ClickHouse's RowBinary, when a record is judged.
//!
//! RowBinary is a plain concatenation of little-endian values; a string is a LEB128 length and its bytes, a nullable
//! value a presence byte (1 = null) and the value.

use crate::block::MAX_DEAD_LETTER_BYTES;
use bytes::{Bytes, BytesMut};
use serde::{Serialize, Serializer};
use serde_json::value::RawValue;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use tidemark_core::amount::Amount;
use tidemark_core::cell::fold_of;
use tidemark_core::event::{Event, Limits, Properties, Reject, decode};
use tidemark_core::offset::{Offset, Partition};
use tidemark_core::window::rfc3339;

/// A calendar month in UTC as `yyyymm`: the table partition that an event's row lands in.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Month(pub u32);

impl Month {
    pub fn of(timestamp_ms: i64) -> Self {
        // "2013-01-…": the calendar is jiff's, by way of the text that answers carry.
        let text = rfc3339(timestamp_ms);
        let digits = |s: Option<&str>| s.and_then(|s| s.parse::<u32>().ok()).unwrap_or_default();
        Self(digits(text.get(0..4)) * 100 + digits(text.get(5..7)))
    }
}

/// The part of an insert that lands or misses as a whole: one table partition.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum PartKey {
    Events(Month),
    DeadLetters,
}

impl fmt::Display for PartKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Events(Month(yyyymm)) => write!(f, "{yyyymm}"),
            Self::DeadLetters => f.write_str("dead"),
        }
    }
}

impl FromStr for PartKey {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "dead" => Ok(Self::DeadLetters),
            month => month.parse().map(|m| Self::Events(Month(m))).map_err(|_| ()),
        }
    }
}

/// The tables that rows are inserted into.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Table {
    Events,
    DeadLetters,
}

/// How many rows there are, and the fold of their offsets.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct RowCount {
    pub rows: u64,
    pub fold: u64,
}

impl RowCount {
    pub fn add(&mut self, offset: Offset) {
        self.rows += 1;
        self.fold = self.fold.wrapping_add(fold_of(offset));
    }

    pub fn merge(&mut self, other: Self) {
        self.rows += other.rows;
        self.fold = self.fold.wrapping_add(other.fold);
    }
}

/// What a read-back found in an offset range; parts without rows are absent.
pub type Found = BTreeMap<PartKey, RowCount>;

/// Rows of one table, ready to send.
#[derive(Clone, Debug)]
pub struct RowBlock {
    pub table: Table,
    /// In RowBinary; any number of pieces.
    pub pieces: Vec<Bytes>,
}

/// Rows of one part while they are gathered.
#[derive(Debug, Default)]
pub struct PartRows {
    pub count: RowCount,
    encoded: BytesMut,
}

impl PartRows {
    pub fn bytes(&self) -> usize {
        self.encoded.len()
    }

    pub fn freeze(self) -> (RowCount, Bytes) {
        (self.count, self.encoded.freeze())
    }

    /// `partition, offset, event_id, event_type, timestamp, product_id, user_id, order_amount, properties`
    pub fn push_event(&mut self, partition: Partition, offset: Offset, event: &Event<'_>) {
        self.count.add(offset);
        let out = &mut self.encoded;
        out.extend_from_slice(&partition.0.to_le_bytes());
        out.extend_from_slice(&offset.get().to_le_bytes());
        put_str(out, event.event_id.as_deref().unwrap_or_default().as_bytes());
        put_str(out, event.event_type.as_bytes());
        out.extend_from_slice(&event.timestamp_ms.to_le_bytes());
        put_str(out, event.product_id.as_deref().unwrap_or_default().as_bytes());
        put_str(out, event.user_id.as_deref().unwrap_or_default().as_bytes());
        match event.order_amount {
            None => out.extend_from_slice(&[1]),
            Some(amount) => {
                out.extend_from_slice(&[0]);
                out.extend_from_slice(&amount.ten_thousandths().to_le_bytes());
            }
        }
        put_varint(out, event.properties.iter().count());
        for (key, value) in event.properties.iter() {
            put_str(out, key.as_bytes());
            put_str(out, value.as_bytes());
        }
    }

    /// `partition, offset, record_timestamp, reason, payload`; the payload is cut at `max_payload` bytes.
    pub fn push_dead_letter(
        &mut self,
        partition: Partition,
        offset: Offset,
        record_timestamp_ms: i64,
        reason: &str,
        payload: &[u8],
        max_payload: usize,
    ) {
        self.count.add(offset);
        let out = &mut self.encoded;
        out.extend_from_slice(&partition.0.to_le_bytes());
        out.extend_from_slice(&offset.get().to_le_bytes());
        out.extend_from_slice(&record_timestamp_ms.to_le_bytes());
        put_str(out, reason.as_bytes());
        put_str(out, &payload[..payload.len().min(max_payload)]);
    }
}

#[expect(clippy::cast_possible_truncation, reason = "seven bits at a time")]
fn put_varint(out: &mut BytesMut, mut value: usize) {
    while value >= 0x80 {
        out.extend_from_slice(&[(value & 0x7f) as u8 | 0x80]);
        value >>= 7;
    }
    out.extend_from_slice(&[value as u8]);
}

fn put_str(out: &mut BytesMut, text: &[u8]) {
    put_varint(out, text.len());
    out.extend_from_slice(text);
}

/// A raw row as history keeps it: enough to count it again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawRecord {
    pub offset: Offset,
    pub kind: RawKind,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RawKind {
    Event(RawEvent),
    /// What was not counted, with its record.
    Duplicate(RawPayload),
    DeadLetter(Reject, RawPayload),
}

/// An event, where what is absent is empty.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct RawEvent {
    pub event_id: String,
    pub event_type: String,
    pub timestamp_ms: i64,
    pub product_id: String,
    pub user_id: String,
    pub order_amount: Option<Amount>,
    pub properties: Vec<(String, String)>,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawPayload {
    pub payload: Vec<u8>,
    pub record_timestamp_ms: i64,
}

impl RawRecord {
    /// What decoding the record came to, when it was still in the log; without the event's properties.
    pub fn decoded(&self, limits: &Limits) -> Result<Event<'_>, Reject> {
        match &self.kind {
            RawKind::Event(event) => {
                let given = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned().into());
                Ok(Event {
                    event_type: (&event.event_type).into(),
                    timestamp_ms: event.timestamp_ms,
                    event_id: given(&event.event_id),
                    product_id: given(&event.product_id),
                    user_id: given(&event.user_id),
                    order_amount: event.order_amount,
                    properties: Properties::default(),
                })
            }
            RawKind::Duplicate(RawPayload { payload, record_timestamp_ms }) => decode(Some(payload), *record_timestamp_ms, limits),
            RawKind::DeadLetter(reject, _) => Err(*reject),
        }
    }

    /// The record that the log had, or one that decodes to the same: its own timestamp, and its bytes. Of an event the
    /// record's timestamp has not been kept; the event's own stands for it, so that it is not too far ahead again.
    pub fn into_record(self) -> (i64, Vec<u8>) {
        match self.kind {
            RawKind::Event(event) => (event.timestamp_ms, event.to_json()),
            RawKind::Duplicate(RawPayload { payload, record_timestamp_ms }) => (record_timestamp_ms, payload),
            RawKind::DeadLetter(reject, RawPayload { mut payload, record_timestamp_ms }) => {
                // It was cut when it was kept: one byte more, and it is too long again.
                if reject == Reject::TooLong && payload.len() == MAX_DEAD_LETTER_BYTES {
                    payload.push(b' ');
                }
                (record_timestamp_ms, payload)
            }
        }
    }
}

impl RawEvent {
    /// As a producer would write it.
    pub fn to_json(&self) -> Vec<u8> {
        #[derive(Serialize)]
        struct Json<'e> {
            event_type: &'e str,
            timestamp: i64,
            #[serde(skip_serializing_if = "str::is_empty")]
            event_id: &'e str,
            #[serde(skip_serializing_if = "str::is_empty")]
            product_id: &'e str,
            #[serde(skip_serializing_if = "str::is_empty")]
            user_id: &'e str,
            #[serde(skip_serializing_if = "Option::is_none")]
            order_amount: Option<Box<RawValue>>,
            #[serde(skip_serializing_if = "is_empty")]
            properties: Members<'e>,
        }
        // Digits, not a float: an amount is exact.
        let digits = self.order_amount.map(|amount| RawValue::from_string(amount.to_string()).expect("an amount is a number"));
        let json = Json {
            event_type: &self.event_type,
            timestamp: self.timestamp_ms,
            event_id: &self.event_id,
            product_id: &self.product_id,
            user_id: &self.user_id,
            order_amount: digits,
            properties: Members(&self.properties),
        };
        serde_json::to_vec(&json).expect("strings and numbers can be written")
    }
}

/// An object's members in order; a name may come twice.
struct Members<'e>(&'e [(String, String)]);

fn is_empty(members: &Members<'_>) -> bool {
    members.0.is_empty()
}

impl Serialize for Members<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(name, value)| (name, value)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn again(kind: RawKind) -> Result<RawEvent, Reject> {
        let (timestamp_ms, payload) = RawRecord { offset: Offset::new(1), kind }.into_record();
        let event = decode(Some(&payload), timestamp_ms, &Limits::default())?;
        let text = |text: Option<std::borrow::Cow<'_, str>>| text.unwrap_or_default().into_owned();
        let properties = event.properties.iter().map(|(name, value)| (name.into_owned(), value.into_owned())).collect();
        let (event_type, timestamp_ms, order_amount) = (event.event_type.into_owned(), event.timestamp_ms, event.order_amount);
        let (event_id, product_id, user_id) = (text(event.event_id), text(event.product_id), text(event.user_id));
        Ok(RawEvent { event_id, event_type, timestamp_ms, product_id, user_id, order_amount, properties })
    }

    #[test]
    fn a_record_that_history_gives_back_decodes_to_what_it_was() {
        let properties = vec![("a \"name\"".to_owned(), "1.50".to_owned()), ("gate\n".to_owned(), "Ü".to_owned())];
        let event = RawEvent {
            event_id: "e-1".into(),
            event_type: "say \"hi\" \u{1F600}\u{7}".into(),
            timestamp_ms: 1_357_035_300_001,
            product_id: "p\\".into(),
            user_id: String::new(),
            order_amount: Some(Amount::from_ten_thousandths(-999_999_999_999_999_999)),
            properties,
        };
        assert_eq!(again(RawKind::Event(event.clone())), Ok(event));
        let bare = RawEvent { event_type: "x".into(), timestamp_ms: 1_357_035_300_001, ..RawEvent::default() };
        assert_eq!(again(RawKind::Event(bare.clone())), Ok(bare));
    }

    #[test]
    fn a_dead_letter_that_was_cut_is_too_long_again() {
        let cut = RawPayload { payload: vec![b'x'; MAX_DEAD_LETTER_BYTES], record_timestamp_ms: 0 };
        assert_eq!(again(RawKind::DeadLetter(Reject::TooLong, cut)), Err(Reject::TooLong));
        let bad = RawPayload { payload: b"{".to_vec(), record_timestamp_ms: 0 };
        assert_eq!(again(RawKind::DeadLetter(Reject::NotJson, bad)), Err(Reject::NotJson));
    }
}
