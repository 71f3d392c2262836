//! Dialects: the events of other interfaces, told as ours. Pure.
//!
//! A dialect only translates: it makes of an item the JSON object that a client of `POST /v1/events` would have sent.
//! That is judged and written as if it had come so, so that no dialect has rules of its own about what is an event.
//! Values are passed on as the text that was sent, never read and written again: an amount keeps its digits.

pub mod cloudevents;
mod object;
pub mod segment;
#[cfg(test)]
mod tests;

use crate::items::Refusal;
use bytes::Bytes;
use serde_json::value::RawValue;

/// What a dialect calls our fields, ours first: for the sentence that says why an item is refused.
pub type Names = &'static [(&'static str, &'static str)];

/// An event as `POST /v1/events` takes it, made field by field.
struct Telling(String);

impl Telling {
    fn new() -> Self {
        Self("{".to_owned())
    }

    /// Sets a field to the JSON text of its value, if there is one. A name comes once.
    fn set(&mut self, name: &str, value: Option<&str>) {
        if let Some(value) = value {
            let comma = if self.0.len() > 1 { "," } else { "" };
            self.0.push_str(&format!("{comma}\"{name}\":{value}"));
        }
    }

    fn end(mut self) -> Bytes {
        self.0.push('}');
        self.0.into()
    }
}

/// The JSON text of a string.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// `null` is as good as nothing.
fn present(value: Option<&RawValue>) -> Option<&RawValue> {
    value.filter(|value| value.get() != "null")
}

/// Adds to a refusal of ours what the dialect calls it: `event_type is required (event_type is made of event)`.
pub fn in_its_words(names: Names, refusal: &mut Refusal) {
    if let Some((ours, theirs)) = names.iter().find(|(ours, _)| refusal.detail.starts_with(ours)) {
        refusal.detail.push_str(&format!(" ({ours} is made of {theirs})"));
    }
}
