//! From a body to its items: each is validated by itself, with the same `decode` as everywhere, and kept as it was
//! sent, or as its dialect tells it. Pure; the caller says what time it is.

use crate::body::Form;
use crate::dialect::segment::Batch;
use crate::dialect::{self, Names, cloudevents, segment};
use crate::lines::is_blank;
use bytes::Bytes;
use serde::de::{DeserializeSeed, Deserializer, Error as _, SeqAccess, Visitor};
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use tidemark_core::event::{Event, Limits, Reject, decode};

/// Most items in one request: bounds the answer, and what a retry sends again.
pub const MAX_ITEMS: usize = 100_000;
/// Items that are no events and are listed in the answer; the rest is counted by reason.
pub const MAX_LISTED: usize = 1_000;

/// An item that will be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Item {
    /// As a [`Rejection`]'s.
    pub index: usize,
    /// By [`key_of`].
    pub key: Option<Bytes>,
    /// The bytes as they were sent; of a dialect, what they were told as.
    pub payload: Bytes,
}

/// The key of an event's record: its `user_id`, else its `event_id`: a user's events keep their order, and a retry of an event
/// meets its first copy in the same partition, where duplicates are found.
pub fn key_of(event: Event<'_>) -> Option<Cow<'_, str>> {
    event.user_id.or(event.event_id)
}

/// Why an item is not an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Refusal {
    /// The stable code: [`Reject::reason`], or one of a dialect's own.
    pub reason: &'static str,
    /// What to do about it.
    pub detail: String,
}

impl From<Reject> for Refusal {
    fn from(reject: Reject) -> Self {
        Self { reason: reject.reason(), detail: reject.to_string() }
    }
}

/// An item that is not an event.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Rejection {
    /// The item's place in the array, or its line in NDJSON (blank lines count); from 0.
    pub index: usize,
    pub refusal: Refusal,
}

/// A body's items, judged.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Checked {
    pub items: Vec<Item>,
    /// The first of those that are no events, [`MAX_LISTED`] at most.
    pub rejected: Vec<Rejection>,
    /// How many are no events, by reason.
    pub reasons: BTreeMap<&'static str, u64>,
}

/// Why a body as a whole is refused. Nothing of it is written.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BodyError {
    #[error("the body is empty; send at least one event")]
    Empty,
    #[error("the body has more than {MAX_ITEMS} items; send it in parts")]
    TooMany,
    #[error("the body is JSON, but neither an object nor an array of objects")]
    NeitherObjectNorArray,
    /// The boundaries between its items cannot be trusted.
    #[error("the body is not one valid JSON text, and nothing of it was written: {reason}; objects one a line are application/x-ndjson")]
    NotJson { reason: String },
    #[error("the body is not a batch of calls, `{{\"batch\":[…]}}`, and nothing of it was written: {reason}")]
    NoBatch { reason: String },
}

/// Splits a body and judges each item as of `now_ms`.
pub fn check(body: &Bytes, form: &Form, now_ms: i64, limits: &Limits) -> Result<Checked, BodyError> {
    let mut court = Court { checked: Checked::default(), now_ms, limits };
    match form {
        Form::Lines => court.lines(body)?,
        Form::Json => {
            for (index, item) in split_json(body)?.into_iter().enumerate() {
                court.judge(body, index, item.get().as_bytes());
            }
        }
        Form::Binary(head) => court.told(cloudevents::NAMES, 0, cloudevents::binary(head, body)),
        Form::Structured => court.told(cloudevents::NAMES, 0, cloudevents::structured(whole_json(body)?.get())),
        Form::Batched => {
            for (index, item) in array(body)?.into_iter().enumerate() {
                court.told(cloudevents::NAMES, index, cloudevents::structured(item.get()));
            }
        }
        Form::Track => court.told(segment::NAMES, 0, segment::track(whole_json(body)?.get(), None)),
        Form::Batch => {
            let batch = Batch::read(whole_json(body)?.get())?;
            for (index, call) in array(batch.calls.get().as_bytes())?.into_iter().enumerate() {
                court.told(segment::NAMES, index, segment::track(call.get(), Some(&batch)));
            }
        }
    }
    Ok(court.checked)
}

/// The lines without their ends (LF or CRLF); after the last end there is no line.
fn lines(body: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = body;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let (line, after) = match memchr::memchr(b'\n', rest) {
            Some(at) => (&rest[..at], &rest[at + 1..]),
            None => (rest, &rest[rest.len()..]),
        };
        rest = after;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    })
}

impl Checked {
    /// How many are no events.
    pub fn rejected_count(&self) -> u64 {
        self.reasons.values().sum()
    }

    fn reject(&mut self, rejection: Rejection) {
        *self.reasons.entry(rejection.refusal.reason).or_default() += 1;
        if self.rejected.len() < MAX_LISTED {
            self.rejected.push(rejection);
        }
    }
}

/// Judges the items of one body.
struct Court<'a> {
    checked: Checked,
    now_ms: i64,
    limits: &'a Limits,
}

impl Court<'_> {
    fn lines(&mut self, body: &Bytes) -> Result<(), BodyError> {
        let mut judged = 0;
        for (index, line) in lines(body).enumerate() {
            if is_blank(line) {
                continue;
            }
            if judged == MAX_ITEMS {
                return Err(BodyError::TooMany);
            }
            self.judge(body, index, line);
            judged += 1;
        }
        if judged == 0 { Err(BodyError::Empty) } else { Ok(()) }
    }

    /// `raw` lies within `body`.
    fn judge(&mut self, body: &Bytes, index: usize, raw: &[u8]) {
        match decode(Some(raw), self.now_ms, self.limits) {
            Err(reject) => self.checked.reject(Rejection { index, refusal: reject.into() }),
            Ok(event) => {
                let key = key_of(event).map(|key| match key {
                    Cow::Borrowed(text) => body.slice_ref(text.as_bytes()),
                    Cow::Owned(text) => Bytes::from(text),
                });
                let payload = body.slice_ref(raw);
                self.checked.items.push(Item { index, key, payload });
            }
        }
    }

    /// Judges what a dialect has told, as if it had been sent so.
    fn told(&mut self, names: Names, index: usize, told: Result<Bytes, Refusal>) {
        let before = self.checked.rejected.len();
        match told {
            Ok(payload) => self.judge(&payload, index, &payload),
            Err(refusal) => self.checked.reject(Rejection { index, refusal }),
        }
        for Rejection { refusal, .. } in &mut self.checked.rejected[before..] {
            dialect::in_its_words(names, refusal);
        }
    }
}

/// Splits a JSON body into its items' own texts. The body's syntax is checked, what the items mean is not.
fn split_json(body: &[u8]) -> Result<Vec<&RawValue>, BodyError> {
    match first_byte(body)? {
        b'[' => array(body),
        b'{' => Ok(vec![whole_json(body)?]),
        _ => whole_json(body).and(Err(BodyError::NeitherObjectNorArray)),
    }
}

fn first_byte(body: &[u8]) -> Result<u8, BodyError> {
    body.iter().copied().find(|byte| !is_blank(&[*byte])).ok_or(BodyError::Empty)
}

fn not_json(error: serde_json::Error) -> BodyError {
    BodyError::NotJson { reason: error.to_string() }
}

/// A body that is one item.
fn whole_json(body: &[u8]) -> Result<&RawValue, BodyError> {
    first_byte(body)?;
    serde_json::from_slice(body).map_err(not_json)
}

fn array(body: &[u8]) -> Result<Vec<&RawValue>, BodyError> {
    first_byte(body)?;
    let mut elements = Vec::new();
    let mut parser = serde_json::Deserializer::from_slice(body);
    let parsed = Elements(&mut elements).deserialize(&mut parser).and_then(|()| parser.end());
    match parsed {
        _ if elements.len() > MAX_ITEMS => Err(BodyError::TooMany),
        Err(error) => Err(not_json(error)),
        Ok(()) => Ok(elements),
    }
}

/// Collects an array's elements, and stops one beyond the limit: an array of millions of tiny ones must not become a
/// list of millions.
struct Elements<'v, 'de>(&'v mut Vec<&'de RawValue>);

impl<'de> DeserializeSeed<'de> for Elements<'_, 'de> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Elements<'_, 'de> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<(), A::Error> {
        while let Some(element) = array.next_element()? {
            self.0.push(element);
            if self.0.len() > MAX_ITEMS {
                return Err(A::Error::custom("too many items"));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: i64 = 1_357_000_000_000;

    /// `a=key` for an item with that type and key, `3!reason` for a rejection; or the error's text.
    fn picture(body: &str, form: Form) -> String {
        let body = Bytes::from(body.to_owned());
        let checked = match check(&body, &form, NOW_MS, &Limits::default()) {
            Err(error) => return error.to_string(),
            Ok(checked) => checked,
        };
        let items = checked.items.iter().map(|item| {
            let event = decode(Some(&item.payload), NOW_MS, &Limits::default()).unwrap();
            let key = item.key.as_deref().unwrap_or(b"-");
            format!("{}={}", event.event_type, String::from_utf8_lossy(key))
        });
        let rejected = checked.rejected.iter().map(|it| format!("{}!{}", it.index, it.refusal.reason));
        items.chain(rejected).collect::<Vec<_>>().join(" ")
    }

    fn event(rest: &str) -> String {
        format!(r#"{{"event_type":"a","timestamp":"2013-01-01T00:00:00Z"{rest}}}"#)
    }

    #[test]
    fn the_key_is_the_user_else_the_event_id_else_none() {
        let lines = [
            event(r#","user_id":"u","event_id":"e""#),
            event(r#","event_id":"e""#),
            event(r#","user_id":null,"event_id":"e""#),
            event(r#","user_id":"","event_id":"""#),
            event(r#","user_id":"\u0041 b""#),
            event(""),
        ];
        assert_eq!(picture(&lines.join("\n"), Form::Lines), "a=u a=e a=e a=- a=A b a=-");
        assert_eq!(picture(&format!("[{}]", lines.join(",")), Form::Json), "a=u a=e a=e a=- a=A b a=-");
    }

    #[test]
    fn an_index_in_ndjson_is_a_line_number_and_blank_lines_count() {
        let good = event("");
        assert_eq!(picture(&format!("x\n\n{good}\r\n  \n[]\n{good}"), Form::Lines), "a=- a=- 0!not_json 4!not_an_object");
        assert_eq!(picture("\n \r\n", Form::Lines), BodyError::Empty.to_string());
    }

    #[test]
    fn an_item_of_an_array_is_rejected_alone_and_a_broken_array_as_a_whole() {
        let good = event("");
        assert_eq!(picture(&format!(" [ {good} , 1, {{}},{good}]\n"), Form::Json), "a=- a=- 1!not_an_object 2!missing_event_type");
        let deep = format!("[{good},{}1{}]", r#"{"a":"#.repeat(2000), "}".repeat(2000));
        assert_eq!(picture(&deep, Form::Json), "a=- 1!too_deep");
        let surrogate = format!(r#"[{{"event_type":"\ud800"}},{good}]"#);
        assert_eq!(picture(&surrogate, Form::Json), "a=- 0!lone_surrogate");
        for broken in [
            format!("[{good},"),
            format!("[{good} {good}]"),
            format!("[{good},NaN]"),
            format!("[{good}] x"),
            format!("{good}\n{good}"),
            r#"{"event_type":"#.to_owned(),
        ] {
            let refused = picture(&broken, Form::Json);
            assert!(refused.contains("nothing of it was written"), "{broken}: {refused}");
        }
    }

    #[test]
    fn what_is_neither_an_object_nor_an_array_is_refused() {
        for body in ["1", r#""text""#, "null", " true "] {
            assert_eq!(picture(body, Form::Json), BodyError::NeitherObjectNorArray.to_string(), "{body}");
        }
        assert_eq!(picture("[ ]", Form::Json), "", "no events, and nothing wrong with that");
        for body in ["", " \n"] {
            assert_eq!(picture(body, Form::Json), BodyError::Empty.to_string(), "{body}");
        }
    }

    #[test]
    fn one_item_more_than_the_limit_is_too_many_even_when_the_rest_is_rubbish() {
        let full = Bytes::from("1\n".repeat(MAX_ITEMS));
        let checked = check(&full, &Form::Lines, NOW_MS, &Limits::default()).unwrap();
        assert_eq!((checked.rejected.len(), checked.rejected_count()), (MAX_LISTED, MAX_ITEMS as u64));
        let too_many = BodyError::TooMany.to_string();
        assert_eq!(picture(&"1\n".repeat(MAX_ITEMS + 1), Form::Lines), too_many);
        let array = format!("[{}", "1,".repeat(MAX_ITEMS + 1));
        assert_eq!(picture(&array, Form::Json), too_many);
    }

    #[test]
    fn a_payload_is_the_very_bytes_that_were_sent() {
        let odd = r#"{ "timestamp" : 1356998400000.0e0 ,"event_type":"\u0061" }"#.replace(".0e0", "");
        let body = Bytes::from(format!("[{odd},\n {odd}]"));
        let checked = check(&body, &Form::Json, NOW_MS, &Limits::default()).unwrap();
        assert_eq!(checked.items.len(), 2);
        assert!(checked.items.iter().all(|item| item.payload == odd));
    }
}
