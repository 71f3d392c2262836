//! Closed epochs looked at again, and what that has found.
//!
//! A closed epoch never changes, so whatever differs later is damage: deleted rows, a backup of one table put back, a
//! faulty disk. When an epoch is closed, a hash of its raw rows is noted (`audits`). An audit compares the ledger, that hash, the
//! raw rows, and each roll-up with what the raw rows come to.
//!
//! Found damage is recorded before anything else is done about it. Every server knows of it within [`HEARD_FOR_MS`]: roll-ups of
//! such an epoch are not read, its raw rows answer if they are sound, and otherwise what may hold its events is refused.

use std::collections::BTreeMap;
use tidemark_core::cell::Tally;
use tidemark_core::epoch::{Epoch, EpochBits};
use tidemark_core::offset::Partition;
use tidemark_core::view::ViewId;
use tidemark_core::window::{Level, TimeRange};

/// No answer rests on knowledge of damage that is older. Who writes a damaged epoch again waits longer first.
pub const HEARD_FOR_MS: i64 = 3_000;

/// How many rows, the sum of their offsets' hashes, and the sum of hashes of all that they say.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Sums {
    pub events: u64,
    pub fold: u64,
    pub hash: u64,
}

/// A roll-up of an epoch: as its table has it, and as raw rows have it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RollupSums {
    pub view: ViewId,
    pub level: Level,
    pub held: Sums,
    pub counted: Sums,
}

/// What there is of a closed epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct EpochSums {
    pub epoch: Epoch,
    /// The ledger's; of two rows about an epoch the later one counts. `None` where it has none.
    pub closed: Option<(Tally, u64)>,
    /// What the raw rows came to when it was closed: `Sums::hash` of events and dead letters. `None` of an epoch that was closed
    /// before that was noted.
    pub noted: Option<u64>,
    /// Events, and in `hash` dead letters too.
    pub raw: Sums,
    pub dead_letters: u64,
    pub rollups: Vec<RollupSums>,
}

/// What is wrong with a closed epoch, in words.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Finding {
    pub part: Part,
    pub what: String,
}

/// Which part of a closed epoch is damaged. The first one that is, for what follows is judged by it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Part {
    /// Raw rows are not those that were agreed on; roll-ups may be damaged too.
    Raw,
    /// Raw rows are those that were noted, and the ledger has other figures, or none.
    Ledger,
    /// Raw rows are sound, roll-ups are not.
    Rollups,
}

impl EpochSums {
    /// Compares everything with everything; `None` if all agree. `name` tells people which roll-up is meant.
    pub fn finding(&self, name: impl Fn(ViewId, Level) -> String) -> Option<Finding> {
        let of = |part, what| Some(Finding { part, what });
        let is_noted = self.noted.is_some_and(|noted| noted == self.raw.hash);
        let Some((tally, fold)) = self.closed else { return of(Part::Ledger, "the ledger has no row of it".into()) };
        if self.noted.is_some() && !is_noted {
            return of(
                Part::Raw,
                self.raw_differs(tally, fold).unwrap_or_else(|| "raw rows say something else than when it was closed".into()),
            );
        }
        if let Some(what) = self.raw_differs(tally, fold) {
            return of(if is_noted { Part::Ledger } else { Part::Raw }, what);
        }
        let differing = self.rollups.iter().find(|rollup| rollup.held != rollup.counted)?;
        let RollupSums { view, level, held, counted } = differing;
        of(
            Part::Rollups,
            if held.events == counted.events {
                format!("{} has the right number of events, in other cells or with other values", name(*view, *level))
            } else {
                format!("{} has {} events, raw rows have {}", name(*view, *level), held.events, counted.events)
            },
        )
    }

    fn raw_differs(&self, tally: Tally, fold: u64) -> Option<String> {
        let dead = tally.duplicates + tally.dead_letters;
        Some(if self.raw.events != tally.events {
            format!("there are {} raw events, the ledger has {}", self.raw.events, tally.events)
        } else if self.raw.fold != fold {
            format!("there are {} raw events as the ledger has it, but of other offsets", self.raw.events)
        } else if self.dead_letters != dead {
            format!("there are {} dead letters and duplicates, the ledger has {dead}", self.dead_letters)
        } else {
            return None;
        })
    }
}

/// What is recorded about an epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Entry {
    /// It is damaged from here on.
    Damaged(Finding),
    /// It is as it was when it was closed.
    Repaired(String),
    /// An operator has accepted that rows are lost: what is left counts.
    LossAccepted(String),
}

impl Entry {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Damaged(_) => "damaged",
            Self::Repaired(_) => "repaired",
            Self::LossAccepted(_) => "loss accepted",
        }
    }

    pub fn what(&self) -> &str {
        match self {
            Self::Damaged(finding) => &finding.what,
            Self::Repaired(what) | Self::LossAccepted(what) => what,
        }
    }
}

/// Something that has happened to history below the mark.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Change {
    pub partition: Partition,
    pub epoch: Epoch,
    pub entry: Entry,
    pub at_ms: i64,
    /// Of a repair: what was recorded up to then is over. What was found meanwhile is not.
    pub covers_ms: i64,
}

/// An epoch that is damaged now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Damaged {
    pub partition: Partition,
    pub epoch: Epoch,
    /// The worst that has been found and is not repaired.
    pub finding: Finding,
    /// When the last of that was recorded.
    pub at_ms: i64,
    /// Windows of its events; unbounded where that is not known.
    pub windows: TimeRange,
}

/// All that audits have found so far.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Damage {
    /// Oldest first. How many there are is history's revision.
    pub changes: Vec<Change>,
    pub damaged: Vec<Damaged>,
}

/// What has been recorded about an epoch: up to when that is over, and each finding with its time.
#[derive(Default)]
struct Recorded<'a> {
    covered_ms: i64,
    found: Vec<(i64, &'a Finding)>,
}

impl Damage {
    /// Of these changes; `windows` says where the events of an epoch are.
    pub fn new(changes: Vec<Change>, windows: impl Fn(Partition, Epoch) -> TimeRange) -> Self {
        let mut epochs: BTreeMap<(Partition, Epoch), Recorded<'_>> = BTreeMap::new();
        for Change { partition, epoch, entry, at_ms, covers_ms } in &changes {
            let recorded = epochs.entry((*partition, *epoch)).or_default();
            match entry {
                Entry::Damaged(finding) => recorded.found.push((*at_ms, finding)),
                Entry::Repaired(_) | Entry::LossAccepted(_) => recorded.covered_ms = recorded.covered_ms.max(*covers_ms),
            }
        }
        let damaged = |((partition, epoch), Recorded { covered_ms, mut found })| {
            found.retain(|(at_ms, _)| *at_ms > covered_ms);
            let at_ms = found.iter().map(|(at_ms, _)| *at_ms).max()?;
            // Findings may be recorded late, in another order: the worst one counts.
            let (_, finding) = found.into_iter().max_by_key(|(at_ms, finding)| (finding.part == Part::Raw, *at_ms))?;
            Some(Damaged { partition, epoch, finding: finding.clone(), at_ms, windows: windows(partition, epoch) })
        };
        let damaged = epochs.into_iter().filter_map(damaged).collect();
        Self { changes, damaged }
    }

    /// Grows with everything that may have changed an answer below the mark.
    pub fn revision(&self) -> u64 {
        self.changes.len() as u64
    }

    /// What has happened since a revision.
    pub fn since(&self, revision: u64) -> &[Change] {
        let from = usize::try_from(revision).unwrap_or(usize::MAX).min(self.changes.len());
        &self.changes[from..]
    }

    /// When something was last recorded about an epoch.
    pub fn last_ms(&self, partition: Partition, epoch: Epoch) -> Option<i64> {
        self.changes.iter().filter(|change| (change.partition, change.epoch) == (partition, epoch)).map(|change| change.at_ms).max()
    }

    pub fn of(&self, partition: Partition, epoch: Epoch) -> Option<&Damaged> {
        self.damaged.iter().find(|of| of.partition == partition && of.epoch == epoch)
    }

    /// Refuses a question of a range of time to these epochs, if it can be told neither from roll-ups nor from raw rows.
    pub fn must_be_sound(&self, range: TimeRange, is_asked: impl Fn(&Damaged) -> bool) -> Result<(), crate::Error> {
        let unsound = self.within(range).find(|of| !of.is_raw_sound() && is_asked(of));
        unsound.map_or(Ok(()), |of| Err(of.refuse()))
    }

    /// Damaged epochs that may have events of a range of time.
    fn within(&self, range: TimeRange) -> impl Iterator<Item = &Damaged> {
        let overlaps = move |of: &&Damaged| {
            let begins_before = |from: Option<i64>, to: Option<i64>| from.zip(to).is_none_or(|(from, to)| from < to);
            begins_before(of.windows.from_ms, range.to_ms) && begins_before(range.from_ms, of.windows.to_ms)
        };
        self.damaged.iter().filter(overlaps)
    }
}

impl Damaged {
    pub fn is_raw_sound(&self) -> bool {
        self.finding.part != Part::Raw
    }

    /// Refuses what would have to be read from rows that are not sound.
    pub fn refuse(&self) -> crate::Error {
        crate::Error::Damaged { partition: self.partition, epoch: self.epoch, what: self.finding.what.clone() }
    }

    /// Some of it is below the position of a cut.
    pub fn begins_below(&self, bits: EpochBits, cut: &tidemark_core::cut::Cut) -> bool {
        bits.start_of(self.epoch) < cut.get(self.partition)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: Partition = Partition(0);

    fn sound() -> EpochSums {
        let sums = Sums { events: 3, fold: 7, hash: 11 };
        EpochSums {
            epoch: Epoch(1),
            closed: Some((Tally { events: 3, duplicates: 0, dead_letters: 1, holes: 0 }, 7)),
            noted: Some(99),
            raw: Sums { hash: 99, ..sums },
            dead_letters: 1,
            rollups: vec![RollupSums { view: ViewId(0), level: Level::Hour, held: sums, counted: sums }],
        }
    }

    fn finding(of: &EpochSums) -> Option<Part> {
        of.finding(|_, _| "by_type_1h".into()).map(|finding| finding.part)
    }

    #[test]
    fn what_differs_is_found_and_what_is_sound_is_kept_apart() {
        assert_eq!(finding(&sound()), None);
        let altered = |alter: fn(&mut EpochSums)| {
            let mut of = sound();
            alter(&mut of);
            finding(&of)
        };
        assert_eq!(altered(|of| of.raw.hash = 98), Some(Part::Raw), "a value was altered");
        assert_eq!(altered(|of| of.raw = Sums { events: 2, fold: 5, hash: 90 }), Some(Part::Raw), "a row is gone");
        assert_eq!(altered(|of| of.closed = Some((Tally { events: 4, ..Tally::default() }, 7))), Some(Part::Ledger));
        assert_eq!(altered(|of| of.closed = None), Some(Part::Ledger));
        assert_eq!(altered(|of| of.rollups[0].held.hash = 12), Some(Part::Rollups));
        assert_eq!(altered(|of| of.rollups[0].held.events = 12), Some(Part::Rollups));
        // Nothing was noted: the ledger is the truth.
        let old = |events| EpochSums { noted: None, raw: Sums { events, ..sound().raw }, ..sound() };
        assert_eq!(finding(&old(3)), None);
        assert_eq!(finding(&old(2)), Some(Part::Raw));
    }

    #[test]
    fn damage_lasts_until_it_is_repaired_and_each_change_is_a_revision() {
        let finding = Finding { part: Part::Raw, what: "gone".into() };
        let change = |epoch, entry, at_ms, covers_ms| Change { partition: P, epoch: Epoch(epoch), entry, at_ms, covers_ms };
        let windows = |_, epoch: Epoch| TimeRange { from_ms: Some(i64::try_from(epoch.0).expect("small") * 10), to_ms: Some(1_000) };
        let mut changes = vec![change(1, Entry::Damaged(finding.clone()), 5, 0), change(2, Entry::Damaged(finding.clone()), 6, 0)];
        let damage = Damage::new(changes.clone(), windows);
        assert_eq!((damage.revision(), damage.damaged.len()), (2, 2));
        let before = TimeRange { from_ms: None, to_ms: Some(20) };
        assert_eq!(damage.within(before).map(|of| of.epoch).collect::<Vec<_>>(), [Epoch(1)], "only one has events before 20");
        changes.push(change(1, Entry::Repaired("from the topic".into()), 9, 5));
        let damage = Damage::new(changes, windows);
        assert_eq!((damage.revision(), damage.since(2).len()), (3, 1));
        assert_eq!((damage.of(P, Epoch(1)), damage.of(P, Epoch(2)).map(|of| of.epoch)), (None, Some(Epoch(2))));
        // What is found while a repair ends is not what it has repaired.
        let mut changes = damage.changes;
        changes.push(change(2, Entry::Damaged(finding), 12, 0));
        changes.push(change(2, Entry::Repaired("from the topic".into()), 13, 6));
        assert_eq!(Damage::new(changes, windows).of(P, Epoch(2)).map(|of| of.at_ms), Some(12));
    }
}
