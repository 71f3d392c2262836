//! Where an epoch's history is other than what was counted.

use std::fmt;
use tidemark_core::cell::Tally;
use tidemark_core::view::ViewId;
use tidemark_core::window::Level;
use tidemark_history::rows::{Found, PartKey, RowCount};

/// Where history and the speed layer first differ.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Difference {
    /// Raw rows: (found, expected).
    Events {
        found: RowCount,
        expected: RowCount,
    },
    DeadLetters {
        found: u64,
        expected: u64,
    },
    /// Cells of a roll-up: how many are missing, more, or other.
    Cells {
        view: ViewId,
        level: Level,
        differing: usize,
    },
    /// Cells of a view, as raw rows come to them: rows were altered after they were written.
    RawCells {
        view: ViewId,
        differing: usize,
    },
}

impl fmt::Display for Difference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Events { found, expected } if found.rows == expected.rows => {
                write!(f, "history has {} events, and others than were counted", found.rows)
            }
            Self::Events { found, expected } => write!(f, "history has {} events where {} were counted", found.rows, expected.rows),
            Self::DeadLetters { found, expected } => write!(f, "history has {found} dead letters where there were {expected}"),
            Self::Cells { view, level, differing } => {
                write!(f, "{differing} cells of view {}, by {}, are others in history", view.0 + 1, level.suffix())
            }
            Self::RawCells { view, differing } => {
                write!(f, "raw events come to {differing} other cells of view {} than were counted", view.0 + 1)
            }
        }
    }
}

/// Compares raw rows with what was counted; `None` if they are of the same offsets.
pub(crate) fn compare_raw(found: &Found, tally: Tally, fold: u64) -> Option<Difference> {
    let mut events = RowCount::default();
    found.iter().filter(|(part, _)| matches!(part, PartKey::Events(_))).for_each(|(_, count)| events.merge(*count));
    let expected = RowCount { rows: tally.events, fold };
    if events != expected {
        return Some(Difference::Events { found: events, expected });
    }
    let dead = found.get(&PartKey::DeadLetters).map_or(0, |count| count.rows);
    let expected = tally.duplicates + tally.dead_letters;
    (dead != expected).then_some(Difference::DeadLetters { found: dead, expected })
}
