//! `tidemark restore`: after history has been restored from a backup, or lost, everything begins again where it is whole.

use super::Deployed;
use crate::config::Config;
use crate::parts;
use anyhow::{Result, bail};
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_core::cut::Cut;
use tidemark_core::generation::Rules;
use tidemark_core::offset::{NextOffset, OffsetRange, Partition};
use tidemark_history::History as _;
use tidemark_history::clickhouse::ClickHouse;
use tidemark_topic::kafka::Kafka;

/// How long removing an epoch may take.
const CLEAR_SECS: u32 = 600;

pub fn run(arguments: Deployed) -> Result<()> {
    super::log("restore")?;
    let config = arguments.load()?;
    parts::need_servers(&config, "restore", false)?;
    super::runtime()?.block_on(restore(config))
}

/// Every generation begins again.
async fn restore(config: Config) -> Result<()> {
    let kafka = config.kafka.connect(&config.kafka.bootstrap);
    let archive = parts::open_archive(&config, &config.clickhouse.url).await?;
    for known in parts::generations(&config, &archive).await?.standing() {
        let rules = &known.rules;
        let history = archive.history(Arc::clone(rules)).await?;
        let partitions = restore_generation(&config, &kafka, rules, &history).await?;
        println!("generation {}: history goes on from {partitions}", rules.generation);
    }
    println!("start tidemark again");
    Ok(())
}

/// The batch layer's positions may be ahead of what a restored history has, and snapshots may be of epochs that it says are
/// open: both go back to the marks of its ledger. What is above them is written again, and compared as ever.
async fn restore_generation(config: &Config, kafka: &Kafka, rules: &Rules, history: &ClickHouse) -> Result<Cut> {
    let (batch, speed) = (config.kafka.batch_group(rules), config.kafka.speed_group(rules));
    let positions = kafka.group_positions(&batch)?;
    for (group, members) in [(&batch, positions.members().await?), (&speed, kafka.group_positions(&speed)?.members().await?)] {
        if members > 0 {
            bail!("{members} processes are in the group {group}: stop every tidemark of this deployment first");
        }
    }
    let (marks, extents) = (history.marks().await?, kafka.admin()?.extents().await?);
    let mut set = BTreeMap::new();
    for (&partition, extent) in &extents {
        let whole = marks.get(&partition).map_or(extent.start, |mark| mark.position(rules.epoch_bits));
        if whole < extent.start {
            bail!(
                "partition {partition}: history is whole up to {whole}, but the topic begins at {}: what was between them is in neither. \
                 Restore a later backup, or start a new history (another clickhouse.database and kafka.group)",
                extent.start
            );
        }
        if whole > extent.end {
            bail!(
                "partition {partition}: history is whole up to {whole}, but the topic ends at {}: it is not the topic of this history",
                extent.end
            );
        }
        set.insert(partition, whole);
    }
    for (&partition, &whole) in &set {
        clear(history, rules, partition, whole, extents[&partition].end).await?;
    }
    let restored = set.iter().map(|(&partition, &whole)| (partition, whole)).collect();
    positions.set(set).await?;
    if let Some(store) = parts::open_snapshots(config, rules).await? {
        for partition in extents.keys() {
            store.forget(*partition).await?;
        }
    }
    Ok(restored)
}

/// Removes what history has of epochs that are not closed: it is written again, and must not be there twice.
async fn clear(history: &ClickHouse, rules: &Rules, partition: Partition, from: NextOffset, end: NextOffset) -> Result<()> {
    let (mut epoch, last) = (rules.epoch_bits.epoch_at(from), rules.epoch_bits.epoch_at(end));
    while let Some(range) = OffsetRange::new(rules.epoch_bits.start_of(epoch), rules.epoch_bits.end_of(last)) {
        if history.found(partition, range).await?.is_empty() {
            break;
        }
        history.wipe(partition, epoch, CLEAR_SECS).await?;
        epoch = epoch.next();
    }
    Ok(())
}
