//! Which topic a history is counted from, and by which consumer group. Both are kept in history, with the generation, and are
//! compared at every start: offsets mean nothing in another topic, and positions mean nothing in another group.

use crate::config::Config;
use crate::exit::Exit;
use anyhow::{Context as _, Result};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use tidemark_core::epoch::{Epoch, Mark};
use tidemark_core::generation::Rules;
use tidemark_core::judge::Judge;
use tidemark_core::offset::Partition;
use tidemark_core::window::Level;
use tidemark_history::clickhouse::{Archive, ClickHouse};
use tidemark_history::generations::Input;
use tidemark_history::ledger::{Entry, LedgerRow};
use tidemark_history::{EpochCells, History as _, Marks};
use tidemark_speed_layer::reread::read_segment;
use tidemark_speed_layer::segment::Segment;
use tidemark_topic::kafka::{Admin, ConsumerOptions, Kafka};
use tidemark_topic::{Extent, Membership, TopicIdentity};

/// What a topic has in common with a history.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Match {
    /// No epoch is closed, so there is nothing to compare.
    Nothing,
    /// The last closed epoch of this partition holds the same in both.
    Same(Partition, Epoch),
    /// Retention has removed the last closed epoch of every partition.
    Unknown,
    Different(String),
}

impl fmt::Display for Match {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => f.write_str("history has no closed epoch to compare with"),
            Self::Same(partition, epoch) => write!(f, "partition {partition}, epoch {epoch}: the topic has what history has"),
            Self::Unknown => f.write_str("the topic no longer has any epoch that history has closed, so they cannot be compared"),
            Self::Different(what) => f.write_str(what),
        }
    }
}

/// Compares the topic with the last closed epoch of each partition, until one comparison is possible.
pub async fn compare(kafka: &Kafka, history: &ClickHouse, extents: &BTreeMap<Partition, Extent>) -> Result<Match> {
    let (rules, marks) = (history.rules(), history.marks().await?);
    if let Some(different) = marks.iter().find_map(|(partition, mark)| short(rules, *partition, *mark, extents)) {
        return Ok(Match::Different(different));
    }
    let last: Vec<LedgerRow> = last_closed(history, &marks).await?;
    for row in &last {
        let (range, partition) = (rules.epoch_bits.range_of(row.epoch), row.partition);
        // Without the epoch before, duplicates would be counted as events.
        if extents[&partition].start > Judge::lookback(rules, range.from()) {
            continue;
        }
        let consumer = kafka.consumer(Membership::all(), ConsumerOptions::default())?;
        let (rules, epoch) = (Arc::new(rules.clone()), row.epoch);
        let read = tokio::task::spawn_blocking(move || read_segment(consumer, &rules, partition, epoch)).await;
        let segment = read.context("reading an epoch of the topic")??;
        if (segment.tally().events, segment.fold()) != (row.tally.events, row.fold) || !has_cells(history, partition, &segment).await? {
            return Ok(Match::Different(format!(
                "partition {partition}, offsets {range}: the topic has other events than history counted"
            )));
        }
        return Ok(Match::Same(partition, row.epoch));
    }
    Ok(if last.is_empty() { Match::Nothing } else { Match::Unknown })
}

/// True if history has the segment's very cells, of each view. That the numbers of events are equal says little.
async fn has_cells(history: &ClickHouse, partition: Partition, segment: &Segment) -> Result<bool> {
    for view in history.rules().views.ids() {
        let (level, epoch) = (Level::FiveMinutes, segment.epoch());
        let mut expected = segment.expected(view, level);
        let of = EpochCells { view, level, partition, epoch };
        history.visit_cells(of, &mut |bucket_ms, values, cell| expected.meet(bucket_ms, values, cell)).await?;
        if expected.differing() > 0 {
            return Ok(false);
        }
    }
    Ok(true)
}

/// Why a topic that is as long as this cannot be the one that was counted.
fn short(rules: &Rules, partition: Partition, mark: Mark, extents: &BTreeMap<Partition, Extent>) -> Option<String> {
    let whole = mark.position(rules.epoch_bits);
    match extents.get(&partition) {
        None => Some(format!("history has partition {partition}, and the topic has none of that number")),
        Some(extent) if extent.end < whole => {
            Some(format!("partition {partition}: history is whole up to {whole}, but the topic ends at {}", extent.end))
        }
        Some(_) => None,
    }
}

/// Of each partition the epoch below its mark, if it was closed.
async fn last_closed(history: &ClickHouse, marks: &Marks) -> Result<Vec<LedgerRow>> {
    let mut last = Vec::new();
    for (&partition, mark) in marks {
        if let Some(epoch) = mark.oldest_open().0.checked_sub(1).map(Epoch) {
            let generation = history.rules().generation;
            let closed = |row: &LedgerRow| row.entry == Entry::Closed && row.generation == generation;
            last.extend(history.ledger(partition, epoch).await?.into_iter().find(closed));
        }
    }
    Ok(last)
}

/// The topic's identity, where history knows it. A history that does not know its input yet takes it over, once the topic has
/// been found to hold what history has. Refuses another topic, and another group.
pub async fn settle(config: &Config, kafka: &Kafka, admin: &Admin, archive: &Archive, raw: &Arc<Rules>) -> Result<Option<TopicIdentity>> {
    let generation = raw.generation;
    let batch_group = config.kafka.batch_group(raw);
    let Some(known) = archive.input(generation).await? else {
        let identity = admin.describe().await?.identity;
        let history = archive.history(Arc::clone(raw)).await?;
        return match compare(kafka, &history, &admin.extents().await?).await? {
            Match::Nothing | Match::Same(..) => {
                archive.set_input(generation, &input(&identity, batch_group)).await?;
                Ok(Some(identity))
            }
            unknown @ Match::Unknown => {
                tracing::warn!("generation {generation}: {unknown}. Whether the topic is the one that was counted is not checked");
                Ok(None)
            }
            Match::Different(what) => Err(Exit::Refused.because(format!(
                "topic `{}` is not the one that this history was counted from: {what}. Name the cluster that has the topic \
                 (kafka.bootstrap), or begin a new history (another clickhouse.database and kafka.group)",
                kafka.topic
            ))),
        };
    };
    let known_group = &known.batch_group;
    if *known_group != batch_group {
        return Err(Exit::Refused.because(format!(
            "generation {generation} of this history was written by the consumer group `{known_group}`, and the configuration names \
             `{batch_group}`, whose positions say nothing about this history. Put kafka.group back; or stop every tidemark of this \
             deployment and run `tidemark restore`, which lets the new group go on from what is closed"
        )));
    }
    let identity = identity_of(&known);
    admin.expecting(Some(identity.clone())).describe().await?;
    Ok(Some(identity))
}

/// The topic that history was counted from.
pub fn identity_of(known: &Input) -> TopicIdentity {
    TopicIdentity { cluster_id: known.cluster_id.clone(), topic_id: known.topic_id.clone() }
}

/// What history keeps of its input.
pub fn input(identity: &TopicIdentity, batch_group: String) -> Input {
    let TopicIdentity { cluster_id, topic_id } = identity.clone();
    Input { cluster_id, topic_id, batch_group }
}

/// Creates the topic if there is none. Refuses to where history has already counted one: the new one would be another.
pub async fn ensure_topic(config: &Config, kafka: &Kafka, archive: &Archive) -> Result<u32> {
    if !kafka.admin()?.exists().await? && archive.has_ledger().await? {
        return Err(Exit::Refused.because(format!(
            "there is no topic `{}` in the Kafka at {}, but this history was counted from one: a new topic would begin at offset 0 \
             and be merged with what was counted. Name the cluster that has the topic (kafka.bootstrap, kafka.topic), or begin a \
             new history (another clickhouse.database and kafka.group)",
            kafka.topic, kafka.bootstrap
        )));
    }
    let partitions = config.kafka.ensure_topic(kafka).await?;
    if kafka.admin()?.is_compacted().await? {
        return Err(Exit::Refused.because(format!(
            "topic `{}` is compacted: Kafka removes records that are to be counted. Set its cleanup.policy to delete",
            kafka.topic
        )));
    }
    Ok(partitions)
}
