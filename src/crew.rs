//! A process's parts, for each generation that history has: started when one is declared, stopped when one is dropped, and
//! the one that answers shown. Generations that share raw events have one batch layer in common.
//!
//! Nobody is told to switch: every process looks at what history says of its generations, and follows.

use crate::config::Config;
use crate::parts::{self, Ground, Servers, Threads, TopicFollower};
use anyhow::{Context as _, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;
use tidemark_batch_layer::Batch;
use tidemark_core::generation::Generation;
use tidemark_history::clickhouse::ClickHouse;
use tidemark_history::generations::{Filling, Generations, Known, State};
use tidemark_metrics::{Collector, DescriptorEncoder, Page, Registry};
use tidemark_replay::whole::Throttle;
use tidemark_topic::kafka::Kafka;
use tokio::sync::watch;
use tokio::time::Instant;

/// Between two looks at how far behind the generation is that answers.
const TICK: Duration = Duration::from_millis(250);

/// Ticks between two looks at the generations.
const LOOK_EVERY: u32 = 4;

/// How long history may take to say it.
const PATIENCE: Duration = Duration::from_secs(5);

/// So long the generation that has answered goes on, while the new one cannot.
const SWITCH_WITHIN: Duration = Duration::from_secs(60);

/// How a process is a member of the batch layer's group.
pub struct Writer {
    /// The name that it keeps, if it does.
    pub instance: Option<String>,
    /// No other process can have that name.
    pub alone: bool,
}

/// What a process does for one generation.
pub trait Part: Send + Sync + Sized + 'static {
    /// `None` of a process that writes no history.
    fn writer(_: &Config) -> Option<Writer> {
        None
    }

    fn start(config: &Config, ground: &Ground, batch: &Batch, threads: &mut Threads) -> impl Future<Output = Result<Self>> + Send;

    /// It can do what the generation that answers must.
    fn is_ready(&self) -> bool;

    /// Records that its layers are behind the topic.
    fn lag(&self) -> u64;

    /// What it tells Prometheus.
    fn register(&self, registry: &mut Registry);

    /// Its layers let others go before, or not.
    fn gently(&self, gentle: bool);

    /// Tells its layers to stop.
    fn stop(&self);
}

/// What a process shows of itself.
pub struct Shown<P> {
    /// The part of the generation that answers.
    pub live: Arc<P>,
    /// The others.
    pub others: Vec<(Arc<P>, State)>,
    pub registry: Arc<Registry>,
}

impl<P> Clone for Shown<P> {
    fn clone(&self) -> Self {
        Self { live: Arc::clone(&self.live), others: self.others.clone(), registry: Arc::clone(&self.registry) }
    }
}

struct Running<P> {
    part: Arc<P>,
    threads: Threads,
    history: Arc<ClickHouse>,
    topic: TopicFollower,
    throttle: Arc<Throttle>,
}

/// A batch layer at work.
struct Writing {
    batch: Batch,
    threads: Threads,
    /// Of a process that writes any.
    history: Option<Arc<ClickHouse>>,
    throttle: Arc<Throttle>,
}

/// All parts of this process.
pub struct Crew<P> {
    config: Config,
    servers: Servers,
    generations: Generations,
    running: BTreeMap<Generation, Running<P>>,
    /// By the generation that has the raw events.
    writing: BTreeMap<Generation, Writing>,
    live: Generation,
    /// When a generation went live that is not shown yet.
    waiting: Option<Instant>,
    shown: watch::Sender<Shown<P>>,
}

impl<P: Part> Crew<P> {
    /// Starts the parts of all generations. That of the one that answers must start; an answer of another one would be called gone
    /// while its part is not there.
    pub async fn start(config: Config, servers: Servers) -> Result<Self> {
        let generations = parts::generations(&config, &servers.archive).await?;
        let live = generations.live().generation;
        let known = generations.get(live).context("the generation that answers is unknown")?;
        let writing = Writing::start::<P>(&config, &servers, &generations, known.rules.raw()).await?;
        let first = Running::start(&config, &servers, &generations, known, &writing.batch).await?;
        // Others that start now say the same at the same time.
        if let Err(error) = servers.archive.show(&known.rules).await {
            tracing::warn!("the views for people could not be made, another start will: {error}");
        }
        let shown = watch::Sender::new(Shown { live: Arc::clone(&first.part), others: Vec::new(), registry: registry(&*first.part, live) });
        let writing = BTreeMap::from([(known.rules.raw(), writing)]);
        let running = BTreeMap::from([(live, first)]);
        let mut crew = Self { config, servers, generations, running, writing, live, waiting: None, shown };
        crew.adjust().await;
        Ok(crew)
    }

    pub fn shown(&self) -> watch::Receiver<Shown<P>> {
        self.shown.subscribe()
    }

    pub fn kafka(&self) -> Kafka {
        self.servers.kafka.clone()
    }

    /// Follows what history says, until the part of the generation that answers ends by itself; says why.
    pub async fn follow(&mut self) -> anyhow::Error {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        for n in 0u32.. {
            ticks.tick().await;
            if n % LOOK_EVERY == 0 {
                // While history does not answer, everything stays as it is.
                let looked = tokio::time::timeout(PATIENCE, self.servers.archive.generations()).await;
                if let Ok(Ok(Some(generations))) = looked {
                    self.generations = generations;
                    self.adjust().await;
                }
                self.look_for_damage().await;
                if let Err(error) = self.follow_topic().await {
                    return error.into();
                }
            }
            self.throttle();
            if let Some(error) = self.ended().await {
                return error;
            }
        }
        anyhow::anyhow!("the clock has stopped")
    }

    /// Fails if the topic is not the one any more that was counted. While Kafka does not answer, everything stays as it is.
    async fn follow_topic(&self) -> Result<(), tidemark_topic::Error> {
        let Some(running) = self.running.get(&self.live) else { return Ok(()) };
        match tokio::time::timeout(PATIENCE, running.topic.look()).await {
            Ok(Err(error @ tidemark_topic::Error::OtherTopic(_))) => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// So that no answer has to look. While history does not answer, what is known stands, and answers look for themselves.
    async fn look_for_damage(&self) {
        for running in self.running.values() {
            let _ = tokio::time::timeout(PATIENCE, running.history.look_for_damage()).await;
        }
    }

    async fn adjust(&mut self) {
        let standing: Vec<Known> = self.generations.standing().cloned().collect();
        for known in &standing {
            let generation = known.rules.generation;
            if self.running.contains_key(&generation) {
                continue;
            }
            match self.begin(known).await {
                Ok(running) => {
                    tracing::info!("generation {generation} is here: {}", known.rules.text());
                    self.running.insert(generation, running);
                }
                Err(error) => tracing::warn!("generation {generation} cannot be worked on now: {error:#}"),
            }
        }
        let live = self.generations.live().generation;
        if live != self.live {
            let since = *self.waiting.get_or_insert_with(Instant::now);
            if self.running.get(&live).is_some_and(|running| running.part.is_ready() || since.elapsed() > SWITCH_WITHIN) {
                tracing::info!("generation {live} answers now");
                (self.live, self.waiting) = (live, None);
            }
        }
        let gone: Vec<Generation> =
            self.running.keys().copied().filter(|of| standing.iter().all(|known| known.rules.generation != *of)).collect();
        for generation in gone {
            if generation != self.live
                && let Some(running) = self.running.remove(&generation)
            {
                tracing::info!("generation {generation} has been dropped");
                running.stop().await;
            }
        }
        self.rest().await;
        self.show();
    }

    async fn begin(&mut self, known: &Known) -> Result<Running<P>> {
        let raw = known.rules.raw();
        if !self.writing.contains_key(&raw) {
            self.writing.insert(raw, Writing::start::<P>(&self.config, &self.servers, &self.generations, raw).await?);
        }
        Running::start(&self.config, &self.servers, &self.generations, known, &self.writing[&raw].batch).await
    }

    /// Batch layers that no generation needs any more stop.
    async fn rest(&mut self) {
        let raw = |generation| self.generations.get(generation).map(|known| known.rules.raw());
        let needed: BTreeSet<Generation> = self.running.keys().copied().filter_map(raw).collect();
        let gone: Vec<Generation> = self.writing.keys().copied().filter(|raw| !needed.contains(raw)).collect();
        for writing in gone.iter().filter_map(|raw| self.writing.remove(raw)).collect::<Vec<_>>() {
            writing.stop().await;
        }
    }

    /// What is shown has changed, or not.
    fn show(&self) {
        let Some(live) = self.running.get(&self.live) else { return };
        let state = |generation| self.generations.get(generation).map_or(State::Dropped, |known| known.state);
        let others = self.running.iter().filter(|(generation, _)| **generation != self.live);
        let others: Vec<(Arc<P>, State)> = others.map(|(&of, running)| (Arc::clone(&running.part), state(of))).collect();
        self.shown.send_if_modified(|shown| {
            let same = |a: &(Arc<P>, State), b: &(Arc<P>, State)| Arc::ptr_eq(&a.0, &b.0) && a.1 == b.1;
            let as_before = Arc::ptr_eq(&shown.live, &live.part)
                && shown.others.len() == others.len()
                && shown.others.iter().zip(&others).all(|(a, b)| same(a, b));
            if !Arc::ptr_eq(&shown.live, &live.part) {
                shown.registry = registry(&*live.part, self.live);
            }
            (shown.live, shown.others) = (Arc::clone(&live.part), others);
            !as_before
        });
    }

    /// Lets the one that is being filled read as fast as it may, and ask one thing of history at a time, so that answers and
    /// what has just come in go before.
    fn throttle(&self) {
        let lag = self.running.get(&self.live).map_or(0, |running| running.part.lag());
        let filling = |generation| match self.generations.get(generation).map(|known| known.state) {
            Some(State::Building(filling)) => Some(filling),
            _ => None,
        };
        let set = |throttle: &Throttle, filling: Option<Filling>| {
            let filling = filling.unwrap_or_default();
            throttle.allow(filling.max_per_second);
            throttle.hold(filling.max_lag > 0 && lag > filling.max_lag);
        };
        for (generation, running) in &self.running {
            let filling = filling(*generation);
            running.part.gently(filling.is_some());
            running.history.gently(filling.is_some());
            set(&running.throttle, filling);
        }
        for (raw, writing) in &self.writing {
            let filling = filling(*raw);
            writing.batch.control.gently(filling.is_some());
            writing.history.iter().for_each(|history| history.gently(filling.is_some()));
            set(&writing.throttle, filling);
        }
    }

    /// Why the part of the generation that answers has ended, if it has, or its batch layer. Any other begins again.
    async fn ended(&mut self) -> Option<anyhow::Error> {
        let raw = |generation| self.generations.get(generation).map_or(generation, |known| known.rules.raw());
        let writers = self.writing.iter_mut().filter_map(|(&raw, writing)| Some((raw, writing.threads.has_ended()?)));
        let writers: Vec<(Generation, anyhow::Error)> = writers.collect();
        let parts = self.running.iter_mut().filter_map(|(&generation, running)| Some((generation, running.threads.has_ended()?)));
        let mut ended: Vec<(Generation, anyhow::Error)> = parts.collect();
        for (of, error) in writers {
            if of == raw(self.live) {
                return Some(error);
            }
            tracing::warn!("the batch layer of generation {of}: {error:#}");
            // It begins again with those that need it.
            let gone = self.running.keys().copied().filter(|generation| raw(*generation) == of);
            ended.extend(gone.map(|generation| (generation, anyhow::anyhow!("its batch layer has ended"))));
        }
        for (generation, error) in ended {
            if generation == self.live {
                return Some(error);
            }
            tracing::warn!("generation {generation}: {error:#}");
            if let Some(running) = self.running.remove(&generation) {
                running.stop().await;
            }
        }
        self.rest().await;
        None
    }

    /// Stops all parts, and waits for their threads.
    pub async fn stop(self) {
        self.running.values().for_each(|running| running.part.stop());
        self.writing.values().for_each(|writing| writing.batch.control.stop());
        for running in self.running.into_values() {
            running.stop().await;
        }
        for writing in self.writing.into_values() {
            writing.stop().await;
        }
    }
}

impl<P: Part> Running<P> {
    async fn start(config: &Config, servers: &Servers, generations: &Generations, known: &Known, batch: &Batch) -> Result<Self> {
        let (throttle, mut threads) = (Arc::new(Throttle::default()), Threads::default());
        let ground = servers.ground(config, generations, known, Arc::clone(&throttle)).await?;
        let part = Arc::new(P::start(config, &ground, batch, &mut threads).await?);
        Ok(Self { part, threads, history: ground.history, topic: ground.topic, throttle })
    }

    async fn stop(self) {
        self.part.stop();
        joined(self.threads).await;
    }
}

impl Writing {
    /// The batch layer of the generations that share one's raw events; where this process writes none, one that stands still.
    async fn start<P: Part>(config: &Config, servers: &Servers, generations: &Generations, raw: Generation) -> Result<Self> {
        let (batch, throttle, mut threads) = (Batch::default(), Arc::new(Throttle::default()), Threads::default());
        let mut history = None;
        if let Some(writer) = P::writer(config) {
            let known = generations.get(raw).context("the generation that has the raw events is unknown")?;
            let ground = servers.ground(config, generations, known, Arc::clone(&throttle)).await?;
            parts::start_batch(config, &ground, writer, batch.clone(), &mut threads)?;
            history = Some(ground.history);
        }
        Ok(Self { batch, threads, history, throttle })
    }

    async fn stop(self) {
        self.batch.control.stop();
        joined(self.threads).await;
    }
}

async fn joined(threads: Threads) {
    if tokio::task::spawn_blocking(move || threads.join()).await.is_err() {
        tracing::error!("a generation's threads could not be waited for");
    }
}

fn registry<P: Part>(part: &P, generation: Generation) -> Arc<Registry> {
    let mut registry = Registry::default();
    part.register(&mut registry);
    registry.register_collector(Box::new(Answers(generation)));
    Arc::new(registry)
}

/// The generation of what else is told.
#[derive(Debug)]
struct Answers(Generation);

impl Collector for Answers {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let help = "The generation that answers, and that the figures of layers are of";
        Page(encoder).gauge(("tidemark_generation", help), u64::from(self.0.0))
    }
}
