//! Reads a [`MemoryLog`] as a Kafka consumer reads its topic.

use super::group::Notice;
use super::{CommitFault, Entry, MemberId, MemoryLog};
use crate::waker::Parking;
use crate::{Committed, Consumer, Error, Extent, Happened, Membership, NextOffset, Offset, Partition, Record, Share, Waker};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Records handed over by one poll at most.
const BATCH_RECORDS: usize = 4096;

#[derive(Debug)]
struct Reading {
    next: NextOffset,
    ended: Option<NextOffset>,
    paused: bool,
}

/// A record taken from the log, so that nothing is locked while it is delivered.
struct Taken {
    partition: Partition,
    offset: Offset,
    timestamp_ms: i64,
    payload: Option<Arc<[u8]>>,
}

impl Taken {
    fn record(&self) -> Record<'_> {
        Record { offset: self.offset, timestamp_ms: self.timestamp_ms, payload: self.payload.as_deref() }
    }
}

/// What one poll hands over.
#[derive(Default)]
struct Batch {
    taken: Vec<Taken>,
    ends: Vec<(Partition, NextOffset)>,
}

/// Reads a [`MemoryLog`].
#[derive(Debug)]
pub struct MemoryConsumer {
    log: MemoryLog,
    role: Role,
    parking: Arc<Parking>,
    owned: BTreeSet<Partition>,
    /// Revoked and not yet released.
    leaving: BTreeSet<Partition>,
    /// Released of a revocation that is not yet released as a whole: the group learns of all at once.
    released: Vec<Partition>,
    reading: BTreeMap<Partition, Reading>,
    pending: VecDeque<Happened<'static>>,
    /// The partition that is read first next time, so that none starves.
    turn: Partition,
    batch: usize,
}

#[derive(Debug)]
enum Role {
    Alone {
        group: Option<String>,
        share: Share,
    },
    Member {
        group: String,
        instance: Option<String>,
        member: MemberId,
    },
    /// Another member has taken this one's name.
    Fenced {
        instance: String,
    },
}

impl MemoryConsumer {
    pub(super) fn new(log: MemoryLog, membership: Membership) -> Self {
        let parking = Arc::new(Parking::default());
        let role = log.change(|cluster| {
            cluster.waiting.push(Arc::downgrade(&parking));
            match membership {
                Membership::All { group, share } => Role::Alone { group, share },
                Membership::Group { group, instance, .. } => {
                    let count = cluster.count();
                    let member = cluster.group(&group).join(instance.clone(), count);
                    Role::Member { group, instance, member }
                }
            }
        });
        Self {
            log,
            role,
            parking,
            owned: BTreeSet::new(),
            leaving: BTreeSet::new(),
            released: Vec::new(),
            reading: BTreeMap::new(),
            pending: VecDeque::new(),
            turn: Partition(0),
            batch: BATCH_RECORDS,
        }
    }

    /// Hands over at most so many records a poll: a simulation that wants a crash in between asks for few.
    #[must_use]
    pub fn with_batch(mut self, records: usize) -> Self {
        self.batch = records.max(1);
        self
    }

    /// This consumer's membership, if it is a member of a group.
    pub fn member(&self) -> Option<MemberId> {
        match &self.role {
            Role::Member { member, .. } => Some(*member),
            Role::Alone { .. } | Role::Fenced { .. } => None,
        }
    }

    /// Takes in what the group, or the topic, has decided.
    fn attend(&mut self) -> Result<(), Error> {
        let log = self.log.clone();
        let mut cluster = log.cluster.lock();
        if !cluster.reachable {
            return Ok(());
        }
        let count = cluster.count();
        match &mut self.role {
            Role::Alone { share, .. } => {
                let new: Vec<_> = share.partitions(count).filter(|&partition| self.owned.insert(partition)).collect();
                if !new.is_empty() {
                    self.pending.push_back(Happened::Assigned(new));
                }
            }
            Role::Member { group, instance, member } => {
                let state = cluster.group(group);
                if state.member(*member).is_none() {
                    // Thrown out. A name that somebody else has taken is gone for good; otherwise join again.
                    let lost: Vec<_> = std::mem::take(&mut self.owned).into_iter().collect();
                    self.leaving.clear();
                    self.released.clear();
                    self.reading.clear();
                    if !lost.is_empty() {
                        self.pending.push_back(Happened::Lost(lost));
                    }
                    match instance.take() {
                        Some(instance) if state.has_instance(&instance) => self.role = Role::Fenced { instance },
                        kept => {
                            *member = state.join(kept.clone(), count);
                            *instance = kept;
                        }
                    }
                }
            }
            Role::Fenced { .. } => {}
        }
        if let Role::Member { group, member, .. } = &self.role
            && let Some(member) = cluster.group(group).member(*member)
        {
            // Until a revocation is answered the group tells nothing else.
            while self.leaving.is_empty()
                && let Some(notice) = member.notices.pop_front()
            {
                match notice {
                    Notice::Assigned(partitions) => {
                        self.owned.extend(&partitions);
                        self.pending.push_back(Happened::Assigned(partitions));
                    }
                    Notice::Revoked(partitions) => {
                        self.leaving.extend(&partitions);
                        self.pending.push_back(Happened::Revoked(partitions));
                    }
                }
            }
        }
        match &self.role {
            Role::Fenced { instance } if self.pending.is_empty() => {
                Err(Error::Refused { reason: format!("another member has taken the name `{instance}`") })
            }
            _ => Ok(()),
        }
    }

    /// Takes at most a batch out of the log, partition by partition, and notes the ends reached.
    fn take(&mut self) -> Result<Batch, Error> {
        let Batch { mut taken, mut ends } = Batch::default();
        let cluster = self.log.cluster.lock();
        if !cluster.reachable {
            return Ok(Batch { taken, ends });
        }
        let (before, after): (Vec<_>, Vec<_>) = self.reading.keys().copied().partition(|&partition| partition < self.turn);
        for partition in after.into_iter().chain(before) {
            let (Some(log), Some(reading)) = (cluster.partition(partition), self.reading.get_mut(&partition)) else { continue };
            if reading.paused {
                continue;
            }
            if !log.extent().admits(reading.next) {
                if !taken.is_empty() {
                    break; // first what has been taken, then the error
                }
                let wanted = reading.next;
                self.reading.remove(&partition);
                return Err(Error::OutOfRange { partition, wanted, extent: log.extent() });
            }
            while taken.len() < self.batch
                && let Some(entry) = log.get(reading.next.get())
            {
                let offset = reading.next.awaited();
                reading.next = offset.next();
                if let Entry::Record { timestamp_ms, payload } = entry {
                    taken.push(Taken { partition, offset, timestamp_ms: *timestamp_ms, payload: payload.clone() });
                }
            }
            if reading.next == log.extent().end && reading.ended != Some(reading.next) {
                reading.ended = Some(reading.next);
                ends.push((partition, reading.next));
            }
            if taken.len() >= self.batch {
                self.turn = Partition(partition.0 + 1);
                self.parking.ready();
                break;
            }
        }
        Ok(Batch { taken, ends })
    }

    fn group(&self) -> Result<&str, Error> {
        match &self.role {
            Role::Alone { group: Some(group), .. } | Role::Member { group, .. } => Ok(group),
            Role::Alone { group: None, .. } => {
                Err(Error::Refused { reason: "a consumer without a group has no committed positions".to_owned() })
            }
            Role::Fenced { instance } => Err(Error::Refused { reason: format!("another member has taken the name `{instance}`") }),
        }
    }
}

impl Consumer for MemoryConsumer {
    fn poll(&mut self, max_wait: Duration, mut deliver: impl FnMut(Happened<'_>)) -> Result<usize, Error> {
        let deadline = Instant::now().checked_add(max_wait);
        loop {
            let woken = self.parking.begin();
            self.attend()?;
            let mut handed = 0;
            while let Some(event) = self.pending.pop_front() {
                deliver(event);
                handed += 1;
            }
            let Batch { taken, ends } = self.take()?;
            handed += taken.len() + ends.len();
            for run in taken.chunk_by(|one, next| one.partition == next.partition) {
                let records: Vec<Record<'_>> = run.iter().map(Taken::record).collect();
                deliver(Happened::Records { partition: run[0].partition, records: &records });
            }
            for (partition, next) in ends {
                deliver(Happened::End { partition, next });
            }
            if handed > 0 || woken || max_wait.is_zero() || !self.parking.park(deadline) {
                return Ok(handed);
            }
        }
    }

    fn start(&mut self, partition: Partition, at: NextOffset) -> Result<(), Error> {
        if !self.owned.contains(&partition) || self.leaving.contains(&partition) {
            return Err(Error::Fenced { partition, reason: "it is not assigned to this consumer".to_owned() });
        }
        let extent = self.extent(partition)?;
        if !extent.admits(at) {
            return Err(Error::OutOfRange { partition, wanted: at, extent });
        }
        self.reading.insert(partition, Reading { next: at, ended: None, paused: false });
        self.parking.ready();
        Ok(())
    }

    fn release(&mut self, partitions: &[Partition]) -> Result<(), Error> {
        for &partition in partitions {
            self.reading.remove(&partition);
            if self.leaving.remove(&partition) {
                self.owned.remove(&partition);
                self.released.push(partition);
            }
        }
        if let Role::Member { group, member, .. } = &self.role
            && self.leaving.is_empty()
        {
            let released = std::mem::take(&mut self.released);
            self.log.change(|cluster| cluster.group(group).release(*member, &released));
        }
        Ok(())
    }

    fn pause(&mut self, partitions: &[Partition]) -> Result<(), Error> {
        for partition in partitions {
            if let Some(reading) = self.reading.get_mut(partition) {
                reading.paused = true;
            }
        }
        Ok(())
    }

    fn resume(&mut self, partitions: &[Partition]) -> Result<(), Error> {
        for partition in partitions {
            if let Some(reading) = self.reading.get_mut(partition) {
                reading.paused = false;
            }
        }
        self.parking.ready();
        Ok(())
    }

    fn committed(&mut self, partition: Partition) -> Result<Option<Committed>, Error> {
        let group = self.group()?;
        self.log.cluster.lock().answer()?;
        Ok(self.log.committed(group, partition))
    }

    fn commit(&mut self, partition: Partition, committed: &Committed) -> Result<(), Error> {
        let group = match (&self.role, self.group()) {
            (Role::Fenced { .. }, Err(_)) => return Err(Error::Fenced { partition, reason: "another member has its name".to_owned() }),
            (_, group) => group?,
        };
        let mut cluster = self.log.cluster.lock();
        cluster.answer()?;
        let fault = cluster.commit_faults.pop_front();
        let state = cluster.group(group);
        if let Role::Member { member, .. } = self.role
            && (state.owner(partition) != Some(member) || !self.owned.contains(&partition))
        {
            return Err(Error::Fenced { partition, reason: "it is not this member's".to_owned() });
        }
        if fault != Some(CommitFault::RequestLost) {
            state.committed.insert(partition, committed.clone());
        }
        match fault {
            Some(fault) => Err(Error::Unavailable { broker: "memory".to_owned(), reason: format!("{fault:?}") }),
            None => Ok(()),
        }
    }

    fn known_end(&self, partition: Partition) -> Option<NextOffset> {
        self.reading.contains_key(&partition).then(|| self.log.extent(partition).map(|extent| extent.end))?
    }

    fn extent(&mut self, partition: Partition) -> Result<Extent, Error> {
        let cluster = self.log.cluster.lock();
        cluster.answer()?;
        cluster.partition(partition).map(super::PartitionLog::extent).ok_or_else(|| cluster.no_such())
    }

    fn waker(&self) -> Waker {
        Waker::new(Arc::clone(&self.parking))
    }
}

impl Drop for MemoryConsumer {
    fn drop(&mut self) {
        if let Role::Member { group, member, .. } = &self.role {
            self.log.change(|cluster| {
                let count = cluster.count();
                cluster.group(group).leave(*member, count);
            });
        }
    }
}
