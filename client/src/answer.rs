//! What a tidemark answers.

use serde::Deserialize;
use serde::de::{Deserializer, Error as _};
use serde_json::Value;
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// Of each partition a next offset: the first that is not included. Written `0:1234,3:99`.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Position(pub BTreeMap<u32, u64>);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut comma = "";
        for (partition, next) in &self.0 {
            write!(f, "{comma}{partition}:{next}")?;
            comma = ",";
        }
        Ok(())
    }
}

impl FromStr for Position {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let pair = |pair: &str| {
            let (partition, next) = pair.split_once(':')?;
            Some((partition.parse().ok()?, next.parse().ok()?))
        };
        let pairs = text.split(',').filter(|text| !text.is_empty()).map(pair).collect::<Option<_>>();
        pairs.map(Self).ok_or_else(|| format!("`{text}` is no position, such as 0:1234,3:99"))
    }
}

/// As text, or as an object.
impl<'de> Deserialize<'de> for Position {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match Value::deserialize(deserializer)? {
            Value::String(text) => text.parse().map_err(D::Error::custom),
            pairs => serde_json::from_value(pairs).map(Self).map_err(D::Error::custom),
        }
    }
}

/// An answer, exact at its cut.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[non_exhaustive]
pub struct Answer {
    /// By window, then by the dimensions.
    pub rows: Vec<Row>,
    /// Every event below is counted, and none above.
    pub cut: Position,
    /// Below is history, above the speed layer.
    pub mark: Position,
    /// Where the log ends.
    pub end: Position,
    /// Whose rules counted.
    pub generation: u32,
}

/// A row: of what was asked for.
#[derive(Clone, PartialEq, Eq, Debug, Default, Deserialize)]
#[non_exhaustive]
pub struct Row {
    /// The bucket's start, RFC 3339 in UTC; `None` where the step is `total`.
    pub window: Option<String>,
    pub event_type: Option<String>,
    pub product_id: Option<String>,
    pub user_id: Option<String>,
    pub count: Option<u64>,
    /// Events that had an amount.
    pub amount_count: Option<u64>,
    /// A decimal, as text: nothing of it is lost. `None`, too, where no event had an amount.
    pub sum: Option<String>,
    pub avg: Option<String>,
    pub min: Option<String>,
    pub max: Option<String>,
    /// Of a live row: the number of events counted in it. Among rows of one key, the larger is the newer.
    pub revision: Option<u64>,
    /// Of a live row: whether event time has passed its window.
    pub r#final: Option<bool>,
}

impl Row {
    /// By this a row is known again.
    pub(crate) fn key(&self) -> [Option<String>; 4] {
        [self.window.clone(), self.event_type.clone(), self.product_id.clone(), self.user_id.clone()]
    }
}

/// What became of events that were sent.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[non_exhaustive]
pub struct Sent {
    /// How many are in the topic.
    pub accepted: u64,
    /// Those that are no events; of very many the first alone.
    pub rejected: Vec<Rejected>,
    /// How many are no events, by reason.
    #[serde(default)]
    pub rejected_reasons: BTreeMap<String, u64>,
    /// An answer whose cut is at or above it contains them.
    pub position: Position,
}

/// What is no event.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[non_exhaustive]
pub struct Rejected {
    /// Its place among those sent, from 0.
    pub index: u64,
    /// The stable code.
    pub reason: String,
    /// The sentence.
    #[serde(default)]
    pub detail: String,
}

/// Where everything stands.
#[derive(Clone, PartialEq, Debug, Deserialize)]
#[non_exhaustive]
pub struct Status {
    pub topic: String,
    pub generation: u32,
    pub partitions: Vec<PartitionStatus>,
    /// Up to where event time has come, RFC 3339.
    pub watermark: Option<String>,
    /// Failed checks of invariants since the start.
    pub broken_invariants: u64,
}

/// Where a partition stands. All positions are next offsets; nothing is known of one that is not ready.
#[derive(Clone, PartialEq, Eq, Debug, Deserialize)]
#[non_exhaustive]
pub struct PartitionStatus {
    pub partition: u32,
    pub ready: bool,
    /// Below it history answers.
    pub mark: Option<u64>,
    /// How far history is.
    pub history: Option<u64>,
    /// How far the speed layer is.
    pub speed: Option<u64>,
    /// Where the log ends.
    pub end: Option<u64>,
    /// Records that are not counted yet.
    pub lag: Option<u64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_read_as_text_and_as_an_object() {
        let position = Position(BTreeMap::from([(0, 1234), (11, 99)]));
        assert_eq!(position.to_string(), "0:1234,11:99");
        let read = |json: &str| serde_json::from_str::<Position>(json).map_err(|error| error.to_string());
        assert_eq!(read(r#""0:1234,11:99""#), Ok(position.clone()));
        assert_eq!(read(r#"{"11":99,"0":1234}"#), Ok(position));
        assert_eq!(read(r#""""#), Ok(Position::default()));
        for wrong in [r#""0""#, r#""0:x""#, r#"{"a":1}"#, "1"] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
