//! The head of a partition's snapshot: at which cut its cells are right.

use serde::{Deserialize, Serialize};
use tidemark_core::cell::Tally;
use tidemark_core::epoch::{Epoch, Mark};
use tidemark_core::offset::NextOffset;

/// What a partition's owner says of its cells.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Head {
    /// S: the cells are those of all events from the mark up to here.
    pub position: NextOffset,
    /// M.
    pub mark: Mark,
    /// The log's end as the owner last saw it.
    pub end: NextOffset,
    /// The Kafka timestamp of the last record counted.
    pub counted_ms: Option<i64>,
    /// The latest timestamp of an event counted, but no later than its record's.
    pub event_ms: Option<i64>,
    /// Cells, over all views.
    pub cells: u64,
    /// From the mark on, one after the other; the last one is being counted.
    pub epochs: Vec<OpenEpoch>,
}

/// What became of the records of an epoch so far, and the fold of its events: what the cells of each view must add up to.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct OpenEpoch {
    pub tally: Tally,
    pub fold: u64,
}

/// As it is written: short names, read by machines and now and then by people.
#[derive(Serialize, Deserialize)]
struct Wire {
    position: u64,
    mark: u64,
    end: u64,
    counted_ms: Option<i64>,
    /// Not known to earlier versions.
    #[serde(default)]
    event_ms: Option<i64>,
    cells: u64,
    /// Events, duplicates, dead letters, fold.
    epochs: Vec<(u64, u64, u64, u64)>,
}

impl Head {
    /// The first and the last open epoch.
    pub(crate) fn open(&self) -> (Epoch, Epoch) {
        let first = self.mark.oldest_open();
        (first, Epoch(first.0 + (self.epochs.len() as u64).saturating_sub(1)))
    }

    pub(crate) fn to_json(&self) -> String {
        let epoch = |epoch: &OpenEpoch| (epoch.tally.events, epoch.tally.duplicates, epoch.tally.dead_letters, epoch.fold);
        let wire = Wire {
            position: self.position.get(),
            mark: self.mark.oldest_open().0,
            end: self.end.get(),
            counted_ms: self.counted_ms,
            event_ms: self.event_ms,
            cells: self.cells,
            epochs: self.epochs.iter().map(epoch).collect(),
        };
        serde_json::to_string(&wire).expect("numbers can be written")
    }

    pub(crate) fn from_json(text: &[u8]) -> Result<Self, String> {
        let wire: Wire = serde_json::from_slice(text).map_err(|error| format!("its head: {error}"))?;
        let epoch = |(events, duplicates, dead_letters, fold): (u64, u64, u64, u64)| OpenEpoch {
            tally: Tally { events, duplicates, dead_letters, holes: 0 },
            fold,
        };
        Ok(Self {
            position: NextOffset::new(wire.position),
            mark: Mark::at(Epoch(wire.mark)),
            end: NextOffset::new(wire.end),
            counted_ms: wire.counted_ms,
            event_ms: wire.event_ms,
            cells: wire.cells,
            epochs: wire.epochs.into_iter().map(epoch).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_head_is_read_as_it_was_written() {
        let tally = Tally { events: 5, duplicates: 2, dead_letters: 1, holes: 0 };
        let head = Head {
            position: NextOffset::new(u64::MAX >> 1),
            mark: Mark::at(Epoch(7)),
            end: NextOffset::new(9),
            counted_ms: Some(-1),
            event_ms: Some(5),
            cells: 3,
            epochs: vec![OpenEpoch { tally, fold: u64::MAX }, OpenEpoch::default()],
        };
        assert_eq!(Head::from_json(head.to_json().as_bytes()).as_ref(), Ok(&head));
        assert_eq!(head.open(), (Epoch(7), Epoch(8)));
        assert!(Head::from_json(b"{}").is_err());
    }
}
