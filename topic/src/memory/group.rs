//! A consumer group: who owns which partition, and what each member has yet to hear of it.
//!
//! As in Kafka's cooperative protocol a partition stays with its owner until the owner has released it, and only then
//! goes to the next. Everything is decided in the order of the calls, ties by the lower number.

use crate::{Committed, Partition};
use std::collections::{BTreeMap, BTreeSet, VecDeque};

/// A membership: from joining to leaving, expiry or replacement. A member that joins again gets another.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct MemberId(pub u64);

/// What a member is told at its next poll.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Notice {
    Assigned(Vec<Partition>),
    Revoked(Vec<Partition>),
}

#[derive(Debug, Default)]
pub(super) struct Member {
    instance: Option<String>,
    pub(super) notices: VecDeque<Notice>,
}

#[derive(Debug, Default)]
pub(super) struct Group {
    next_member: u64,
    members: BTreeMap<MemberId, Member>,
    /// Owners, those asked to release included.
    owners: BTreeMap<Partition, MemberId>,
    /// Partitions to be released by their owner, and who gets them then.
    promised: BTreeMap<Partition, MemberId>,
    pub(super) committed: BTreeMap<Partition, Committed>,
}

impl Group {
    /// Joins. A static member takes the place of the one of the same name, partitions included.
    pub(super) fn join(&mut self, instance: Option<String>, partitions: u32) -> MemberId {
        let joined = MemberId(self.next_member);
        self.next_member += 1;
        let replaced = self.members.iter().find(|(_, member)| instance.is_some() && member.instance == instance);
        let replaced = replaced.map(|(&member, _)| member);
        self.members.insert(joined, Member { instance, notices: VecDeque::new() });
        if let Some(replaced) = replaced {
            self.members.remove(&replaced);
            self.hand(replaced, joined);
        }
        self.rebalance(partitions);
        joined
    }

    /// All that `from` owns, or was promised, is `to`'s at once.
    fn hand(&mut self, from: MemberId, to: MemberId) {
        self.promised.retain(|partition, _| self.owners.get(partition) != Some(&from));
        self.promised.values_mut().filter(|member| **member == from).for_each(|member| *member = to);
        let handed: Vec<_> = self.owners.iter().filter(|&(_, &owner)| owner == from).map(|(&partition, _)| partition).collect();
        for &partition in &handed {
            self.owners.insert(partition, to);
        }
        self.tell(to, Notice::Assigned(handed));
    }

    pub(super) fn leave(&mut self, member: MemberId, partitions: u32) {
        let is_static = self.members.get(&member).is_some_and(|member| member.instance.is_some());
        if !is_static {
            self.expire(member, partitions);
        }
    }

    /// Ends a membership: what it owned is free.
    pub(super) fn expire(&mut self, member: MemberId, partitions: u32) {
        if self.members.remove(&member).is_some() {
            self.owners.retain(|_, owner| *owner != member);
            let owners = &self.owners;
            self.promised.retain(|partition, to| *to != member && owners.contains_key(partition));
            self.rebalance(partitions);
        }
    }

    pub(super) fn member(&mut self, member: MemberId) -> Option<&mut Member> {
        self.members.get_mut(&member)
    }

    pub(super) fn has_instance(&self, instance: &str) -> bool {
        self.members.values().any(|member| member.instance.as_deref() == Some(instance))
    }

    pub(super) fn owner(&self, partition: Partition) -> Option<MemberId> {
        self.owners.get(&partition).copied()
    }

    fn tell(&mut self, member: MemberId, notice: Notice) {
        let (Notice::Assigned(partitions) | Notice::Revoked(partitions)) = &notice;
        if !partitions.is_empty()
            && let Some(member) = self.members.get_mut(&member)
        {
            member.notices.push_back(notice);
        }
    }

    /// Evens out: every member has its share, and keeps as much of what it has as the share allows.
    pub(super) fn rebalance(&mut self, partitions: u32) {
        let targets = self.targets(partitions);
        let mut assigned: BTreeMap<MemberId, Vec<Partition>> = BTreeMap::new();
        let mut revoked: BTreeMap<MemberId, Vec<Partition>> = BTreeMap::new();
        for (&partition, &target) in &targets {
            match self.owners.get(&partition) {
                None => {
                    self.owners.insert(partition, target);
                    assigned.entry(target).or_default().push(partition);
                }
                // A partition that is already on its way goes where it was promised.
                Some(&owner) if owner != target && !self.promised.contains_key(&partition) => {
                    self.promised.insert(partition, target);
                    revoked.entry(owner).or_default().push(partition);
                }
                Some(_) => {}
            }
        }
        for (member, partitions) in revoked {
            self.tell(member, Notice::Revoked(partitions));
        }
        for (member, partitions) in assigned {
            self.tell(member, Notice::Assigned(partitions));
        }
    }

    fn targets(&self, partitions: u32) -> BTreeMap<Partition, MemberId> {
        let mut targets = BTreeMap::new();
        let Some(members) = std::num::NonZero::new(u32::try_from(self.members.len()).unwrap_or(u32::MAX)) else {
            return targets;
        };
        let (share, rest) = (partitions / members, partitions % members);
        let holds = |member: &MemberId| self.holdings(*member).len();
        // The larger shares go to those that hold most already.
        let mut ranked: Vec<_> = self.members.keys().copied().collect();
        ranked.sort_by_key(|member| (std::cmp::Reverse(holds(member)), *member));
        let mut unplaced: BTreeSet<_> = (0..partitions).map(Partition).collect();
        let mut room = Vec::new();
        for (rank, member) in (0..).zip(ranked) {
            let quota = usize::try_from(share + u32::from(rank < rest)).unwrap_or(usize::MAX);
            let kept: Vec<_> = self.holdings(member).into_iter().filter(|p| unplaced.contains(p)).take(quota).collect();
            room.push((member, quota - kept.len()));
            for partition in kept {
                unplaced.remove(&partition);
                targets.insert(partition, member);
            }
        }
        let free = room.into_iter().flat_map(|(member, free)| std::iter::repeat_n(member, free));
        targets.extend(unplaced.into_iter().zip(free));
        targets
    }

    /// What a member will have when all promises are kept.
    fn holdings(&self, member: MemberId) -> Vec<Partition> {
        let kept = self.owners.iter().map(|(partition, owner)| (partition, self.promised.get(partition).unwrap_or(owner)));
        kept.filter(|&(_, &holder)| holder == member).map(|(&partition, _)| partition).collect()
    }

    /// Gives one partition to a member: at once if nobody owns it, else after its owner has released it.
    pub(super) fn give(&mut self, partition: Partition, to: MemberId) {
        match self.owners.get(&partition).copied() {
            Some(owner) if owner == to => {}
            Some(owner) => {
                if self.promised.insert(partition, to).is_none() {
                    self.tell(owner, Notice::Revoked(vec![partition]));
                }
            }
            None => {
                self.owners.insert(partition, to);
                self.tell(to, Notice::Assigned(vec![partition]));
            }
        }
    }

    /// The owner has released these. Those that were asked for go to the next owner.
    pub(super) fn release(&mut self, member: MemberId, released: &[Partition]) {
        let mut assigned: BTreeMap<MemberId, Vec<Partition>> = BTreeMap::new();
        for &partition in released {
            if self.owners.get(&partition) == Some(&member)
                && let Some(next) = self.promised.remove(&partition)
            {
                self.owners.insert(partition, next);
                assigned.entry(next).or_default().push(partition);
            }
        }
        for (member, partitions) in assigned {
            self.tell(member, Notice::Assigned(partitions));
        }
    }
}
