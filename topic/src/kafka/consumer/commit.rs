//! Committed positions, and the fence before them.

use super::{KafkaConsumer, Role, left};
use crate::kafka::ANSWER_DEADLINE;
use crate::kafka::native::{self, Committing, GroupMember};
use crate::{Committed, Error, NextOffset, Partition};
use rdkafka::consumer::Consumer as _;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::Offset as RawOffset;
use std::time::{Duration, Instant};

/// How long a commit waits for its answer; after that the outcome is unknown.
const COMMIT_DEADLINE: Duration = Duration::from_secs(10);
/// Between two attempts to commit while the group is rebalancing.
const REBALANCE_PAUSE: Duration = Duration::from_millis(10);

impl KafkaConsumer {
    pub(super) fn committed_position(&mut self, partition: Partition) -> Result<Option<Committed>, Error> {
        if self.group.is_none() {
            return Err(Error::Refused { reason: "a consumer without a group has no committed positions".to_owned() });
        }
        let doing = "asking for the committed position";
        let answer = self.client.base.committed_offsets(self.list([partition]), ANSWER_DEADLINE);
        let answer = answer.map_err(|error| self.kafka.client_error(&error, doing))?;
        let elements = answer.elements();
        let Some(element) = elements.first() else { return Ok(None) };
        element.error().map_err(|error| self.kafka.client_error(&error, doing))?;
        Ok(match element.offset() {
            RawOffset::Offset(offset) => {
                u64::try_from(offset).ok().map(|next| Committed { next: NextOffset::new(next), metadata: element.metadata().to_owned() })
            }
            _ => None,
        })
    }

    pub(super) fn commit_position(&mut self, partition: Partition, committed: &Committed) -> Result<(), Error> {
        if self.group.is_none() {
            return Err(Error::Refused { reason: "a consumer without a group cannot commit".to_owned() });
        }
        let deadline = Instant::now() + COMMIT_DEADLINE;
        self.await_commit_in_doubt(deadline)?;
        let position = self.list_at(partition, committed.next, Some(&committed.metadata))?;
        loop {
            let member = self.committing_member(partition, deadline)?;
            let doing = "committing";
            let commit = Committing::begin(self.client.base.client(), &position).map_err(|code| self.kafka.error(code, doing))?;
            let Some(outcome) = commit.wait(left(deadline)) else {
                self.in_doubt = Some(commit);
                return Err(self.unanswered("a commit is unanswered"));
            };
            let code = match outcome {
                Ok(()) => match member {
                    // Thrown out meanwhile, and so perhaps before the commit was sent, without a fence.
                    Some(member) if native::group_member(self.client.base.client()).id != member.id => {
                        return Err(Self::fenced(partition, "the group threw this member out while it committed"));
                    }
                    _ => return Ok(()),
                },
                Err(code) => code,
            };
            match code {
                // Joining the next generation, or about to: what is owned stays owned, or `attend` tells that it is lost.
                RDKafkaErrorCode::IllegalGeneration | RDKafkaErrorCode::RebalanceInProgress if member.is_some() => {
                    if left(deadline).is_zero() {
                        return Err(self.unanswered("the group is rebalancing"));
                    }
                    std::thread::sleep(REBALANCE_PAUSE);
                }
                RDKafkaErrorCode::UnknownMemberId | RDKafkaErrorCode::FencedInstanceId | RDKafkaErrorCode::Fatal if member.is_some() => {
                    return Err(Self::fenced(partition, code.to_string()));
                }
                code => return Err(self.kafka.error(code, doing)),
            }
        }
    }

    pub(super) fn fenced(partition: Partition, reason: impl Into<String>) -> Error {
        Error::Fenced { partition, reason: reason.into() }
    }

    pub(super) fn unanswered(&self, reason: &str) -> Error {
        Error::Unavailable { broker: self.kafka.bootstrap.clone(), reason: reason.to_owned() }
    }

    /// Waits for a commit that was given up on. Whatever became of it, it can no longer overtake the next one.
    pub(super) fn await_commit_in_doubt(&mut self, deadline: Instant) -> Result<(), Error> {
        if let Some(doubt) = &self.in_doubt {
            doubt.wait(left(deadline)).ok_or_else(|| self.unanswered("an earlier commit is still unanswered"))?.ok();
            self.in_doubt = None;
        }
        Ok(())
    }

    /// The membership to commit under; waits for its generation while it is joining again. `None` when alone.
    pub(super) fn committing_member(&mut self, partition: Partition, deadline: Instant) -> Result<Option<GroupMember>, Error> {
        loop {
            self.attend();
            if !self.owned.contains(&partition) {
                return Err(Self::fenced(partition, "the group has taken it away"));
            }
            if matches!(self.role, Role::Alone { .. }) {
                return Ok(None);
            }
            // Without a generation librdkafka would commit unfenced, which the broker accepts from anybody while
            // the group is empty.
            let member = native::group_member(self.client.base.client());
            if matches!(&self.role, Role::Member { id: Some(id), .. } if *id != member.id) {
                self.check_membership(true);
                continue;
            }
            if member.generation.is_some() {
                return Ok(Some(member));
            }
            if left(deadline).is_zero() {
                return Err(self.unanswered("the group is rebalancing"));
            }
            std::thread::sleep(REBALANCE_PAUSE);
        }
    }
}
