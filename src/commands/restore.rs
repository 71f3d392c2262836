//! `tidemark restore`: after history has been restored from a backup, or lost, everything begins again where it is whole.

use super::Deployed;
use super::confirm::Confirmation;
use super::output::Output;
use crate::config::Config;
use crate::exit::Exit;
use crate::input::{self, Match};
use crate::parts;
use anyhow::{Context as _, Result, bail};
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tidemark_core::cut::Cut;
use tidemark_core::generation::{Generation, Rules};
use tidemark_core::offset::{NextOffset, OffsetRange, Partition};
use tidemark_history::clickhouse::ClickHouse;
use tidemark_history::generations::Input;
use tidemark_history::{History as _, Wiped};
use tidemark_topic::kafka::Kafka;
use tidemark_topic::{Extent, TopicIdentity};

/// How long removing an epoch may take.
const CLEAR_SECS: u32 = 600;

#[derive(clap::Args)]
#[command(
    after_help = "Stop every tidemark of the deployment first. What history has above the marks of the restored ledger is deleted, and written
again from the topic: on a terminal you are asked for the topic's name, elsewhere --confirm gives it.

Examples:
  tidemark restore --config tidemark.toml
  tidemark restore --config tidemark.toml --confirm events --json"
)]
pub struct Arguments {
    #[command(flatten)]
    confirmation: Confirmation,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    deployed: Deployed,
}

pub fn run(arguments: Arguments) -> Result<()> {
    super::log("restore")?;
    let Arguments { confirmation, output, deployed } = arguments;
    let config = deployed.load()?;
    parts::need_servers(&config, "restore", false)?;
    super::runtime()?.block_on(restore(config, &confirmation, output))
}

/// Every generation begins again; those that share raw events, together. Nothing is changed before all of them can.
async fn restore(config: Config, confirmation: &Confirmation, output: Output) -> Result<()> {
    let kafka = config.kafka.connect(&config.kafka.bootstrap);
    let archive = parts::open_archive(&config, &config.clickhouse.url).await?;
    let generations = parts::generations(&config, &archive).await?;
    let mut families: BTreeMap<Generation, Vec<ClickHouse>> = BTreeMap::new();
    for known in generations.standing() {
        families.entry(known.rules.raw()).or_default().push(archive.history(Arc::clone(&known.rules)).await?);
    }
    let identity = kafka.admin()?.describe().await?.identity;
    let mut beginnings = Vec::new();
    for (raw, family) in families {
        let known = archive.input(raw).await?;
        beginnings.push(Beginning::find(&config, &kafka, family, known.as_ref(), &identity).await?);
    }
    let surplus: u64 = beginnings.iter().map(|beginning| beginning.surplus).sum();
    let mut questions: Vec<String> = beginnings.iter().flat_map(|beginning| beginning.new_input.clone()).collect();
    if surplus > 0 {
        questions.push(format!(
            "{surplus} rows of the history in {}, database {}, are above its marks. They are deleted, and written again from the topic `{}`.",
            config.clickhouse.place(),
            config.clickhouse.database,
            config.kafka.topic
        ));
    }
    if !questions.is_empty() {
        confirmation.of(&config.kafka.topic, &questions.join("\n"))?;
    }
    let mut restored = Vec::new();
    for beginning in beginnings {
        let Beginning { family, .. } = &beginning;
        let generations: Vec<u32> = family.iter().map(|history| history.rules().generation.0).collect();
        let raw = family.first().context("a generation is missing")?.rules().clone();
        let cut = beginning.begin(&config, &kafka).await?;
        archive.set_input(raw.raw(), &input::input(&identity, config.kafka.batch_group(&raw))).await?;
        let names: Vec<String> = generations.iter().map(u32::to_string).collect();
        output.say(format_args!("generation {}: history goes on from {cut}", names.join(" and ")))?;
        restored.push(json!({"generations": generations, "from": cut.to_string()}));
    }
    output.tell(&json!({"restored": restored, "rows_deleted": surplus}), "start tidemark again")
}

/// Where generations that share raw events begin again.
struct Beginning {
    family: Vec<ClickHouse>,
    extents: BTreeMap<Partition, Extent>,
    /// History is whole below.
    whole: BTreeMap<Partition, NextOffset>,
    /// Rows above.
    surplus: u64,
    /// What is other about the topic and the group than history has it, for the person who is asked.
    new_input: Vec<String>,
}

impl Beginning {
    /// The batch layer's positions may be ahead of what a restored history has, and snapshots may be of epochs that it says are
    /// open: both go back to the marks of its ledger, the highest of those who share it. What is above them is written again,
    /// and compared as ever.
    async fn find(
        config: &Config,
        kafka: &Kafka,
        family: Vec<ClickHouse>,
        known: Option<&Input>,
        identity: &TopicIdentity,
    ) -> Result<Self> {
        let rules = family.first().context("a generation is missing")?.rules();
        let speed = family.iter().map(|history| config.kafka.speed_group(history.rules()));
        let batch = known.map(|known| known.batch_group.clone()).into_iter().chain([config.kafka.batch_group(rules)]);
        for group in speed.chain(batch).collect::<BTreeSet<_>>() {
            let members = kafka.group_positions(&group)?.members().await?;
            if members > 0 {
                return Err(Exit::Refused
                    .because(format!("{members} processes are in the group {group}: stop every tidemark of this deployment first")));
            }
        }
        let extents = kafka.admin()?.extents().await?;
        let new_input = match known {
            Some(known) => new_input(config, kafka, &family, known, identity, &extents).await?,
            None => Vec::new(),
        };
        let mut known: BTreeMap<Partition, NextOffset> = BTreeMap::new();
        for history in &family {
            for (partition, mark) in history.marks().await? {
                let whole = known.entry(partition).or_default();
                *whole = mark.position(rules.epoch_bits).max(*whole);
            }
        }
        let mut whole: BTreeMap<Partition, NextOffset> = extents.iter().map(|(&partition, extent)| (partition, extent.start)).collect();
        whole.extend(known);
        for (partition, extent) in &extents {
            must_follow(*partition, whole[partition], *extent)?;
        }
        let mut surplus = 0;
        for (partition, extent) in &extents {
            let bits = rules.epoch_bits;
            let above = OffsetRange::new(bits.start_of(bits.epoch_at(whole[partition])), bits.end_of(bits.epoch_at(extent.end)));
            if let Some(above) = above {
                surplus += family[0].found(*partition, above).await?.values().map(|found| found.rows).sum::<u64>();
            }
        }
        Ok(Self { family, extents, whole, surplus, new_input })
    }

    async fn begin(self, config: &Config, kafka: &Kafka) -> Result<Cut> {
        let Self { family, extents, whole, .. } = self;
        // The widest has all views.
        let widest = family.last().context("a generation is missing")?;
        for (partition, extent) in &extents {
            clear(widest, widest.rules(), *partition, whole[partition], extent.end).await?;
        }
        let restored = whole.iter().map(|(&partition, &whole)| (partition, whole)).collect();
        kafka.group_positions(&config.kafka.batch_group(widest.rules()))?.set(whole).await?;
        for history in &family {
            if let Some(store) = parts::open_snapshots(config, history.rules()).await? {
                for partition in extents.keys() {
                    store.forget(*partition).await?;
                }
            }
        }
        Ok(restored)
    }
}

/// What is new about where the records come from. Refuses a topic that holds other records than history counted.
async fn new_input(
    config: &Config,
    kafka: &Kafka,
    family: &[ClickHouse],
    known: &Input,
    identity: &TopicIdentity,
    extents: &BTreeMap<Partition, Extent>,
) -> Result<Vec<String>> {
    let (mut new, widest) = (Vec::new(), family.last().context("a generation is missing")?);
    let former = input::identity_of(known);
    if !former.may_be(identity) {
        let found = match input::compare(kafka, widest, extents).await? {
            Match::Different(what) => bail!(
                "the topic `{}` is another one than history was counted from ({identity}, history has {former}), and it holds other records: {what}. \
                 Offsets of one topic mean nothing in another, so counting cannot go on in this history. Name the cluster that has the topic, or begin \
                 a new history (another clickhouse.database and kafka.group)",
                config.kafka.topic
            ),
            found => found,
        };
        new.push(format!(
            "The topic `{}` is another one than history was counted from: {identity}, history has {former}. {found}. If it is a copy with \
             the same offsets, counting goes on in it.",
            config.kafka.topic
        ));
    }
    let group = config.kafka.batch_group(widest.rules());
    if known.batch_group != group {
        new.push(format!("The consumer group `{group}` takes over from `{}`.", known.batch_group));
    }
    Ok(new)
}

/// What history lacks must be in the topic.
fn must_follow(partition: Partition, whole: NextOffset, extent: Extent) -> Result<()> {
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
    Ok(())
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
