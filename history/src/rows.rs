//! Rows as the history's tables take them: encoded once, to ClickHouse's RowBinary, when a record is judged.
//!
//! RowBinary is a plain concatenation of little-endian values; a string is a LEB128 length and its bytes, a nullable
//! value a presence byte (1 = null) and the value.

use bytes::{Bytes, BytesMut};
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

impl RawRecord {
    /// What decoding the record came to, when it was still in the log.
    pub fn decoded(&self, limits: &Limits) -> Result<Event<'_>, Reject> {
        match &self.kind {
            RawKind::Event { event_id, event_type, timestamp_ms, product_id, user_id, order_amount } => {
                let given = |text: &'_ str| (!text.is_empty()).then(|| text.to_owned().into());
                Ok(Event {
                    event_type: event_type.into(),
                    timestamp_ms: *timestamp_ms,
                    event_id: given(event_id),
                    product_id: given(product_id),
                    user_id: given(user_id),
                    order_amount: *order_amount,
                    properties: Properties::default(),
                })
            }
            RawKind::Duplicate { payload, record_timestamp_ms } => decode(Some(payload), *record_timestamp_ms, limits),
            RawKind::DeadLetter(reject) => Err(*reject),
        }
    }
}

/// A raw row as history keeps it, enough to count it again (without the event's properties).
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RawRecord {
    pub offset: Offset,
    pub kind: RawKind,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum RawKind {
    Event { event_id: String, event_type: String, timestamp_ms: i64, product_id: String, user_id: String, order_amount: Option<Amount> },
    Duplicate { payload: Vec<u8>, record_timestamp_ms: i64 },
    DeadLetter(Reject),
}
