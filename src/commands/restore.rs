//! `tidemark restore`: after history has been restored from a backup, or lost, everything begins again where it is whole.

use super::Deployed;
use crate::config::Config;
use crate::parts;
use anyhow::{Context as _, Result, bail};
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_core::cut::Cut;
use tidemark_core::generation::{Generation, Rules};
use tidemark_core::offset::{NextOffset, OffsetRange, Partition};
use tidemark_history::clickhouse::ClickHouse;
use tidemark_history::{History as _, Wiped};
use tidemark_topic::kafka::Kafka;

/// How long removing an epoch may take.
const CLEAR_SECS: u32 = 600;

pub fn run(arguments: Deployed) -> Result<()> {
    super::log("restore")?;
    let config = arguments.load()?;
    parts::need_servers(&config, "restore", false)?;
    super::runtime()?.block_on(restore(config))
}

/// Every generation begins again; those that share raw events, together.
async fn restore(config: Config) -> Result<()> {
    let kafka = config.kafka.connect(&config.kafka.bootstrap);
    let archive = parts::open_archive(&config, &config.clickhouse.url).await?;
    let generations = parts::generations(&config, &archive).await?;
    let mut families: BTreeMap<Generation, Vec<ClickHouse>> = BTreeMap::new();
    for known in generations.standing() {
        families.entry(known.rules.raw()).or_default().push(archive.history(Arc::clone(&known.rules)).await?);
    }
    for family in families.values() {
        let partitions = restore_family(&config, &kafka, family).await?;
        let names: Vec<String> = family.iter().map(|history| history.rules().generation.to_string()).collect();
        println!("generation {}: history goes on from {partitions}", names.join(" and "));
    }
    println!("start tidemark again");
    Ok(())
}

/// The batch layer's positions may be ahead of what a restored history has, and snapshots may be of epochs that it says are
/// open: both go back to the marks of its ledger, the highest of those who share it. What is above them is written again,
/// and compared as ever.
async fn restore_family(config: &Config, kafka: &Kafka, family: &[ClickHouse]) -> Result<Cut> {
    let rules = family.first().context("a generation is missing")?.rules();
    let (batch, speed) = (config.kafka.batch_group(rules), family.iter().map(|history| config.kafka.speed_group(history.rules())));
    for group in speed.chain([batch.clone()]) {
        let members = kafka.group_positions(&group)?.members().await?;
        if members > 0 {
            bail!("{members} processes are in the group {group}: stop every tidemark of this deployment first");
        }
    }
    let extents = kafka.admin()?.extents().await?;
    let mut set: BTreeMap<Partition, NextOffset> = extents.iter().map(|(&partition, extent)| (partition, extent.start)).collect();
    let mut known = BTreeMap::new();
    for history in family {
        for (partition, mark) in history.marks().await? {
            let whole: &mut NextOffset = known.entry(partition).or_default();
            *whole = mark.position(rules.epoch_bits).max(*whole);
        }
    }
    set.extend(known);
    for (partition, extent) in &extents {
        let whole = set[partition];
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
    }
    // The widest has all views.
    let widest = family.last().context("a generation is missing")?;
    for (partition, extent) in &extents {
        clear(widest, widest.rules(), *partition, set[partition], extent.end).await?;
    }
    let restored = set.iter().map(|(&partition, &whole)| (partition, whole)).collect();
    kafka.group_positions(&batch)?.set(set).await?;
    for history in family {
        if let Some(store) = parts::open_snapshots(config, history.rules()).await? {
            for partition in extents.keys() {
                store.forget(*partition).await?;
            }
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
        history.wipe(partition, epoch, Wiped::Everything, CLEAR_SECS).await?;
        epoch = epoch.next();
    }
    Ok(())
}
