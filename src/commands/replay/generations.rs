//! `tidemark apply`, `tidemark replay rebuild`, `status`, `switch`, `rollback` and `drop`: the generations of a history.

use crate::commands::{Place, stop_signal};
use crate::config::Config;
use crate::parts;
use anyhow::{Context as _, Result, bail};
use indicatif::ProgressBar;
use serde_json::json;
use std::io::IsTerminal as _;
use std::sync::Arc;
use std::time::Duration;
use tidemark_core::cut::Cut;
use tidemark_core::generation::{Generation, Rules};
use tidemark_history::clickhouse::{Archive, ClickHouse};
use tidemark_history::generations::{Filling, Generations, Known, State};
use tidemark_replay::Api;
use tidemark_replay::plan::{Needs, Plan};
use tidemark_replay::rebuild::{Progress, Rebuild as Rebuilding, declare};
use tidemark_topic::kafka::Kafka;

/// How long a switch may take to be seen, and a dropped generation to be left alone.
const SEEN_WITHIN: Duration = Duration::from_secs(90);

/// Between two looks whether it is.
const LOOK: Duration = Duration::from_millis(250);

/// Between two lines of progress where nobody watches.
const LINE_EVERY: Duration = Duration::from_secs(10);

#[derive(clap::Args)]
pub struct Chosen {
    /// The number of the generation
    generation: u32,
    #[command(flatten)]
    place: Place,
}

/// How a generation is filled, and what then.
#[derive(clap::Args)]
struct Manner {
    /// Records a second that are counted at most [default: as fast as it goes]
    #[arg(long, value_name = "N")]
    rate: Option<u64>,
    /// Wait while the layers that answer are more records behind the topic than this; 0 never waits
    #[arg(long, value_name = "N", default_value_t = 100_000)]
    max_lag: u64,
    /// Let the new generation answer though it differs from the one that answers
    #[arg(long)]
    accept_diff: bool,
    /// Stop when it is ready: `tidemark replay switch` lets it answer
    #[arg(long)]
    no_switch: bool,
}

#[derive(clap::Args)]
pub struct Rebuild {
    /// Take from raw history all that it has, though the topic may have it too
    #[arg(long)]
    raw: bool,
    #[command(flatten)]
    manner: Manner,
    #[command(flatten)]
    place: Place,
}

#[derive(clap::Args)]
pub struct Apply {
    #[command(flatten)]
    manner: Manner,
    #[command(flatten)]
    place: Place,
}

/// A history that was found.
struct Found {
    config: Config,
    kafka: Kafka,
    archive: Archive,
    generations: Generations,
    /// A server of it.
    api: Api,
    json: bool,
}

/// The history, and its generations.
async fn open(config: &Config, command: &str) -> Result<(Archive, Generations)> {
    if config.clickhouse.url.is_empty() {
        bail!(
            "{command} wants the history: name its ClickHouse with --clickhouse URL, or with --data the directory of a `tidemark up` that runs"
        );
    }
    let archive = parts::open_archive(config, &config.clickhouse.url).await?;
    let generations = archive.generations().await?.context("there is no history here yet: start tidemark first")?;
    Ok((archive, generations))
}

/// The history of the generation that answers, and its rules.
pub async fn live_history(config: &Config, command: &str) -> Result<(Arc<Rules>, ClickHouse)> {
    let (archive, generations) = open(config, command).await?;
    let rules = Arc::clone(generations.live());
    Ok((Arc::clone(&rules), archive.history(rules).await?))
}

impl Found {
    async fn at(place: Place, command: &str) -> Result<Self> {
        let (config, api, json) = place.find(command)?;
        let kafka = config.kafka.connect(&config.kafka.bootstrap);
        let (archive, generations) = open(&config, command).await?;
        Ok(Self { config, kafka, archive, generations, api, json })
    }

    /// Says what is planned.
    fn tell(&self, plan: &Plan) -> Result<()> {
        if self.json {
            println!("{}", serde_json::to_string(plan)?)
        } else {
            println!("{plan}")
        }
        Ok(())
    }

    fn known(&self, generation: u32) -> Result<&Known> {
        let known = self.generations.get(Generation(generation));
        known.with_context(|| format!("there is no generation {generation}: `tidemark replay status` says which there are"))
    }

    /// Lets a generation answer, and waits until it does.
    async fn let_answer(&self, rules: &Rules) -> Result<()> {
        let generation = rules.generation;
        self.archive.say(generation, State::Live).await?;
        self.archive.show(rules).await?;
        let until = tokio::time::Instant::now() + SEEN_WITHIN;
        let trouble = loop {
            let trouble = match self.api.get("/v1/status", &[]).await {
                Ok(status) if status["generation"] == generation.0 => return Ok(()),
                Ok(status) => format!("generation {} answers still", status["generation"]),
                Err(error) => error.to_string(),
            };
            if tokio::time::Instant::now() > until {
                break trouble;
            }
            tokio::time::sleep(LOOK).await;
        };
        bail!("history says that generation {generation} answers, but that could not be seen: {trouble}; --url names a server to look at")
    }
}

/// Counts everything anew.
pub async fn rebuild(Rebuild { raw, manner, place }: Rebuild) -> Result<()> {
    fill(&Found::at(place, "replay rebuild").await?, manner, raw, None).await
}

/// Does what the configuration's change needs.
pub async fn apply(Apply { manner, place }: Apply) -> Result<()> {
    let found = Found::at(place, "apply").await?;
    let (live, wanted) = (found.generations.live(), found.config.rules()?);
    let plan = plan(&found.config, &found.archive, &found.generations).await?;
    found.tell(&plan)?;
    match Needs::of(live, &wanted) {
        Needs::Nothing => Ok(()),
        Needs::Rebuild => fill(&found, manner, false, None).await,
        Needs::Views => {
            let extents = found.kafka.admin()?.extents().await?;
            let bits = live.epoch_bits;
            let since = extents.iter().map(|(&partition, extent)| (partition, bits.end_of(bits.epoch_at(extent.end)))).collect();
            fill(&found, manner, false, Some(since)).await
        }
    }
}

/// What the configuration's change needs.
pub async fn plan(config: &Config, archive: &Archive, generations: &Generations) -> Result<Plan> {
    let live = generations.live();
    let history = archive.history(Arc::clone(live)).await?;
    let begun = history.begun().await?;
    let (mut records, mut from_raw) = (0, 0);
    for (partition, extent) in config.kafka.connect(&config.kafka.bootstrap).admin()?.extents().await? {
        let from = begun.get(&partition).map_or_else(Default::default, |mark| mark.position(live.epoch_bits));
        records += extent.end.since(from);
        from_raw += extent.start.since(from);
    }
    let (bytes_on_disk, last) = (history.bytes_on_disk().await?, archive.last_filled().await?);
    Ok(Plan::new(live, &config.rules()?, records, from_raw, bytes_on_disk, last))
}

/// Fills a generation beside the one that answers, and lets it answer. With `since` it only adds views to what that one has.
async fn fill(found: &Found, manner: Manner, raw: bool, since: Option<Cut>) -> Result<()> {
    let Manner { rate, max_lag, accept_diff, no_switch } = manner;
    let Found { config, kafka, archive, generations, json, .. } = found;
    let wanted = config.rules()?;
    if let Some(ready) = generations.standing().find(|known| known.state == State::Ready && known.rules.text() == wanted.text()) {
        let ready = ready.rules.generation;
        bail!(
            "generation {ready} counts by this configuration, and is ready: `tidemark replay switch {ready}` lets it answer; \
             to have it all counted anew, `tidemark replay drop {ready}` first"
        );
    }
    let filling = Filling { max_per_second: rate.unwrap_or(0), max_lag, raw_alone: raw };
    let (rules, known) = declare(archive, generations, &wanted, filling, since).await?;
    let (live, generation) = (generations.live(), rules.generation);
    let (old, new) = (Arc::new(archive.history(Arc::clone(live)).await?), Arc::new(archive.history(Arc::clone(&rules)).await?));
    [&old, &new].into_iter().for_each(|history| history.gently(true));
    let admin = kafka.admin()?;
    say_sources(found, &rules, known, raw, &old.begun().await?, &admin.extents().await?);
    let old_positions = kafka.group_positions(&config.kafka.batch_group(live))?;
    let own = rules.widens.is_none().then(|| kafka.group_positions(&config.kafka.batch_group(&rules)));
    let rebuilding = Rebuilding { archive, admin: &admin, old_positions, new_positions: own.transpose()?, old, new };
    let mut telling = Telling::new(*json);
    let verdict = tokio::select! {
        compared = rebuilding.until_compared(|progress| telling.show(progress)) => compared?,
        () = stop_signal() => {
            telling.end();
            println!("generation {generation} is filled on; the same command goes on watching, `tidemark replay drop {generation}` gives it up");
            return Ok(());
        }
    };
    telling.end();
    if *json {
        println!("{}", json!({"generation": generation.0, "equal": verdict.is_equal(), "comparison": verdict}));
    } else {
        print!("{verdict}");
    }
    if !verdict.is_equal() && !accept_diff {
        bail!(
            "generation {generation} differs from generation {}, which goes on answering. If that is what the new rules are for, --accept-diff \
             lets it answer all the same; `tidemark replay drop {generation}` gives it up",
            live.generation
        );
    }
    archive.say(generation, State::Ready).await?;
    if no_switch {
        println!("generation {generation} is ready: tidemark replay switch {generation}");
        return Ok(());
    }
    found.let_answer(&rules).await?;
    println!(
        "generation {generation} answers. Back to generation {}: tidemark replay rollback. Once it is not needed any more: tidemark replay drop {}",
        live.generation, live.generation
    );
    Ok(())
}

/// What will be read from where.
fn say_sources(
    found: &Found,
    rules: &Rules,
    known: bool,
    raw: bool,
    begun: &tidemark_history::Marks,
    extents: &std::collections::BTreeMap<tidemark_core::offset::Partition, tidemark_topic::Extent>,
) {
    if found.json {
        return;
    }
    let live = found.generations.live();
    let (generation, text, before) = (rules.generation, rules.text(), live.text());
    match known {
        true => println!("generation {generation} was begun before, and is filled on"),
        false => println!("generation {generation} is filled, while generation {} answers", live.generation),
    }
    match text == before {
        true => println!("  by the same rules: {text}"),
        false => println!("  rules before: {before}\n  rules now:    {text}"),
    }
    if rules.widens.is_some() {
        let views: Vec<&str> = rules.kept().map(|view| rules.views.get(view).name()).collect();
        println!("  written is nothing but {}, from raw history; to compare, all is counted once more:", views.join(", "));
    }
    let bits = live.epoch_bits;
    let gone: Vec<String> = extents
        .iter()
        .map(|(partition, extent)| (partition, begun.get(partition).map_or(0, |mark| mark.position(bits).get()), extent.start.get()))
        .filter(|(_, from, start)| from < start)
        .map(|(partition, from, start)| format!("{partition}:{from}-{start}"))
        .collect();
    match (raw, gone.is_empty()) {
        (true, _) => println!("  from raw history, and from the topic what history has not closed yet"),
        (false, true) => println!("  from the topic"),
        (false, false) => println!("  from the topic, and from raw history what the topic no longer has: {}", gone.join(", ")),
    }
}

/// Shows progress: a bar to people, lines to others.
struct Telling {
    json: bool,
    bar: ProgressBar,
    said: Option<tokio::time::Instant>,
}

impl Telling {
    fn new(json: bool) -> Self {
        let bar = if !json && std::io::stderr().is_terminal() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        Self { json, bar, said: None }
    }

    fn show(&mut self, progress: &Progress) {
        if self.json {
            println!("{}", serde_json::to_string(progress).unwrap_or_default());
        } else if self.bar.is_hidden() {
            if self.said.is_none_or(|at| at.elapsed() >= LINE_EVERY) {
                self.said = Some(tokio::time::Instant::now());
                println!("{progress}");
            }
        } else {
            self.bar.set_message(progress.to_string());
            self.bar.tick();
        }
    }

    fn end(&self) {
        self.bar.finish_and_clear();
    }
}

pub async fn status(place: Place) -> Result<()> {
    let found = Found::at(place, "replay status").await?;
    let mut all = Vec::new();
    for known in found.generations.all() {
        let state = match known.state {
            State::Building(_) => "is being filled",
            State::Ready => "is ready",
            State::Live => "answers",
            State::Dropped => "has been dropped",
        };
        let (generation, rules) = (known.rules.generation.0, known.rules.text());
        if found.json {
            all.push(json!({"generation": generation, "state": known.state.name(), "rules": rules}));
        } else {
            println!("generation {generation} {state}: {rules}");
        }
    }
    if found.json {
        println!("{}", json!(all));
    }
    Ok(())
}

pub async fn switch(Chosen { generation, place }: Chosen) -> Result<()> {
    let found = Found::at(place, "replay switch").await?;
    let known = found.known(generation)?;
    match known.state {
        State::Ready => {}
        State::Live => bail!("generation {generation} answers already"),
        State::Building(_) => {
            bail!("generation {generation} has not been compared yet: `tidemark replay rebuild` with its configuration does it")
        }
        State::Dropped => bail!("generation {generation} has been dropped"),
    }
    found.let_answer(&known.rules).await?;
    println!("generation {generation} answers");
    Ok(())
}

pub async fn rollback(place: Place) -> Result<()> {
    let found = Found::at(place, "replay rollback").await?;
    let before = found.generations.before().context("no other generation has answered before, or it has been dropped")?;
    let (now, generation) = (found.generations.live().generation, before.generation);
    found.let_answer(before).await?;
    println!("generation {generation} answers again. Forward: tidemark replay switch {now}");
    Ok(())
}

pub async fn drop(Chosen { generation, place }: Chosen) -> Result<()> {
    let found = Found::at(place, "replay drop").await?;
    let Found { config, kafka, archive, generations, .. } = &found;
    let rules = &found.known(generation)?.rules;
    if generations.live().generation == rules.generation {
        bail!("generation {generation} answers: it cannot be dropped");
    }
    if let Some((building, _)) = generations.building().filter(|(building, _)| building.generation != rules.generation) {
        bail!("generation {} is being filled, perhaps from this one's raw history: wait for it, or drop it first", building.generation);
    }
    archive.say(rules.generation, State::Dropped).await?;
    eprintln!("waiting until the layers have left generation {generation}, up to {} s", SEEN_WITHIN.as_secs());
    // The layers leave their groups when they have seen it.
    let until = tokio::time::Instant::now() + SEEN_WITHIN;
    let is_shared = |known: &Known| known.rules.generation != rules.generation && known.rules.raw() == rules.raw();
    let batch = (!generations.standing().any(is_shared)).then(|| config.kafka.batch_group(rules));
    for group in batch.into_iter().chain([config.kafka.speed_group(rules)]) {
        let positions = kafka.group_positions(&group)?;
        while positions.members().await? > 0 {
            if tokio::time::Instant::now() > until {
                bail!(
                    "processes are still in the group {group}: once they have left or been restarted, the same command deletes the tables"
                );
            }
            tokio::time::sleep(LOOK).await;
        }
    }
    archive.drop(rules, generations).await?;
    if let Some(store) = parts::open_snapshots(config, rules).await? {
        for partition in kafka.admin()?.extents().await?.keys() {
            store.forget(*partition).await?;
        }
    }
    println!("generation {generation} has been dropped");
    Ok(())
}
