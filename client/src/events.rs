//! Server-sent events, as they come.

use crate::error::ClientError;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use serde_json::Value;

/// One server-sent event.
#[derive(Clone, PartialEq, Debug)]
pub struct Event {
    pub kind: String,
    pub id: Option<String>,
    pub data: Value,
}

/// Server-sent events, as they come.
#[derive(Debug)]
pub struct Events {
    url: String,
    body: Incoming,
    /// What has come of the next one.
    read: Vec<u8>,
}

impl Events {
    pub(crate) fn new(url: String, body: Incoming) -> Self {
        Self { url, body, read: Vec::new() }
    }

    /// The next event; `None` when the server has ended the stream.
    pub async fn next(&mut self) -> Result<Option<Event>, ClientError> {
        loop {
            while let Some(end) = self.read.windows(2).position(|pair| pair == b"\n\n") {
                let text: Vec<u8> = self.read.drain(..end + 2).collect();
                let event = event(&String::from_utf8_lossy(&text));
                let nonsense = |reason| ClientError::Nonsense { url: self.url.clone(), reason };
                if let Some(event) = event.map_err(nonsense)? {
                    return Ok(Some(event));
                }
            }
            let frame = match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => frame.map_err(|error| ClientError::Unavailable { url: self.url.clone(), reason: error.to_string() })?,
            };
            if let Ok(data) = frame.into_data() {
                self.read.extend_from_slice(&data);
            }
        }
    }
}

/// The event of some lines; `None` if they are a comment, or something for the client alone.
fn event(text: &str) -> Result<Option<Event>, String> {
    let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
    let Some(data) = field("data") else { return Ok(None) };
    let data = serde_json::from_str(data).map_err(|error| format!("an event's data: {error}"))?;
    Ok(Some(Event { kind: field("event").unwrap_or("message").to_owned(), id: field("id").map(str::to_owned), data }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn events_are_told_from_comments() {
        let change = event("event: change\nid: 1/0:7\ndata: {\"rows\":[]}\n\n").expect("well formed").expect("an event");
        assert_eq!(change, Event { kind: "change".into(), id: Some("1/0:7".into()), data: json!({"rows": []}) });
        assert_eq!((event(": still here\n\n"), event("retry: 1000\n\n")), (Ok(None), Ok(None)));
        assert!(event("data: {\n\n").is_err());
    }
}
