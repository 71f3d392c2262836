//! Who waits for which answer. Pure.

use crate::{Position, SendError};
use std::collections::BTreeMap;
use std::ops::Range;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// What became of a record.
pub(super) type Answer = Result<Position, SendError>;

/// A batch's answers in the order of its records; `None` where none came.
pub(super) type Answers = Vec<Option<Answer>>;

/// The batches that wait for answers. Each record has a ticket, a number that is not given twice, by which it is
/// answered; a batch has consecutive ones.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// By the first ticket of each. A batch goes when its last answer is in.
    batches: BTreeMap<usize, Batch>,
    next: usize,
}

#[derive(Debug)]
struct Batch {
    answers: Answers,
    missing: usize,
    sender: oneshot::Sender<Answers>,
    /// Freed when the last answer is in.
    _room: OwnedSemaphorePermit,
}

impl Waiting {
    /// Gives out the tickets of a batch of at least one record. The answers come together, when none is missing.
    pub(super) fn begin(&mut self, records: usize, room: OwnedSemaphorePermit) -> (Range<usize>, oneshot::Receiver<Answers>) {
        let (sender, answered) = oneshot::channel();
        let batch = Batch { answers: vec![None; records], missing: records, sender, _room: room };
        let tickets = self.next..self.next + records;
        self.batches.insert(tickets.start, batch);
        self.next = tickets.end;
        (tickets, answered)
    }

    /// Answers a record, once.
    pub(super) fn answer(&mut self, ticket: usize, answer: Answer) {
        self.settle(ticket, 1, |batch, index| batch.answers[index] = Some(answer));
    }

    /// Nobody will answer these, which are of one batch.
    pub(super) fn abandon(&mut self, tickets: Range<usize>) {
        self.settle(tickets.start, tickets.len(), |_, _| {});
    }

    fn settle(&mut self, ticket: usize, count: usize, note: impl FnOnce(&mut Batch, usize)) {
        let Some((&first, batch)) = self.batches.range_mut(..=ticket).next_back() else { return };
        note(batch, ticket - first);
        batch.missing -= count;
        if batch.missing == 0
            && let Some(batch) = self.batches.remove(&first)
        {
            // Nobody is waiting if the sender's future was dropped.
            batch.sender.send(batch.answers).ok();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Offset, Partition};
    use std::sync::Arc;
    use tokio::sync::Semaphore;

    fn at(offset: u64) -> Answer {
        Ok(Position { partition: Partition(0), offset: Offset::new(offset) })
    }

    fn begin(waiting: &mut Waiting, budget: &Arc<Semaphore>, records: usize) -> (Range<usize>, oneshot::Receiver<Answers>) {
        let room = Arc::clone(budget).try_acquire_many_owned(u32::try_from(records).unwrap()).unwrap();
        waiting.begin(records, room)
    }

    #[test]
    fn answers_in_any_order_reach_their_own_batch_when_its_last_one_is_in() {
        let (mut waiting, budget) = (Waiting::default(), Arc::new(Semaphore::new(5)));
        let (first, mut first_answered) = begin(&mut waiting, &budget, 2);
        let (second, mut second_answered) = begin(&mut waiting, &budget, 3);
        assert_eq!((first, second), (0..2, 2..5));
        for ticket in [4, 0, 2] {
            waiting.answer(ticket, at(10 * u64::try_from(ticket).unwrap()));
        }
        assert!(first_answered.try_recv().is_err() && second_answered.try_recv().is_err());
        assert_eq!(budget.available_permits(), 0);
        waiting.answer(3, Err(SendError::Unavailable { reason: String::new() }));
        let unavailable = Err(SendError::Unavailable { reason: String::new() });
        assert_eq!(second_answered.try_recv().unwrap(), [Some(at(20)), Some(unavailable), Some(at(40))]);
        assert_eq!(budget.available_permits(), 3);
        waiting.answer(1, at(7));
        assert_eq!(first_answered.try_recv().unwrap(), [Some(at(0)), Some(at(7))]);
        assert!(waiting.batches.is_empty());
    }

    #[test]
    fn what_was_not_handed_over_is_not_waited_for() {
        let (mut waiting, budget) = (Waiting::default(), Arc::new(Semaphore::new(4)));
        let (tickets, answered) = begin(&mut waiting, &budget, 3);
        let (other, _) = begin(&mut waiting, &budget, 1);
        drop(answered);
        waiting.abandon(tickets.start + 1..tickets.end);
        assert_eq!(budget.available_permits(), 0, "one is under way");
        waiting.answer(tickets.start, at(0));
        assert_eq!(budget.available_permits(), 3);
        waiting.abandon(other);
        assert!(waiting.batches.is_empty());
        assert_eq!(budget.available_permits(), 4);
    }
}
