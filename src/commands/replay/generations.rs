//! `tidemark apply`, `tidemark replay rebuild`, `status`, `switch`, `rollback` and `drop`: the generations of a history.

use crate::commands::confirm::Confirmation;
use crate::commands::output::{Output, is_watched, print};
use crate::commands::{Place, stop_signal};
use crate::config::Config;
use crate::exit::Exit;
use crate::parts;
use anyhow::{Context as _, Result};
use indicatif::ProgressBar;
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;
use tidemark_client::Client;
use tidemark_core::cut::Cut;
use tidemark_core::generation::{Generation, Rules};
use tidemark_history::clickhouse::{Archive, ClickHouse};
use tidemark_history::generations::{Filling, Generations, Known, State};
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

/// One that is deleted.
#[derive(clap::Args)]
pub struct Dropped {
    #[command(flatten)]
    confirmation: Confirmation,
    #[command(flatten)]
    chosen: Chosen,
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
#[command(after_help = "Examples:
  tidemark replay rebuild --config new.toml
  tidemark replay rebuild --config new.toml --rate 200000 --no-switch --json")]
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
#[command(after_help = "Examples:
  tidemark apply --config new.toml
  tidemark apply --config new.toml --max-lag 20000 --no-switch")]
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
    api: Client,
    output: Output,
}

/// The history, and its generations.
async fn open(config: &Config, command: &str) -> Result<(Archive, Generations)> {
    if config.clickhouse.url.is_empty() {
        return Err(Exit::Usage.because(format!(
            "{command} wants the history: name its ClickHouse with --clickhouse URL, or with --data the directory of a `tidemark up` that runs"
        )));
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
        let (config, api, output) = place.find(command)?;
        let kafka = config.kafka.connect(&config.kafka.bootstrap);
        let (archive, generations) = open(&config, command).await?;
        Ok(Self { config, kafka, archive, generations, api, output })
    }

    /// Says which generation answers now, and what can be done next.
    fn tell_answering(&self, generation: Generation, text: impl std::fmt::Display) -> Result<()> {
        self.output.tell(&json!({"generation": generation.0, "state": State::Live.name()}), text)
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
        Err(Exit::Unreached.because(format!(
            "history says that generation {generation} answers, but that could not be seen: {trouble}; --url names a server to look at"
        )))
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
    found.output.print(&plan)?;
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
    let Found { config, kafka, archive, generations, output, .. } = found;
    let wanted = config.rules()?;
    if let Some(ready) = generations.standing().find(|known| known.state == State::Ready && known.rules.text() == wanted.text()) {
        let ready = ready.rules.generation;
        return Err(Exit::Refused.because(format!(
            "generation {ready} counts by this configuration, and is ready: `tidemark replay switch {ready}` lets it answer; \
             to have it all counted anew, `tidemark replay drop {ready}` first"
        )));
    }
    let filling = Filling { max_per_second: rate.unwrap_or(0), max_lag, raw_alone: raw };
    let (rules, known) = declare(archive, generations, &wanted, filling, since).await?;
    let (live, generation) = (generations.live(), rules.generation);
    let (old, new) = (Arc::new(archive.history(Arc::clone(live)).await?), Arc::new(archive.history(Arc::clone(&rules)).await?));
    [&old, &new].into_iter().for_each(|history| history.gently(true));
    let admin = kafka.admin()?;
    say_sources(found, &rules, known, raw, &old.begun().await?, &admin.extents().await?)?;
    let old_positions = kafka.group_positions(&config.kafka.batch_group(live))?;
    let own = rules.widens.is_none().then(|| kafka.group_positions(&config.kafka.batch_group(&rules)));
    let rebuilding = Rebuilding { archive, admin: &admin, old_positions, new_positions: own.transpose()?, old, new };
    let mut telling = Telling::new(*output);
    let verdict = tokio::select! {
        compared = rebuilding.until_compared(|progress| telling.show(progress)) => compared?,
        () = stop_signal() => {
            telling.end();
            return output.say(format_args!(
                "generation {generation} is filled on; the same command goes on watching, `tidemark replay drop {generation}` gives it up"
            ));
        }
    };
    telling.end();
    let compared = json!({"generation": generation.0, "equal": verdict.is_equal(), "comparison": verdict});
    output.tell(&compared, verdict.to_string().trim_end())?;
    if !verdict.is_equal() && !accept_diff {
        return Err(Exit::Found.because(format!(
            "generation {generation} differs from generation {}, which goes on answering. If that is what the new rules are for, --accept-diff \
             lets it answer all the same; `tidemark replay drop {generation}` gives it up",
            live.generation
        )));
    }
    archive.say(generation, State::Ready).await?;
    if no_switch {
        let ready = json!({"generation": generation.0, "state": State::Ready.name()});
        return output.tell(&ready, format_args!("generation {generation} is ready: tidemark replay switch {generation}"));
    }
    found.let_answer(&rules).await?;
    let text = format!(
        "generation {generation} answers. Back to generation {0}: tidemark replay rollback. Once it is not needed any more: tidemark replay drop {0}",
        live.generation
    );
    found.tell_answering(generation, text)
}

/// What will be read from where.
fn say_sources(
    found: &Found,
    rules: &Rules,
    known: bool,
    raw: bool,
    begun: &tidemark_history::Marks,
    extents: &std::collections::BTreeMap<tidemark_core::offset::Partition, tidemark_topic::Extent>,
) -> Result<()> {
    let output = found.output;
    let live = found.generations.live();
    let (generation, text, before) = (rules.generation, rules.text(), live.text());
    match known {
        true => output.say(format_args!("generation {generation} was begun before, and is filled on")),
        false => output.say(format_args!("generation {generation} is filled, while generation {} answers", live.generation)),
    }?;
    match text == before {
        true => output.say(format_args!("  by the same rules: {text}")),
        false => output.say(format_args!("  rules before: {before}\n  rules now:    {text}")),
    }?;
    if rules.widens.is_some() {
        let views: Vec<&str> = rules.kept().map(|view| rules.views.get(view).name()).collect();
        output
            .say(format_args!("  written is nothing but {}, from raw history; to compare, all is counted once more:", views.join(", ")))?;
    }
    let bits = live.epoch_bits;
    let gone: Vec<String> = extents
        .iter()
        .map(|(partition, extent)| (partition, begun.get(partition).map_or(0, |mark| mark.position(bits).get()), extent.start.get()))
        .filter(|(_, from, start)| from < start)
        .map(|(partition, from, start)| format!("{partition}:{from}-{start}"))
        .collect();
    match (raw, gone.is_empty()) {
        (true, _) => output.say(format_args!("  from raw history, and from the topic what history has not closed yet")),
        (false, true) => output.say(format_args!("  from the topic")),
        (false, false) => {
            output.say(format_args!("  from the topic, and from raw history what the topic no longer has: {}", gone.join(", ")))
        }
    }
}

/// Shows progress: a bar to people, lines to others.
struct Telling {
    output: Output,
    bar: ProgressBar,
    said: Option<tokio::time::Instant>,
}

impl Telling {
    fn new(output: Output) -> Self {
        let bar = if !output.is_json() && is_watched() { ProgressBar::new_spinner() } else { ProgressBar::hidden() };
        Self { output, bar, said: None }
    }

    /// That nobody reads it is no reason not to go on.
    fn show(&mut self, progress: &Progress) {
        if self.output.is_json() {
            let _ = serde_json::to_string(progress).map_err(anyhow::Error::from).and_then(print);
        } else if self.bar.is_hidden() {
            if self.said.is_none_or(|at| at.elapsed() >= LINE_EVERY) {
                self.said = Some(tokio::time::Instant::now());
                let _ = print(progress);
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
    let (mut all, mut lines) = (Vec::new(), Vec::new());
    for known in found.generations.all() {
        let state = match known.state {
            State::Building(_) => "is being filled",
            State::Ready => "is ready",
            State::Live => "answers",
            State::Dropped => "has been dropped",
        };
        let (generation, rules) = (known.rules.generation.0, known.rules.text());
        lines.push(format!("generation {generation} {state}: {rules}"));
        all.push(json!({"generation": generation, "state": known.state.name(), "rules": rules}));
    }
    found.output.tell(&all, lines.join("\n"))
}

pub async fn switch(Chosen { generation, place }: Chosen) -> Result<()> {
    let found = Found::at(place, "replay switch").await?;
    let known = found.known(generation)?;
    let refused = match known.state {
        State::Ready => None,
        State::Live => Some(format!("generation {generation} answers already")),
        State::Building(_) => {
            Some(format!("generation {generation} has not been compared yet: `tidemark replay rebuild` with its configuration does it"))
        }
        State::Dropped => Some(format!("generation {generation} has been dropped")),
    };
    if let Some(reason) = refused {
        return Err(Exit::Refused.because(reason));
    }
    found.let_answer(&known.rules).await?;
    found.tell_answering(known.rules.generation, format_args!("generation {generation} answers"))
}

pub async fn rollback(place: Place) -> Result<()> {
    let found = Found::at(place, "replay rollback").await?;
    let before = found.generations.before();
    let before = before.ok_or_else(|| Exit::Refused.because("no other generation has answered before, or it has been dropped"))?;
    let (now, generation) = (found.generations.live().generation, before.generation);
    found.let_answer(before).await?;
    found.tell_answering(generation, format_args!("generation {generation} answers again. Forward: tidemark replay switch {now}"))
}

pub async fn drop(Dropped { confirmation, chosen: Chosen { generation, place } }: Dropped) -> Result<()> {
    let found = Found::at(place, "replay drop").await?;
    let Found { config, kafka, archive, generations, output, .. } = &found;
    let rules = &found.known(generation)?.rules;
    if generations.live().generation == rules.generation {
        return Err(Exit::Refused.because(format!("generation {generation} answers: it cannot be dropped")));
    }
    if let Some((building, _)) = generations.building().filter(|(building, _)| building.generation != rules.generation) {
        return Err(Exit::Refused.because(format!(
            "generation {} is being filled, perhaps from this one's raw history: wait for it, or drop it first",
            building.generation
        )));
    }
    let what = format!(
        "Generation {generation} of the history in {}, database {}, will be deleted: there is no way back to it but to count everything anew.",
        config.clickhouse.place(),
        config.clickhouse.database
    );
    confirmation.of(&generation.to_string(), &what)?;
    archive.say(rules.generation, State::Dropped).await?;
    eprintln!("waiting until the layers have left generation {generation}, up to {} s", SEEN_WITHIN.as_secs());
    let is_shared = |known: &Known| known.rules.generation != rules.generation && known.rules.raw() == rules.raw();
    let batch = (!generations.standing().any(is_shared)).then(|| config.kafka.batch_group(rules));
    for group in batch.into_iter().chain([config.kafka.speed_group(rules)]) {
        must_be_left(kafka, &group).await?;
    }
    archive.drop(rules, generations).await?;
    if let Some(store) = parts::open_snapshots(config, rules).await? {
        for partition in kafka.admin()?.extents().await?.keys() {
            store.forget(*partition).await?;
        }
    }
    let dropped = json!({"generation": generation, "state": State::Dropped.name()});
    output.tell(&dropped, format_args!("generation {generation} has been dropped"))
}

/// Layers leave their groups when they have seen that their generation has been dropped.
async fn must_be_left(kafka: &Kafka, group: &str) -> Result<()> {
    let until = tokio::time::Instant::now() + SEEN_WITHIN;
    let positions = kafka.group_positions(group)?;
    while positions.members().await? > 0 {
        if tokio::time::Instant::now() > until {
            let reason = format!(
                "processes are still in the group {group}: once they have left or been restarted, the same command deletes the tables"
            );
            return Err(Exit::Unreached.because(reason));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}
