//! A question that is listened to.

use crate::answer::{Position, Row};
use crate::client::Client;
use crate::error::ClientError;
use crate::events::{Event, Events};
use crate::query::Query;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::time::Duration;

/// Before a stream that was cut off is listened to again.
const AGAIN: Duration = Duration::from_secs(1);

/// A question's answer, kept as it is now. A stream that breaks is taken up behind its last event, so that nothing is
/// missed and nothing counted twice.
#[derive(Debug)]
pub struct Live {
    client: Client,
    query: Query,
    stream: Option<Events>,
    last_id: Option<String>,
    held: Held,
}

/// The answer that the events have come to.
#[derive(Debug, Default)]
struct Held {
    rows: BTreeMap<[Option<String>; 4], Row>,
    cut: Position,
    watermark: Option<String>,
    trouble: Option<String>,
}

#[derive(Deserialize)]
struct Change {
    rows: Vec<Row>,
    gone: Vec<Row>,
    cut: Position,
    watermark: Option<String>,
}

impl Held {
    /// Takes what an event says; true if the answer is another one, or why there is none.
    fn take(&mut self, Event { kind, data, .. }: Event) -> Result<bool, serde_json::Error> {
        match kind.as_str() {
            "snapshot" => self.rows.clear(),
            "change" => {}
            "trouble" => {
                self.trouble = data["detail"].as_str().map(str::to_owned);
                return Ok(true);
            }
            // `lagged`: a snapshot follows.
            _ => return Ok(false),
        }
        let Change { rows, gone, cut, watermark } = serde_json::from_value(data)?;
        for row in gone {
            self.rows.remove(&row.key());
        }
        self.rows.extend(rows.into_iter().map(|row| (row.key(), row)));
        (self.cut, self.watermark, self.trouble) = (cut, watermark, None);
        Ok(true)
    }
}

impl Live {
    pub(crate) fn new(client: Client, query: Query) -> Self {
        Self { client, query, stream: None, last_id: None, held: Held::default() }
    }

    /// Waits until the answer is another one, and gives its rows, in order. Whoever drops the future loses nothing.
    ///
    /// Fails where the question is refused. Once it has been answered, it goes on whatever happens on the way, until the
    /// server says that it cannot be asked any more.
    pub async fn next(&mut self) -> Result<Vec<&Row>, ClientError> {
        loop {
            match self.heard().await {
                Ok(Some(event)) => {
                    if event.id.is_some() {
                        self.last_id.clone_from(&event.id);
                    }
                    let taken = self.held.take(event).map_err(|error| self.client.nonsense(error.to_string()))?;
                    if taken {
                        return Ok(self.rows().collect());
                    }
                    continue;
                }
                Ok(None) => {}
                Err(error) if self.last_id.is_none() || !error.is_passing() => return Err(error),
                Err(_) => {}
            }
            self.stream = None;
            tokio::time::sleep(AGAIN).await;
        }
    }

    async fn heard(&mut self) -> Result<Option<Event>, ClientError> {
        let stream = match &mut self.stream {
            Some(stream) => stream,
            None => {
                let stream = self.client.listen("/v1/live", &self.query.parameters(), self.last_id.as_deref()).await?;
                self.stream.insert(stream)
            }
        };
        stream.next().await
    }

    /// The rows as they are now.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.held.rows.values()
    }

    /// The cut: every event below is counted in the rows, and none above.
    pub fn position(&self) -> &Position {
        &self.held.cut
    }

    /// Up to where event time had come, RFC 3339.
    pub fn watermark(&self) -> Option<&str> {
        self.held.watermark.as_deref()
    }

    /// Why the rows stand still, if the server knows. They are exact all the same, at their cut.
    pub fn trouble(&self) -> Option<&str> {
        self.held.trouble.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_held_follows_the_events() {
        let mut held = Held::default();
        let mut take = |kind: &str, data| {
            let told = held.take(Event { kind: kind.into(), id: None, data }).expect("understood");
            let rows: Vec<String> =
                held.rows.values().map(|row| format!("{}={}", row.event_type.as_deref().unwrap_or("-"), row.count.unwrap_or(0))).collect();
            format!("{told} {} {}{}", held.cut, rows.join(" "), held.trouble.as_deref().unwrap_or(""))
        };
        let row = |kind: &str, count: u64| json!({"event_type": kind, "count": count, "revision": count, "final": false});
        let change = |rows: &[serde_json::Value], gone: &[&str], next: u64| {
            let gone: Vec<_> = gone.iter().map(|kind| json!({"event_type": kind})).collect();
            json!({"rows": rows, "gone": gone, "cut": {"0": next}, "watermark": null, "exact": true})
        };
        assert_eq!(take("snapshot", change(&[row("b", 2), row("a", 1)], &[], 3)), "true 0:3 a=1 b=2");
        assert_eq!(take("change", change(&[row("a", 5)], &["b"], 7)), "true 0:7 a=5");
        assert_eq!(take("trouble", json!({"detail": " history is away"})), "true 0:7 a=5 history is away");
        assert_eq!(take("lagged", json!({"missed": 3})), "false 0:7 a=5 history is away");
        assert_eq!(take("snapshot", change(&[row("c", 1)], &[], 9)), "true 0:9 c=1");
        assert!(held.take(Event { kind: "change".into(), id: None, data: json!({"rows": 1}) }).is_err());
    }
}
