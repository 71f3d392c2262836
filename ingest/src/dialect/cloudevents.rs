//! CloudEvents 1.0: the JSON event format, and the HTTP protocol binding's three modes.
//!
//! An event of theirs is known by `source` and `id` together, one of ours by `event_id`: the two are joined by a space,
//! which a source, being a URI reference, cannot have. So different pairs give different ids, and a retry gives the same.

use super::object::{Object, string};
use super::{Names, Telling, present, quoted};
use crate::items::Refusal;
use axum::http::HeaderMap;
use axum::http::header::CONTENT_TYPE;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::Bytes;
use sha2::{Digest as _, Sha256};
use tidemark_core::event::{MAX_ID_BYTES, Reject};

pub const NAMES: Names = &[
    ("event_type", "type"),
    ("timestamp", "time"),
    ("product_id", "data.product_id"),
    ("user_id", "data.user_id"),
    ("order_amount", "data.order_amount"),
    ("properties", "data.properties"),
];

/// What is known of an event beside its data.
#[derive(Default)]
struct Attributes {
    specversion: Option<String>,
    source: Option<String>,
    id: Option<String>,
    event_type: Option<String>,
    time: Option<String>,
}

impl Attributes {
    /// Reads each attribute by its name.
    fn read(mut attribute: impl FnMut(&'static str) -> Result<Option<String>, Refusal>) -> Result<Self, Refusal> {
        Ok(Self {
            specversion: attribute("specversion")?,
            source: attribute("source")?,
            id: attribute("id")?,
            event_type: attribute("type")?,
            time: attribute("time")?,
        })
    }

    fn event_id(&self) -> Result<String, Refusal> {
        let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
        let (Some(source), Some(id)) = (given(&self.source), given(&self.id)) else {
            return refused("missing_id", "source and id are required, and may not be empty: together they are the event's id");
        };
        if source.contains(char::is_whitespace) {
            return refused("bad_source", "source must be a URI reference, which has no white space");
        }
        let joined = format!("{source} {id}");
        // No joined id looks like this, for this has no space.
        Ok(if joined.len() <= MAX_ID_BYTES { joined } else { format!("sha256:{}", hex(&Sha256::digest(&joined))) })
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn refused<T>(reason: &'static str, detail: &str) -> Result<T, Refusal> {
    Err(Refusal { reason, detail: detail.to_owned() })
}

/// The head of a request whose body is one event's data.
#[derive(Clone, Debug)]
pub struct Head(HeaderMap);

impl Head {
    /// The head, if it has one of the required attributes.
    pub fn of(headers: &HeaderMap) -> Option<Self> {
        let required = ["ce-specversion", "ce-source", "ce-id", "ce-type"];
        required.iter().any(|name| headers.contains_key(*name)).then(|| Self(headers.clone()))
    }

    fn attribute(&self, name: &'static str) -> Result<Option<String>, Refusal> {
        let mut values = self.0.get_all(format!("ce-{name}")).iter();
        match (values.next(), values.next()) {
            (_, Some(_)) => Err(Reject::RepeatedField(name).into()),
            (Some(value), None) => unescaped(value.as_bytes()).map(Some),
            (None, None) => Ok(None),
        }
    }

    /// Where nothing is said of the data, it may be: the SDK for Python says nothing of its JSON.
    fn may_be_json(&self) -> bool {
        let Some(sent) = self.0.get(CONTENT_TYPE) else { return true };
        let sent = sent.to_str().unwrap_or_default();
        let media_type = sent.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
        matches!(media_type.as_str(), "application/json" | "text/json") || media_type.ends_with("+json")
    }
}

/// A header's value: quotes around it and percent signs in it stand for what a header cannot have (3.1.3.2 of the binding).
fn unescaped(value: &[u8]) -> Result<String, Refusal> {
    let inner = value.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\""));
    let unquoted = inner.map(|inner| {
        let mut escaped = false;
        let plain = inner.iter().filter(|byte| {
            escaped = **byte == b'\\' && !escaped;
            !escaped
        });
        plain.copied().collect::<Vec<_>>()
    });
    let bytes: Vec<u8> = percent_encoding::percent_decode(unquoted.as_deref().unwrap_or(value)).collect();
    String::from_utf8(bytes).map_err(|_| Reject::NotUtf8.into())
}

/// An event whose attributes are headers and whose data is the body.
pub fn binary(head: &Head, body: &[u8]) -> Result<Bytes, Refusal> {
    let attributes = Attributes::read(|name| head.attribute(name))?;
    if body.is_empty() {
        return told(&attributes, None);
    }
    if !head.may_be_json() {
        return bad_data();
    }
    told(&attributes, Some(std::str::from_utf8(body).map_err(|_| Reject::NotUtf8)?))
}

/// An event that is one JSON object, alone or in a batch.
pub fn structured(text: &str) -> Result<Bytes, Refusal> {
    let event = Object::read(text)?;
    let attributes = Attributes::read(|name| {
        let Some(value) = present(event.get(name)?) else { return Ok(None) };
        let detail = || Refusal { reason: "bad_attribute", detail: format!("{name} must be a string") };
        string(value).ok_or_else(detail)?.map(Some)
    })?;
    match (present(event.get("data")?), present(event.get("data_base64")?)) {
        (data, None) => told(&attributes, data.map(|data| data.get())),
        (None, Some(packed)) => {
            let packed = string(packed).transpose()?.unwrap_or_default();
            let Ok(data) = BASE64.decode(packed) else { return refused("bad_data", "data_base64 must be a string in base64") };
            told(&attributes, Some(&String::from_utf8(data).map_err(|_| Reject::NotUtf8)?))
        }
        (Some(_), Some(_)) => refused("bad_data", "there is data and data_base64; send one of them"),
    }
}

fn bad_data<T>() -> Result<T, Refusal> {
    refused("bad_data", "data must be one JSON object (datacontenttype application/json), or absent: nothing else says what to count")
}

/// `data` is JSON text.
fn told(attributes: &Attributes, data: Option<&str>) -> Result<Bytes, Refusal> {
    const OURS: [&str; 3] = ["product_id", "user_id", "order_amount"];
    if attributes.specversion.as_deref() != Some("1.0") {
        return refused("bad_specversion", "specversion must be 1.0");
    }
    let mut telling = Telling::new();
    telling.set("event_type", attributes.event_type.as_deref().map(quoted).as_deref());
    telling.set("timestamp", attributes.time.as_deref().map(quoted).as_deref());
    telling.set("event_id", Some(&quoted(&attributes.event_id()?)));
    let Some(data) = data else { return Ok(telling.end()) };
    let data = match Object::read(data) {
        Err(refusal) if refusal.reason == Reject::NotAnObject.reason() => return bad_data(),
        data => data?,
    };
    for name in OURS {
        telling.set(name, data.get(name)?.map(|value| value.get()));
    }
    match data.get("properties")? {
        Some(properties) => telling.set("properties", Some(properties.get())),
        None => telling.set("properties", data.without(&OURS).as_deref()),
    }
    Ok(telling.end())
}
