//! Partitions that stand still though their log goes on: a producer has opened a transaction and does not end it. Kafka shows no
//! record behind the first one of an open transaction, so nothing of the partition can be counted until it ends.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use tidemark_core::offset::{NextOffset, Partition};

/// A partition that has not moved for so long is looked into. Transactions are short: of Kafka Streams, 100 ms.
const STILL_AFTER: Duration = Duration::from_secs(5);

/// Since when each partition has been where it is.
#[derive(Debug, Default)]
pub(crate) struct Standstills(BTreeMap<Partition, Still>);

#[derive(Debug)]
struct Still {
    at: NextOffset,
    looked: Instant,
    /// Nothing can be read from there on, as was found.
    is_open: bool,
}

impl Standstills {
    /// Takes in where a partition is. `look` says up to where it can be read; it is asked now and then of a partition that does not
    /// move, though its log goes on.
    pub(crate) fn note(&mut self, partition: Partition, at: NextOffset, end: NextOffset, look: impl FnOnce() -> Option<NextOffset>) {
        let now = Instant::now();
        let still = self.0.entry(partition).or_insert(Still { at, looked: now, is_open: false });
        if still.at != at || end <= at {
            *still = Still { at, looked: now, is_open: false };
        } else if now.duration_since(still.looked) >= STILL_AFTER {
            still.looked = now;
            still.is_open = look() == Some(at);
        }
    }

    pub(crate) fn gone(&mut self, partitions: &[Partition]) {
        self.0.retain(|partition, _| !partitions.contains(partition));
    }

    /// What to tell people.
    pub(crate) fn trouble(&self) -> Option<String> {
        let (partition, still) = self.0.iter().find(|(_, still)| still.is_open)?;
        let offset = still.at;
        Some(format!(
            "partition {partition} stands at offset {offset}: a producer's transaction is open there, and Kafka shows nothing behind it \
             until it is committed or aborted (by itself after the producer's transaction.timeout.ms; kafka-transactions.sh find-hanging names it)"
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: Partition = Partition(3);

    #[test]
    fn a_partition_that_moves_or_is_at_its_end_is_not_looked_into() {
        let mut stills = Standstills::default();
        let at = NextOffset::new;
        let note = |stills: &mut Standstills, position, end| stills.note(P, at(position), at(end), || Some(at(position)));
        let wait = |stills: &mut Standstills| stills.0.get_mut(&P).expect("it is known").looked -= STILL_AFTER;
        note(&mut stills, 5, 9);
        note(&mut stills, 5, 9);
        assert_eq!(stills.trouble(), None, "not for long");
        wait(&mut stills);
        note(&mut stills, 5, 9);
        assert!(stills.trouble().is_some_and(|text| text.contains("partition 3 stands at offset 5")), "{:?}", stills.trouble());
        note(&mut stills, 6, 9);
        assert_eq!(stills.trouble(), None, "it moves");
        wait(&mut stills);
        stills.note(P, at(6), at(9), || Some(at(9)));
        assert_eq!(stills.trouble(), None, "it can be read, and is only slow");
        note(&mut stills, 9, 9);
        wait(&mut stills);
        note(&mut stills, 9, 9);
        assert_eq!(stills.trouble(), None, "there is nothing more");
    }
}
