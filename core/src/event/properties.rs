//! An event's `properties`: kept as the JSON that they were written in, read only by whoever needs them.

use super::json::{Object, Scanner, Text, Value};
use std::borrow::Cow;

/// A flat object's text, checked by [`super::decode`]; empty for no properties. Two are equal if written alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Properties<'a> {
    json: &'a str,
}

impl<'a> Properties<'a> {
    /// Of a flat object.
    pub(super) fn of(object: Object<'a>) -> Self {
        Self { json: if object.empty { "" } else { object.json } }
    }

    pub fn is_empty(&self) -> bool {
        self.json.is_empty()
    }

    /// Name and value of each property as text, in the order written: a string with its escapes resolved, anything
    /// else (`12.50`, `true`, `null`) as it stands. A name that was written twice comes twice.
    pub fn iter(&self) -> impl Iterator<Item = (Cow<'a, str>, Cow<'a, str>)> + use<'a> {
        let mut scanner = Scanner::inside(self.json);
        std::iter::from_fn(move || scanner.next_member()).map(|(name, value)| (name.unescaped(), text_of(value)))
    }
}

fn text_of(value: Value<'_>) -> Cow<'_, str> {
    match value {
        Value::Text(text) => Text::unescaped(text),
        Value::Number(literal) => Cow::Borrowed(literal),
        Value::Bool(true) => Cow::Borrowed("true"),
        Value::Bool(false) => Cow::Borrowed("false"),
        Value::Null => Cow::Borrowed("null"),
        Value::Array | Value::Object(_) => unreachable!("properties are flat, by decode"),
    }
}
