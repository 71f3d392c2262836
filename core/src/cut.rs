//! Cuts: one position per partition. An answer names the cut it is exact at; a producer gets one back from ingest.

use crate::offset::{NextOffset, Partition};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// For each partition the first offset that is not included. A partition that is absent is at the beginning.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Cut(BTreeMap<Partition, NextOffset>);

/// A position's text that is not `partition:offset[,partition:offset…]`.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not a position; write partition:next-offset pairs such as 0:1234,3:99")]
pub struct CutParseError(pub String);

impl Cut {
    pub fn get(&self, partition: Partition) -> NextOffset {
        self.0.get(&partition).copied().unwrap_or_default()
    }

    pub fn set(&mut self, partition: Partition, position: NextOffset) {
        self.0.insert(partition, position);
    }

    /// Raises the partition's position to `position`, never lowers it.
    pub fn raise(&mut self, partition: Partition, position: NextOffset) {
        let at = self.0.entry(partition).or_default();
        *at = (*at).max(position);
    }

    /// True if every position of `wanted` has been reached here.
    pub fn reaches(&self, wanted: &Self) -> bool {
        wanted.0.iter().all(|(&p, &at)| self.get(p) >= at)
    }

    pub fn iter(&self) -> impl ExactSizeIterator<Item = (Partition, NextOffset)> + '_ {
        self.0.iter().map(|(&p, &o)| (p, o))
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl FromIterator<(Partition, NextOffset)> for Cut {
    fn from_iter<I: IntoIterator<Item = (Partition, NextOffset)>>(positions: I) -> Self {
        Self(positions.into_iter().collect())
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (partition, next)) in self.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            write!(f, "{comma}{partition}:{next}")?;
        }
        Ok(())
    }
}

impl FromStr for Cut {
    type Err = CutParseError;

    fn from_str(text: &str) -> Result<Self, CutParseError> {
        let number = |s: &str| s.bytes().all(|b| b.is_ascii_digit()).then(|| s.parse::<u64>().ok()).flatten();
        let pair = |part: &str| {
            let (partition, offset) = part.split_once(':')?;
            let partition = u32::try_from(number(partition)?).ok()?;
            Some((Partition(partition), NextOffset::new(number(offset)?)))
        };
        let mut cut = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (partition, next) = pair(part).ok_or_else(|| CutParseError(text.to_owned()))?;
            cut.raise(partition, next);
        }
        Ok(cut)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_is_written_as_it_is_read() {
        for text in ["", "0:1234,3:99", "0:0"] {
            assert_eq!(text.parse::<Cut>().expect("well formed").to_string(), text);
        }
        for text in ["0", "0:", ":3", "a:1", "0:1;1:2", "0:-1", "0:+1", "4294967296:1"] {
            assert_eq!(text.parse::<Cut>(), Err(CutParseError(text.to_owned())));
        }
    }
}
