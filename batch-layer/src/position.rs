//! Where writing goes on when a partition has been assigned: at the group's committed position, unless history knows better.
//!
//! The group's position can be lost: Kafka forgets it after `offsets.retention.minutes` without members, an operator deletes
//! the group or sets it back. Below the mark nothing may be written again, for two computations have agreed on what is there.
//! Above it, rows that were written from a position that is lost are deleted before they are written again, each epoch under an
//! announced repair: it keeps raw answers below the epoch and others from closing it meanwhile.

use tidemark_core::cell::Tally;
use tidemark_core::epoch::{Epoch, Mark};
use tidemark_core::generation::Rules;
use tidemark_core::offset::{NextOffset, OffsetRange, Partition};
use tidemark_history::ledger::{Clock, Entry, EpochState, LedgerRow, announce_repair, look};
use tidemark_history::{Error, History, Wiped};
use tidemark_topic::{Committed, Extent};

/// Timeout of deleting an epoch. Other processes leave the epoch alone for as long.
const DELETE_SECS: u32 = 20;

/// Why writing cannot go on.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum PositionError {
    #[error(
        "partition {partition}: the topic begins at {to}, but history has only been written up to {from}: retention has removed records that were never counted. \
         Give the topic a longer retention; to go on without them, start a new history (another data directory, or another clickhouse.database and kafka.group)"
    )]
    Gone { partition: Partition, from: NextOffset, to: NextOffset },
    #[error(
        "partition {partition}: the consumer group has lost its position, and the topic begins at {to}, above {from}, up to where history is closed. \
         What history has in between may be all that is left of it, so it is not deleted. Restore the group's position \
         (kafka-consumer-groups --reset-offsets), or restore a later backup of history"
    )]
    LostAndGone { partition: Partition, from: NextOffset, to: NextOffset },
    #[error(
        "partition {partition}: history has been written up to {position}, but the topic ends at {end}: records are gone that were counted (an unclean \
         leader election, or a topic restored from an older copy). Stop every tidemark of this deployment and run `tidemark restore`"
    )]
    BeyondTheEnd { partition: Partition, position: NextOffset, end: NextOffset },
}

/// Where writing goes on.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Resume {
    /// At the group's position.
    At(Committed),
    /// Here, once what history has from here on has been deleted: the group has no position, or one below the mark.
    AfterDeleting(NextOffset),
}

/// Decides where writing goes on. `closed` is up to where epochs are closed, if any is.
pub fn resume(
    partition: Partition,
    committed: Option<Committed>,
    closed: Option<NextOffset>,
    extent: Extent,
) -> Result<Resume, PositionError> {
    match committed {
        Some(committed) if committed.next > extent.end => {
            Err(PositionError::BeyondTheEnd { partition, position: committed.next, end: extent.end })
        }
        Some(committed) if closed.is_none_or(|closed| committed.next >= closed) => {
            if committed.next < extent.start {
                return Err(PositionError::Gone { partition, from: committed.next, to: extent.start });
            }
            Ok(Resume::At(committed))
        }
        _ => match closed {
            Some(closed) if closed > extent.end => Err(PositionError::BeyondTheEnd { partition, position: closed, end: extent.end }),
            Some(closed) if closed < extent.start => Err(PositionError::LostAndGone { partition, from: closed, to: extent.start }),
            closed => Ok(Resume::AfterDeleting(closed.unwrap_or(extent.start))),
        },
    }
}

/// Where writing goes on, with history made ready for it. The inner error ends the layer; after the outer one the same call
/// may be made again.
pub async fn settle(
    history: &dyn History,
    rules: &Rules,
    partition: Partition,
    committed: Option<Committed>,
    extent: Extent,
    clock: &impl Clock,
) -> Result<Result<Resume, PositionError>, Error> {
    let closed = history.closed_by_any().await?.get(&partition).map(|mark| mark.position(rules.epoch_bits));
    let from = match resume(partition, committed, closed, extent) {
        Ok(Resume::AfterDeleting(from)) => from,
        settled => return Ok(settled),
    };
    // What history has of records that the topic no longer has may be all that is left of them.
    if closed.is_none()
        && let Some(before) = OffsetRange::new(NextOffset::ZERO, from)
        && !history.found(partition, before).await?.is_empty()
    {
        return Ok(Err(PositionError::LostAndGone { partition, from: NextOffset::ZERO, to: from }));
    }
    let from = delete_from(history, rules, partition, from, extent.end, clock).await?;
    Ok(Ok(Resume::AfterDeleting(from)))
}

/// Deletes what history has of a partition, from the epoch of `from` up to that of `end`. Gives back where that was: an
/// epoch that has been closed meanwhile stays.
async fn delete_from(
    history: &dyn History,
    rules: &Rules,
    partition: Partition,
    mut from: NextOffset,
    end: NextOffset,
    clock: &impl Clock,
) -> Result<NextOffset, Error> {
    let bits = rules.epoch_bits;
    let (mut epoch, last) = (bits.epoch_at(from), bits.epoch_at(end));
    while let Some(rest) = OffsetRange::new(bits.start_of(epoch), bits.end_of(last)) {
        if history.found(partition, rest).await?.is_empty() {
            break;
        }
        let state = delete_epoch(history, rules, partition, epoch, clock).await?;
        if let Some(until_ms) = state.busy_until_ms {
            clock.sleep_until(until_ms).await;
            continue;
        }
        epoch = epoch.next();
        if !state.closed_by.is_empty() {
            from = from.max(Mark::at(epoch).position(bits));
        }
    }
    Ok(from)
}

/// Deletes an epoch, unless it is closed or another's repair is not over; gives back what the ledger says of it.
async fn delete_epoch(
    history: &dyn History,
    rules: &Rules,
    partition: Partition,
    epoch: Epoch,
    clock: &impl Clock,
) -> Result<EpochState, Error> {
    let may_delete = |state: &EpochState| state.closed_by.is_empty() && state.busy_until_ms.is_none();
    let mut state = look(history, clock, (partition, epoch), None).await?;
    if may_delete(&state) {
        let (at_ms, generation) = (clock.now_ms(), rules.generation);
        let deadline_ms = at_ms + i64::from(DELETE_SECS) * 1000;
        let (entry, tally) = (Entry::Repair { deadline_ms }, Tally::default());
        let row = LedgerRow { generation, partition, epoch, entry, tally, fold: 0, at_ms };
        state = announce_repair(history, clock, row, deadline_ms).await?;
        if may_delete(&state) {
            let secs_left = u32::try_from((deadline_ms - clock.now_ms()).div_euclid(1000)).unwrap_or_default();
            if secs_left == 0 {
                // This process stood still until its deadline was over: another one may have closed the epoch since.
                return Ok(EpochState { busy_until_ms: Some(deadline_ms), ..state });
            }
            history.wipe(partition, epoch, Wiped::Everything, secs_left).await?;
        }
    }
    Ok(state)
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: Partition = Partition(0);

    fn at(next: u64) -> NextOffset {
        NextOffset::new(next)
    }

    fn committed(next: u64) -> Option<Committed> {
        Some(Committed { next: at(next), metadata: String::new() })
    }

    fn resumed(committed: Option<Committed>, closed: Option<u64>, start: u64, end: u64) -> Result<Resume, PositionError> {
        resume(P, committed, closed.map(at), Extent { start: at(start), end: at(end) })
    }

    #[test]
    fn a_position_at_or_above_the_mark_is_good() {
        for position in [64, 65, 100] {
            assert_eq!(resumed(committed(position), Some(64), 0, 100), Ok(Resume::At(committed(position).expect("given"))));
        }
        assert_eq!(resumed(committed(5), None, 0, 100), Ok(Resume::At(committed(5).expect("given"))));
    }

    #[test]
    fn without_a_position_or_with_one_below_the_mark_writing_goes_on_at_the_mark() {
        assert_eq!(resumed(None, Some(64), 0, 100), Ok(Resume::AfterDeleting(at(64))));
        assert_eq!(resumed(committed(63), Some(64), 0, 100), Ok(Resume::AfterDeleting(at(64))));
        assert_eq!(resumed(None, None, 7, 100), Ok(Resume::AfterDeleting(at(7))), "nothing is closed yet");
    }

    #[test]
    fn what_the_topic_does_not_have_is_refused() {
        assert!(matches!(resumed(committed(101), Some(64), 0, 100), Err(PositionError::BeyondTheEnd { .. })));
        assert!(matches!(resumed(None, Some(128), 0, 100), Err(PositionError::BeyondTheEnd { .. })));
        assert!(matches!(resumed(committed(64), Some(64), 65, 100), Err(PositionError::Gone { .. })));
        assert!(matches!(resumed(None, Some(64), 65, 100), Err(PositionError::LostAndGone { .. })));
    }
}
