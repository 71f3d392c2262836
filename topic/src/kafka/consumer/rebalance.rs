//! What the group decides, and errors of the client as a whole: the control queue.

use super::client::{Change, Connected};
use super::{KafkaConsumer, Role};
use crate::kafka::{is_transient, native};
use crate::{Error, Happened, Partition};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::Message as _;
use rdkafka::topic_partition_list::TopicPartitionList;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How often a member looks whether its membership stands.
const MEMBERSHIP_EVERY: Duration = Duration::from_secs(1);
/// How often while it joins: librdkafka takes the steps of joining (finding the coordinator, connecting, asking for metadata) when
/// its thread wakes, by itself once a second. A question to it wakes it.
const JOINING_EVERY: Duration = Duration::from_millis(50);
/// How often a consumer of all partitions looks for new ones.
const PARTITIONS_EVERY: Duration = Duration::from_secs(5);
/// How soon it looks again after it could not find out, and how long it waits for the answer: a poll is that much late.
const RETRY_EVERY: Duration = Duration::from_secs(5);
const RETRY_PATIENCE: Duration = Duration::from_millis(500);

impl KafkaConsumer {
    /// Takes in what the client has to say besides records. Rebalances and errors wait in `pending` and `failed`.
    pub(super) fn attend(&mut self) {
        loop {
            match self.client.base.poll(Duration::ZERO) {
                None => {}
                Some(Ok(stray)) => {
                    // Cannot happen while partitions are forwarded before they are assigned. Were it to, the position
                    // kept here still stands.
                    let partition = Partition(stray.partition().unsigned_abs());
                    drop(stray);
                    tracing::error!(target: "kafka", %partition, "a record came by the consumer queue; reading again from the position kept");
                    if self.is_reading(partition) {
                        self.doubtful.insert(partition);
                    }
                }
                Some(Err(error)) => self.note(&error),
            }
            if self.client.control.is_empty() {
                break;
            }
        }
        let changes = std::mem::take(&mut *self.client.base.context().changes.lock());
        let changed = !changes.is_empty();
        for change in changes {
            self.rebalance(change);
        }
        self.check_membership(changed);
    }

    /// Notices that the session has ended and partitions have been taken away without a word: librdkafka does not tell
    /// of it while a revocation is open, and joins again as if it had kept them. So it starts over.
    pub(super) fn check_membership(&mut self, now: bool) {
        let Role::Member { id, at } = &mut self.role else { return };
        if !now && Instant::now() < *at {
            return;
        }
        *at = Instant::now() + if id.is_some() { MEMBERSHIP_EVERY } else { JOINING_EVERY };
        if self.dead.is_some() {
            return;
        }
        let member = native::group_member(self.client.base.client());
        if id.as_ref().is_none_or(|id| member.id == *id) {
            return;
        }
        if self.client.base.client().fatal_error().is_some() {
            self.die(); // joining again would take the name back from the process that has it now
            return;
        }
        tracing::warn!(target: "kafka", "the session ended during a rebalance; joining again");
        let owned: Vec<_> = std::mem::take(&mut self.owned).into_iter().collect();
        self.drop_all();
        if !owned.is_empty() {
            self.pending.push_back(Happened::Lost(owned));
        }
        match Connected::new(&self.kafka, &self.config, &self.parking, self.traced, Some(&self.kafka.topic)) {
            Ok(client) => self.client = client,
            Err(error) => self.dead = Some(error.to_string()),
        }
        self.role = Role::Member { id: None, at: Instant::now() };
    }

    /// Forgets all that concerns the present client.
    pub(super) fn drop_all(&mut self) {
        self.reading.clear();
        self.owned.clear();
        for partitions in [&mut self.leaving, &mut self.paused, &mut self.assigned, &mut self.idle, &mut self.doubtful] {
            partitions.clear();
        }
        self.answer_owed = false;
        self.in_doubt = None;
    }

    /// An error of the client as a whole.
    pub(super) fn note(&mut self, error: &KafkaError) {
        let fatal = matches!(error, KafkaError::MessageConsumptionFatal(_)) || self.client.base.client().fatal_error().is_some();
        match error.rdkafka_error_code() {
            _ if fatal => self.die(),
            // Logged, once per outage, by the context.
            Some(code) if is_transient(code) => {}
            // The owner did not poll in time: the partitions come back as lost.
            Some(RDKafkaErrorCode::PollExceeded) => {
                tracing::warn!(target: "kafka", "not polled in time, the group takes the partitions away")
            }
            _ => self.failed = Some(self.kafka.client_error(error, "consuming")),
        }
    }

    /// The client cannot go on (another process has taken this member's name).
    pub(super) fn die(&mut self) {
        let reason = match self.client.base.client().fatal_error() {
            Some((code, text)) => format!("this consumer has been shut out for good: {code}: {text}"),
            None => "this consumer has been shut out for good".to_owned(),
        };
        let owned: Vec<_> = std::mem::take(&mut self.owned).into_iter().collect();
        self.forget(&owned);
        self.leaving.clear();
        self.answer_owed = false;
        if !owned.is_empty() {
            self.pending.push_back(Happened::Lost(owned));
        }
        self.dead = Some(reason);
    }

    pub(super) fn rebalance(&mut self, change: Change) {
        match change {
            Change::Assigned(partitions) => {
                // Lets the group go on at once. What to fetch is told by `start`.
                self.told(self.client.base.incremental_assign(&TopicPartitionList::new()), "accepting partitions");
                self.owned.extend(&partitions);
                // Joining again waits for the answer above, so this is the membership that was given the partitions,
                // or none if it is over already.
                let id = native::group_member(self.client.base.client()).id;
                if let Role::Member { id: known, .. } = &mut self.role {
                    known.get_or_insert(id);
                }
                if !partitions.is_empty() {
                    self.pending.push_back(Happened::Assigned(partitions));
                }
            }
            Change::Revoked(partitions) => {
                self.answer_owed = true;
                self.leaving.extend(&partitions);
                if partitions.is_empty() {
                    self.settle();
                } else {
                    self.pending.push_back(Happened::Revoked(partitions));
                }
            }
            Change::Lost(partitions) => {
                self.role = Role::Member { id: None, at: Instant::now() };
                self.forget(&partitions);
                self.answer_owed = true;
                self.settle();
                if !partitions.is_empty() {
                    self.pending.push_back(Happened::Lost(partitions));
                }
            }
        }
    }

    /// Stops all that concerns these partitions; they are no longer this consumer's.
    pub(super) fn forget(&mut self, partitions: &[Partition]) {
        for &partition in partitions {
            self.stop_reading(partition);
            self.owned.remove(&partition);
            self.leaving.remove(&partition);
            if self.assigned.contains(&partition) {
                self.idle.insert(partition);
            }
        }
    }

    /// Tells librdkafka what is no longer read, which is also the answer to a revocation: so it waits until all
    /// partitions of the revocation are released, for the first answer counts for all of them.
    pub(super) fn settle(&mut self) {
        if !self.leaving.is_empty() || (self.idle.is_empty() && !self.answer_owed) {
            return;
        }
        let idle = std::mem::take(&mut self.idle);
        self.unpause(&idle);
        self.told(self.client.base.incremental_unassign(&self.list(idle.iter().copied())), "giving partitions up");
        self.assigned.retain(|partition| !idle.contains(partition));
        self.answer_owed = false;
    }

    /// A pause would outlive the partition's assignment.
    pub(super) fn unpause(&mut self, partitions: &BTreeSet<Partition>) {
        let paused: Vec<_> = self.paused.intersection(partitions).copied().collect();
        if !paused.is_empty() {
            self.told(self.client.base.resume(&self.list(paused.iter().copied())), "resuming partitions");
            self.paused.retain(|partition| !partitions.contains(partition));
        }
    }

    /// A call to the client that fails only when the client itself is at its end, of which `note` tells.
    pub(super) fn told(&self, outcome: Result<(), KafkaError>, doing: &str) {
        if let Err(error) = outcome {
            tracing::error!(target: "kafka", "{doing}: {error}");
        }
    }

    /// Alone: takes on partitions that are new.
    pub(super) fn look_for_partitions(&mut self) {
        let now = Instant::now();
        let share = match self.role {
            Role::Alone { share, at } if at <= now => share,
            _ => return,
        };
        let found = self.kafka.partitions(RETRY_PATIENCE);
        let pause = if found.is_ok() { PARTITIONS_EVERY } else { RETRY_EVERY };
        self.role = Role::Alone { share, at: Instant::now() + pause };
        match found {
            Ok(partitions) => {
                let new: Vec<_> = share.partitions(partitions.count).filter(|partition| self.owned.insert(*partition)).collect();
                if !new.is_empty() {
                    self.pending.push_back(Happened::Assigned(new));
                }
            }
            Err(Error::Unavailable { .. }) => {}
            Err(error) => self.failed = Some(error),
        }
    }

    /// When poll must look again although nothing has been signalled.
    pub(super) fn next_look(&self) -> Option<Instant> {
        let doubt = (!self.doubtful.is_empty()).then(|| Instant::now() + RETRY_EVERY);
        match &self.role {
            Role::Alone { at, .. } => Some(doubt.map_or(*at, |doubt| doubt.min(*at))),
            Role::Member { at, .. } => Some(doubt.map_or(*at, |doubt| doubt.min(*at))),
        }
    }
}
