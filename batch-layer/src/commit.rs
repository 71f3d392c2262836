//! How a block gets into history exactly once, whatever crashes, retries or stalls (invariant I4).
//!
//! 1. The group's position is committed at the block's start with an [`Intent`] as its metadata.
//! 2. The attempt's rows are inserted under a token made of the block and the attempt's number.
//! 3. The group's position is committed at the block's end.
//!
//! **An attempt is the same rows under the same token, whoever sends it.** After anything but a clean acknowledgement
//! its outcome is unknown, and so is that of an intent that a new owner finds: the same attempt is sent again until it
//! is acknowledged, so that one still in flight cannot land twice and roll-ups that lag are healed. Then the range is
//! read back, for a token can outlive its rows; parts that are missing become the next attempt, recorded before it is
//! sent. Looking first, or taking a new token first, is wrong: `docs/simulator.md` has the mutations that show it.

use std::collections::BTreeSet;
use std::fmt;
use std::future::Future;
use std::str::FromStr;
use tidemark_core::generation::Generation;
use tidemark_core::offset::{NextOffset, Partition};
use tidemark_history::History;
use tidemark_history::block::Block;
use tidemark_history::rows::PartKey;
use tidemark_topic::Committed;

/// What an owner is about to insert, from the committed position on: all that a successor needs to finish it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Intent {
    pub to: NextOffset,
    pub attempt: u32,
    pub parts: BTreeSet<PartKey>,
}

impl fmt::Display for Intent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = self.parts.iter().map(PartKey::to_string).collect();
        write!(f, "intent to={} attempt={} parts={}", self.to, self.attempt, parts.join("+"))
    }
}

/// Metadata that is neither empty nor an intent.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the group's committed metadata `{0}` is not tidemark's; another program may use the same group id")]
pub struct IntentError(pub String);

impl FromStr for Intent {
    type Err = IntentError;

    fn from_str(text: &str) -> Result<Self, IntentError> {
        let parse = || {
            let mut words = text.strip_prefix("intent ")?.split(' ');
            let to = words.next()?.strip_prefix("to=")?.parse().ok()?;
            let attempt = words.next()?.strip_prefix("attempt=")?.parse().ok()?;
            let parts = words.next()?.strip_prefix("parts=")?;
            let parts = parts.split('+').filter(|part| !part.is_empty()).map(str::parse).collect::<Result<_, _>>().ok()?;
            Some(Self { to: NextOffset::new(to), attempt, parts })
        };
        parse().ok_or_else(|| IntentError(text.to_owned()))
    }
}

/// What the group keeps with a partition's position.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Note {
    /// What an owner is about to insert; `None`: nothing is under way.
    pub intent: Option<Intent>,
    /// The group's position was lost, and up to here blocks may have been sent before without an intent being left. It stands until the
    /// position has passed it, also if the partition gets another owner.
    pub doubtful_below: NextOffset,
}

impl Note {
    /// As it is committed with a position.
    pub fn at(self, next: NextOffset) -> Committed {
        let doubt = (self.doubtful_below > next).then(|| format!("doubt={}", self.doubtful_below));
        let words = [self.intent.map(|intent| intent.to_string()), doubt];
        Committed { next, metadata: words.into_iter().flatten().collect::<Vec<String>>().join(" ") }
    }

    pub fn of(committed: &Committed) -> Result<Self, IntentError> {
        let text = committed.metadata.as_str();
        let (intent, doubt) = text.rsplit_once("doubt=").unwrap_or((text, "0"));
        let parse = || {
            let intent = intent.trim_end();
            let intent = if intent.is_empty() { None } else { Some(intent.parse().ok()?) };
            Some(Self { intent, doubtful_below: NextOffset::new(doubt.parse().ok()?) })
        };
        parse().ok_or_else(|| IntentError(text.to_owned()))
    }
}

/// This owner has lost the partition; its successor goes on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{0}")]
pub struct Fenced(pub String);

/// The outside of the protocol, but for history.
pub trait Desk {
    /// Commits, fenced by the group's generation; tries again until the broker has answered.
    fn commit(&mut self, partition: Partition, committed: &Committed) -> impl Future<Output = Result<(), Fenced>>;

    /// Waits before another try, longer with every failure in a row, and tells people why.
    fn failed(&mut self, failures: u32, error: &tidemark_history::Error) -> impl Future<Output = Result<(), Fenced>>;
}

/// Brings one block into history. `found` is the intent under which a former owner may have sent it already; for `doubtful_below`
/// see [`Note`].
pub async fn commit_block(
    desk: &mut impl Desk,
    history: &dyn History,
    generation: Generation,
    block: &Block,
    found: Option<Intent>,
    doubtful_below: NextOffset,
) -> Result<(), Fenced> {
    let from = block.range.from();
    let is_new = found.is_none();
    let mut unknown = !is_new || from < doubtful_below;
    let intending = |intent: &Intent| Note { intent: Some(intent.clone()), doubtful_below }.at(from);
    let mut attempt = match found {
        Some(intent) => intent,
        None => Intent { to: block.range.to(), attempt: 0, parts: block.part_keys() },
    };
    if is_new && !attempt.parts.is_empty() {
        desk.commit(block.partition, &intending(&attempt)).await?;
    }
    let mut failures = 0;
    while !attempt.parts.is_empty() {
        if let Err(error) = insert(history, generation, block, &attempt).await {
            unknown = true;
            failures += 1;
            desk.failed(failures, &error).await?;
            continue;
        }
        if !unknown {
            break;
        }
        let missing = match history.found(block.partition, block.range).await {
            Ok(found) => block.missing_from(&found),
            Err(error) => {
                failures += 1;
                desk.failed(failures, &error).await?;
                continue;
            }
        };
        if missing.is_empty() {
            break;
        }
        attempt = Intent { to: attempt.to, attempt: attempt.attempt + 1, parts: missing };
        desk.commit(block.partition, &intending(&attempt)).await?;
    }
    desk.commit(block.partition, &Note { intent: None, doubtful_below }.at(block.range.to())).await
}

async fn insert(history: &dyn History, generation: Generation, block: &Block, attempt: &Intent) -> Result<(), tidemark_history::Error> {
    for rows in block.inserts(&attempt.parts) {
        let token = format!("g{generation}/{}/{}-{}/{}", block.partition, block.range.from(), block.range.to(), attempt.attempt);
        history.insert(&rows, &token).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_history::rows::Month;

    #[test]
    fn an_intent_is_written_as_it_is_read() {
        for parts in [
            vec![],
            vec![PartKey::DeadLetters],
            vec![PartKey::Events(Month(201_301)), PartKey::Events(Month(201_302)), PartKey::DeadLetters],
        ] {
            let intent = Intent { to: NextOffset::new(77), attempt: 3, parts: parts.into_iter().collect() };
            assert_eq!(intent.to_string().parse(), Ok(intent));
        }
        for text in ["intent", "intent to=x attempt=0 parts=", "somebody else's"] {
            assert_eq!(text.parse::<Intent>(), Err(IntentError(text.to_owned())));
        }
    }

    #[test]
    fn a_doubt_stands_until_the_position_has_passed_it() {
        let intent = Intent { to: NextOffset::new(9), attempt: 0, parts: BTreeSet::from([PartKey::DeadLetters]) };
        for (intent, doubt, next, text) in [
            (None, 0, 5, ""),
            (None, 12, 5, "doubt=12"),
            (Some(intent.clone()), 0, 5, "intent to=9 attempt=0 parts=dead"),
            (Some(intent), 12, 5, "intent to=9 attempt=0 parts=dead doubt=12"),
        ] {
            let note = Note { intent, doubtful_below: NextOffset::new(doubt) };
            let committed = note.clone().at(NextOffset::new(next));
            assert_eq!((committed.metadata.as_str(), Note::of(&committed)), (text, Ok(note)));
        }
        assert_eq!(Note { intent: None, doubtful_below: NextOffset::new(12) }.at(NextOffset::new(12)).metadata, "");
        for text in ["doubt=", "doubt=x", "somebody else's doubt=3"] {
            assert!(Note::of(&Committed { next: NextOffset::ZERO, metadata: text.to_owned() }).is_err(), "{text}");
        }
    }
}
