//! A JSON object taken apart, its values as the text that they are.

use crate::items::Refusal;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;
use std::fmt;
use tidemark_core::event::Reject;

/// An object's members in the order in which they were sent, repeated ones too.
pub struct Object<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Object<'a> {
    pub fn read(text: &'a str) -> Result<Self, Refusal> {
        serde_json::from_str(text).map_err(|_| {
            let reject = match serde_json::from_str::<&RawValue>(text) {
                Err(_) => Reject::NotJson,
                Ok(value) if value.get().starts_with('{') => Reject::LoneSurrogate,
                Ok(_) => Reject::NotAnObject,
            };
            reject.into()
        })
    }

    /// The value of a member that may come once.
    pub fn get(&self, name: &'static str) -> Result<Option<&'a RawValue>, Refusal> {
        let mut named = self.0.iter().filter(|(it, _)| it == name).map(|(_, value)| *value);
        match (named.next(), named.next()) {
            (_, Some(_)) => Err(Reject::RepeatedField(name).into()),
            (value, None) => Ok(value),
        }
    }

    /// The first of these members that there is, and is not `null`.
    pub fn first(&self, names: [&'static str; 2]) -> Result<Option<&'a RawValue>, Refusal> {
        for name in names {
            if let Some(value) = super::present(self.get(name)?) {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    /// The members but these, as an object's text; `None` if there are no others.
    pub fn without(&self, names: &[&str]) -> Option<String> {
        let others = self.0.iter().filter(|(name, _)| !names.contains(&name.as_str()));
        let members: Vec<_> = others.map(|(name, value)| format!("{}:{value}", super::quoted(name))).collect();
        (!members.is_empty()).then(|| format!("{{{}}}", members.join(",")))
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Object<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Members;
        impl<'de> Visitor<'de> for Members {
            type Value = Object<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Object<'de>, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Object(members))
            }
        }
        deserializer.deserialize_map(Members)
    }
}

/// The text of a JSON string; `None` for any other value.
pub fn string(value: &RawValue) -> Option<Result<String, Refusal>> {
    value.get().starts_with('"').then(|| serde_json::from_str(value.get()).map_err(|_| Reject::LoneSurrogate.into()))
}
