//! Another time in the place of an event's own, in the payload itself. Pure.

use super::{Limits, Value, event_of, fields_of};
use crate::window::rfc3339;
use std::ops::Range;

/// Where an event says its time, and which.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Stamp {
    pub timestamp_ms: i64,
    /// The value's bytes in the payload, the quotes of a string included.
    place: Range<usize>,
    is_text: bool,
}

/// The stamp of a payload that is an event.
pub fn stamp_of(payload: &[u8], record_timestamp_ms: i64, limits: &Limits) -> Option<Stamp> {
    let fields = fields_of(payload, limits).ok()?;
    let (literal, quotes) = match fields.timestamp? {
        Value::String(text) => (text.raw(), 1),
        Value::Number(digits) => (digits, 0),
        _ => return None,
    };
    // The literal is a part of the payload.
    let start = literal.as_ptr().addr() - payload.as_ptr().addr();
    let event = event_of(fields, record_timestamp_ms, limits).ok()?;
    let place = start - quotes..start + literal.len() + quotes;
    Some(Stamp { timestamp_ms: event.timestamp_ms, place, is_text: quotes == 1 })
}

impl Stamp {
    /// Writes the payload that this is the stamp of, with the time `by_ms` later. A number of milliseconds stays one, RFC 3339
    /// becomes that with three digits after the second, in UTC. Every other byte is as it was.
    pub fn shifted(&self, payload: &[u8], by_ms: i64, into: &mut Vec<u8>) {
        let timestamp_ms = self.timestamp_ms.saturating_add(by_ms);
        let value = if self.is_text { format!("\"{}\"", rfc3339(timestamp_ms)) } else { timestamp_ms.to_string() };
        into.clear();
        into.extend_from_slice(&payload[..self.place.start]);
        into.extend_from_slice(value.as_bytes());
        into.extend_from_slice(&payload[self.place.end..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::decode;
    use proptest::prelude::*;

    const NOW_MS: i64 = 1_400_000_000_000;

    /// The payload an hour and a millisecond later; `-` if it is no event.
    fn later(payload: &str) -> String {
        let Some(stamp) = stamp_of(payload.as_bytes(), NOW_MS, &Limits::default()) else { return "-".to_owned() };
        let mut shifted = Vec::new();
        stamp.shifted(payload.as_bytes(), 3_600_001, &mut shifted);
        String::from_utf8(shifted).expect("still UTF-8")
    }

    #[track_caller]
    fn check(payload: &str, becomes: &str) {
        assert_eq!(later(payload), becomes);
    }

    #[test]
    fn a_time_keeps_its_form_and_nothing_else_changes() {
        check(
            r#"{"event_type":"a","timestamp":"2013-01-01T10:15:00Z","x":1.50}"#,
            r#"{"event_type":"a","timestamp":"2013-01-01T11:15:00.001Z","x":1.50}"#,
        );
        check(r#" { "timestamp" : 1357035300000 ,"event_type":"a"} "#, r#" { "timestamp" : 1357038900001 ,"event_type":"a"} "#);
        check(
            r#"{"timestamp":"2013-01-01t23:30:00.5+02:30","event_type":"a"}"#,
            r#"{"timestamp":"2013-01-01T22:00:00.501Z","event_type":"a"}"#,
        );
    }

    #[test]
    fn only_the_field_of_the_event_itself_is_its_time() {
        check(
            r#"{"properties":{"timestamp":1},"x":[{"timestamp":2}],"event_type":"timestamp","timestamp":1357035300000}"#,
            r#"{"properties":{"timestamp":1},"x":[{"timestamp":2}],"event_type":"timestamp","timestamp":1357038900001}"#,
        );
        check(r#"{"event_type":"a","properties":{"timestamp":1357035300000}}"#, "-");
    }

    #[test]
    fn a_name_and_a_value_may_have_escapes() {
        check(
            r#"{"event_type":"Ü\"\u0041","time\u0073tamp":"2013\u002d01-01T10:15:00Z"}"#,
            r#"{"event_type":"Ü\"\u0041","time\u0073tamp":"2013-01-01T11:15:00.001Z"}"#,
        );
    }

    #[test]
    fn what_is_no_event_has_no_time() {
        for payload in [
            r#"{"event_type":"a","timestamp":1357035300000,"timestamp":1357035300000}"#,
            r#"{"event_type":"a","timestamp":1357035300000,"time\u0073tamp":1357035300000}"#,
            r#"{"event_type":"a","timestamp":null}"#,
            r#"{"event_type":"a","timestamp":"yesterday"}"#,
            r#"{"event_type":"a","timestamp":1}"#,
            r#"{"timestamp":1357035300000}"#,
            r#"[{"event_type":"a","timestamp":1357035300000}]"#,
            r#"{"event_type":"a","timestamp":1357035300000"#,
            "",
        ] {
            check(payload, "-");
        }
    }

    proptest! {
        #[test]
        fn what_is_shifted_decodes_to_the_same_at_the_other_time(
            at in 946_684_800_000..NOW_MS, by in -1_000_000_000i64..2_000_000_000_000, is_text: bool, gap in "[ \t\n]{0,3}",
        ) {
            let stamp = if is_text { format!("\"{}\"", rfc3339(at)) } else { at.to_string() };
            let payload = format!("{{{gap}\"timestamp\"{gap}:{gap}{stamp}{gap},\"event_type\":\"a\",\"properties\":{{\"b\":1.50}}}}");
            let limits = Limits { earliest_ms: i64::MIN, ..Limits::default() };
            let mut shifted = Vec::new();
            stamp_of(payload.as_bytes(), NOW_MS, &limits).expect("an event").shifted(payload.as_bytes(), by, &mut shifted);
            let (was, is) = (decode(Some(payload.as_bytes()), NOW_MS, &limits), decode(Some(&shifted), i64::MAX / 2, &limits));
            let (was, is) = (was.expect("an event"), is.expect("an event"));
            prop_assert_eq!(is.timestamp_ms - was.timestamp_ms, by);
            prop_assert_eq!(is.properties, was.properties);
            let expected = if is_text { format!("\"{}\"", rfc3339(at + by)) } else { (at + by).to_string() };
            prop_assert_eq!(String::from_utf8(shifted).expect("UTF-8"), payload.replace(&stamp, &expected));
        }
    }
}
