//! The parts that processes are made of, each wired the same way wherever it runs.

use crate::config::Config;
use crate::crew::Writer;
use crate::exit::Exit;
use crate::input;
use anyhow::{Context as _, Result, anyhow};
use std::sync::Arc;
use std::time::Duration;
use tidemark_batch_layer::Batch;
use tidemark_core::cut::Cut;
use tidemark_core::generation::Rules;
use tidemark_history::History;
use tidemark_history::clickhouse::{Archive, ClickHouse};
use tidemark_history::generations::{Filling, Generations, Known, State};
use tidemark_replay::whole::{Source, Throttle, WholeLog};
use tidemark_serving::admission::Admission;
use tidemark_serving::engine::{Engine, Layers};
use tidemark_serving::live::Live;
use tidemark_snapshot::Store;
use tidemark_speed_layer::Speed;
use tidemark_speed_layer::reread::LogYard;
use tidemark_topic::kafka::{Admin, ConsumerOptions, GroupPositions, Kafka, KafkaConsumer};
use tidemark_topic::{Control, Membership, PartitionCount};
use tokio::sync::{mpsc, watch};

/// How long an engine may take to answer at the start.
const START_DEADLINE: Duration = Duration::from_secs(60);

/// Between two questions how far the batch layer is, where it runs elsewhere.
const FOLLOW_EVERY: Duration = Duration::from_millis(250);

/// Before a layer joins its group again.
const REJOIN_PAUSE: Duration = Duration::from_secs(1);

/// The same where the user has lost a right.
const FORBIDDEN_PAUSE: Duration = Duration::from_secs(4);

/// The threads of a process's layers.
pub struct Threads {
    say: mpsc::Sender<anyhow::Error>,
    /// A layer that ends by itself says why; every one is a reason to stop.
    ended: mpsc::Receiver<anyhow::Error>,
    running: Vec<std::thread::JoinHandle<()>>,
}

impl Default for Threads {
    fn default() -> Self {
        let (say, ended) = mpsc::channel(2);
        Self { say, ended, running: Vec::new() }
    }
}

impl Threads {
    fn start(&mut self, name: &str, work: impl FnOnce() -> Result<()> + Send + 'static) -> Result<()> {
        let say = self.say.clone();
        let body = move || {
            let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let error = match done {
                Ok(Ok(())) => return,
                Ok(Err(error)) => error,
                Err(_) => anyhow!("a layer panicked; the log has the place"),
            };
            // Only the first one matters: it stops the process.
            let _ = say.blocking_send(error);
        };
        self.running.push(std::thread::Builder::new().name(name.to_owned()).spawn(body).context("starting a thread")?);
        Ok(())
    }

    /// Starts a task that ends with the layer. If it panics, the layer has ended by itself.
    pub fn spawn(&self, name: &'static str, task: impl Future<Output = ()> + Send + 'static) {
        let (say, task) = (self.say.clone(), tokio::spawn(task));
        tokio::spawn(async move {
            if task.await.is_err_and(|error| error.is_panic()) {
                let _ = say.send(anyhow!("the task for {name} panicked; the log has the place")).await;
            }
        });
    }

    /// Why a layer has ended by itself, if one has by now.
    pub fn has_ended(&mut self) -> Option<anyhow::Error> {
        self.ended.try_recv().ok()
    }

    /// Waits for the ends of layers that have been told to stop. Blocks.
    pub fn join(self) {
        for thread in self.running {
            if thread.join().is_err() {
                tracing::error!("a layer's thread panicked while stopping");
            }
        }
    }
}

/// Refuses to run a part that shares the work of others without the servers that they share.
pub fn need_servers(config: &Config, role: &str, redis: bool) -> Result<()> {
    let missing = |what: &str| {
        Exit::Usage.because(format!("{role} works with others on servers of their own: {what} (`tidemark up` brings its own along)"))
    };
    if config.kafka.bootstrap.is_empty() {
        return Err(missing("name a Kafka with --kafka HOST:PORT or kafka.bootstrap"));
    }
    if config.clickhouse.url.is_empty() {
        return Err(missing("name a ClickHouse with --clickhouse URL or clickhouse.url"));
    }
    if redis && config.redis.urls.is_empty() {
        return Err(missing("name a Redis with --redis URL or redis.urls"));
    }
    Ok(())
}

/// The servers that parts work with, found and made ready: the topic is there, and so are the tables that all generations
/// share.
pub struct Servers {
    pub kafka: Kafka,
    admin: Admin,
    partitions: PartitionCount,
    pub archive: Archive,
    admission: Arc<Admission>,
}

impl Servers {
    pub async fn open(config: &Config, kafka: &str, clickhouse: &str) -> Result<Self> {
        let (kafka, archive) = (config.kafka.connect(kafka), open_archive(config, clickhouse).await?);
        let partitions = PartitionCount::new(input::ensure_topic(config, &kafka, &archive).await?);
        let admission = Arc::new(config.serving.admission());
        Ok(Self { admin: kafka.admin()?, kafka, partitions, archive, admission })
    }

    /// Those that run elsewhere, by the configuration.
    pub async fn elsewhere(config: &Config) -> Result<Self> {
        Self::open(config, &config.kafka.bootstrap, &config.clickhouse.url).await
    }

    /// What a generation's parts work with, with its tables made.
    pub async fn ground(&self, config: &Config, generations: &Generations, known: &Known, throttle: Arc<Throttle>) -> Result<Ground> {
        let raw = generations.get(known.rules.raw()).context("the generation that has the raw events is unknown")?;
        let identity = input::settle(config, &self.kafka, &self.admin, &self.archive, &raw.rules).await?;
        let history = Arc::new(self.archive.history(Arc::clone(&known.rules)).await?);
        let source = match known.state {
            State::Building(Filling { raw_alone: alone, .. }) => {
                let rules = Arc::clone(generations.live());
                let history = Arc::new(self.archive.history(Arc::clone(&rules)).await?);
                history.gently(true);
                let begun = history.begun().await?;
                Some(Arc::new(Source { history, rules, begun, alone }))
            }
            State::Ready | State::Live | State::Dropped => None,
        };
        let (rules, partitions) = (Arc::clone(&known.rules), self.partitions.clone());
        let topic = TopicFollower { admin: self.admin.expecting(identity), partitions: partitions.clone() };
        let kafka = topic.admin.kafka().clone();
        let admission = Arc::clone(&self.admission);
        Ok(Ground { rules, kafka, topic, partitions, history, source, throttle, admission })
    }
}

/// Looks at the topic from time to time. Clones share what was found.
#[derive(Clone)]
pub struct TopicFollower {
    admin: Admin,
    partitions: PartitionCount,
}

impl TopicFollower {
    /// Takes in how many partitions there are by now. Fails with `OtherTopic` if the topic has been replaced.
    pub async fn look(&self) -> Result<(), tidemark_topic::Error> {
        let found = self.admin.describe().await?;
        if self.partitions.raise(found.partitions) {
            tracing::info!("the topic has {} partitions now", found.partitions);
        }
        Ok(())
    }
}

/// What one generation's parts work with.
pub struct Ground {
    pub rules: Arc<Rules>,
    /// Its consumers refuse another topic of the name.
    pub kafka: Kafka,
    pub topic: TopicFollower,
    pub partitions: PartitionCount,
    pub history: Arc<ClickHouse>,
    /// While it is being filled.
    source: Option<Arc<Source>>,
    throttle: Arc<Throttle>,
    admission: Arc<Admission>,
}

impl Ground {
    /// H where the batch layer runs elsewhere: what its group has committed.
    pub fn follow(&self, config: &Config, threads: &Threads) -> Result<watch::Receiver<Cut>> {
        let positions = self.kafka.group_positions(&config.kafka.batch_group(&self.rules))?;
        Ok(follow(positions, self.partitions.clone(), threads))
    }

    /// Makes consumers of the topic, as far back as this generation must read.
    fn connect(
        &self,
    ) -> impl Fn(&Kafka, Membership, ConsumerOptions) -> Result<Log, tidemark_topic::Error> + Clone + Send + Sync + 'static {
        let (source, throttle, partitions) = (self.source.clone(), Arc::clone(&self.throttle), self.partitions.clone());
        let runtime = tokio::runtime::Handle::current();
        move |kafka, membership, options| {
            let log = kafka.consumer(membership, options)?;
            Ok(WholeLog::new(log, source.clone(), Arc::clone(&throttle), runtime.clone(), partitions.clone()))
        }
    }
}

type Log = WholeLog<KafkaConsumer>;

pub async fn open_archive(config: &Config, url: &str) -> Result<Archive> {
    let server = config.serving.bounding(config.clickhouse.server(url));
    let deadline = tokio::time::Instant::now() + START_DEADLINE;
    loop {
        match Archive::open(&server, &config.kafka.topic).await {
            Err(error @ tidemark_history::Error::Unavailable { .. }) if tokio::time::Instant::now() < deadline => {
                tracing::info!("waiting for ClickHouse: {error}");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
            opened => return Ok(opened?),
        }
    }
}

/// The generations of this history; where there are none, the configuration's rules are the first one's. Refuses a
/// configuration by which none of them counts.
pub async fn generations(config: &Config, archive: &Archive) -> Result<Generations> {
    let ours = config.rules()?;
    let generations = match archive.generations().await? {
        Some(generations) => generations,
        None => {
            archive.declare(&ours).await?;
            archive.generations().await?.context("the generation that has been declared is not there")?
        }
    };
    let live = generations.live();
    match generations.by_rules(&ours.text()) {
        None => return Err(Exit::Refused.because(format!(
            "this history was counted by other rules, and counts of two kinds must not be mixed.\n  history: {}\n  config:  {}\n\
             `tidemark apply` with this configuration does what that needs beside it, while it answers (`tidemark plan` says what, and how long it takes); or restore the settings",
            live.text(),
            ours.text()
        ))),
        Some(known) if known.rules.generation != live.generation => tracing::warn!(
            "the configuration has the rules of generation {}, but generation {} answers, which counts by: {}",
            known.rules.generation,
            live.generation,
            live.text()
        ),
        Some(_) => {}
    }
    Ok(generations)
}

/// The snapshots in Redis, if there is one. That it does not answer now is no reason not to start, but that it would not
/// do is.
pub async fn open_snapshots(config: &Config, rules: &Rules) -> Result<Option<Arc<Store>>> {
    if config.redis.urls.is_empty() {
        return Ok(None);
    }
    let server = config.redis.server()?;
    let store = Store::new(&server, &config.kafka.group, &config.kafka.topic, rules.generation, rules.views.clone())?;
    match store.check().await {
        Err(error @ tidemark_snapshot::Error::Unavailable { .. }) => tracing::warn!("{error}; going on without it until it does"),
        checked => checked?,
    }
    Ok(Some(Arc::new(store)))
}

/// What answers for a generation.
pub fn engine(config: &Config, ground: &Ground, live: Live, reached: watch::Receiver<Cut>, layers: Layers) -> Arc<Engine> {
    let (rules, history, topic) = (Arc::clone(&ground.rules), Arc::clone(&ground.history), config.kafka.topic.clone());
    let engine = Engine::new(rules, topic, ground.partitions.clone(), live, reached, history, layers);
    Arc::new(engine.with_lateness(config.serving.lateness()).admitted_by(Arc::clone(&ground.admission)))
}

/// Starts to count: a thread for each membership, the task that closes epochs, and the one that writes snapshots.
/// `reached` is H.
pub fn start_speed(
    config: &Config,
    ground: &Ground,
    memberships: Vec<Membership>,
    store: Option<Arc<Store>>,
    reached: &watch::Receiver<Cut>,
    threads: &mut Threads,
) -> Result<Arc<Speed>> {
    let Ground { rules, kafka, history, .. } = ground;
    let connect = ground.connect();
    let mut speed = Speed::new(Arc::clone(rules)).bounded(config.speed.max_open_events);
    if let Some(store) = &store {
        speed = speed.with_snapshots(Arc::clone(store));
    }
    let speed = Arc::new(speed);
    speed.control.throttled_as(kafka.throttled());
    let options =
        ConsumerOptions { queued_kbytes: config.kafka.queued_kbytes, traced: tidemark_traces::is_on(), ..ConsumerOptions::default() };
    for membership in memberships {
        let (kafka, options, handle) = (patient(kafka), options.clone(), tokio::runtime::Handle::current());
        let connect = connect.clone();
        let (speed, history, reached) = (Arc::clone(&speed), Arc::clone(history), reached.clone());
        let control = speed.control.part();
        let count = move || -> Result<(), tidemark_topic::Error> {
            let consumer = connect(&kafka, membership.clone(), options.clone())?;
            tidemark_speed_layer::run::run(consumer, &*history, reached.clone(), &speed, &handle)
        };
        threads.start("speed", move || rejoining(&control, false, count).context("the speed layer ended"))?;
    }
    let connect = {
        let kafka = kafka.clone();
        move || connect(&kafka, Membership::all(), ConsumerOptions { traced: false, ..options.clone() })
    };
    let connect = Arc::new(connect);
    let yard = || LogYard {
        rules: Arc::clone(rules),
        history: Arc::clone(history) as Arc<dyn History>,
        connect: Arc::clone(&connect),
        admin: Some(ground.topic.admin.clone()),
    };
    let audit = tidemark_speed_layer::audit::audit_closed(Arc::clone(&speed), history.clone(), yard(), config.audit()?);
    threads.spawn("auditing closed epochs", audit);
    threads.spawn("closing epochs", tidemark_speed_layer::run::close_epochs(Arc::clone(&speed), history.clone(), yard(), reached.clone()));
    if let Some(store) = store {
        threads.spawn("publishing snapshots", tidemark_speed_layer::publish::publish(Arc::clone(&speed), store, config.speed.tick()));
    }
    Ok(speed)
}

/// Starts to write history.
pub fn start_batch(config: &Config, ground: &Ground, writer: Writer, batch: Batch, threads: &mut Threads) -> Result<()> {
    let Writer { instance, alone } = writer;
    let (history, rules, mut limits) = (Arc::clone(&ground.history), Arc::clone(&ground.rules), config.block_limits()?);
    if alone {
        // There is nobody to give partitions to.
        limits.give_up_after = Duration::MAX;
    }
    let connect = ground.connect();
    let (kafka, membership) = (patient(&ground.kafka), config.kafka.membership(&config.kafka.batch_group(&rules), instance));
    let options =
        ConsumerOptions { queued_kbytes: config.kafka.queued_kbytes, traced: tidemark_traces::is_on(), ..ConsumerOptions::default() };
    let (control, handle) = (batch.control.clone(), tokio::runtime::Handle::current());
    control.throttled_as(kafka.throttled());
    let run = move || -> Result<(), Stopped> {
        await_history(&history, &batch.control, &handle);
        let consumer = connect(&kafka, membership.clone(), options.clone())?;
        let (history, rules) = (Arc::clone(&history), Arc::clone(&rules));
        Ok(tidemark_batch_layer::run(consumer, history, rules, limits, batch.clone(), handle.clone())?)
    };
    threads.start("batch", move || rejoining(&control, alone, run).context("the batch layer ended"))
}

/// Before a batch layer joins its group: partitions that it cannot write are others'. Blocks.
fn await_history(history: &ClickHouse, control: &Control, runtime: &tokio::runtime::Handle) {
    while !control.is_stopping() {
        match runtime.block_on(history.marks()) {
            Err(error @ tidemark_history::Error::Unavailable { .. }) => {
                control.trouble(Some(format!("the batch layer is not in its group, for history does not answer: {error}")));
            }
            _ => return,
        }
        std::thread::sleep(REJOIN_PAUSE);
    }
}

/// What ends a layer.
#[derive(Debug, thiserror::Error)]
enum Stopped {
    #[error(transparent)]
    Log(#[from] tidemark_topic::Error),
    #[error(transparent)]
    Batch(tidemark_batch_layer::run::Error),
}

impl From<tidemark_batch_layer::run::Error> for Stopped {
    fn from(error: tidemark_batch_layer::run::Error) -> Self {
        match error {
            tidemark_batch_layer::run::Error::Log(error) => Self::Log(error),
            other => Self::Batch(other),
        }
    }
}

/// Runs a layer, and again under a new membership where the old one is lost for good. A broker that is killed can
/// have given this member a new id in an answer that never came, and then fences it by its own name; it can also go away
/// in the middle of an assignment. Where the broker is the embedded one, nobody else can have the name; elsewhere being
/// fenced means that another process has it, and ends this one.
fn rejoining<E: Into<Stopped>>(control: &Control, alone: bool, run: impl Fn() -> Result<(), E>) -> Result<(), Stopped> {
    use tidemark_topic::Error::{Forbidden, NoSuchTopic, Refused, Unavailable};
    loop {
        match run().map_err(Into::into) {
            // A broker that has just started does not know the topics yet. One that was deleted may come back; another topic of the
            // name is refused when it is looked at.
            Err(error @ Stopped::Log(Unavailable { .. } | NoSuchTopic { .. })) if !control.is_stopping() => {
                control.trouble(Some(format!("the layer stands still: {error}")));
            }
            Err(error @ Stopped::Batch(tidemark_batch_layer::run::Error::CutOff(_))) if !control.is_stopping() => {
                control.trouble(Some(format!("the layer gives its partitions to others: {error}")));
            }
            // Whoever withdrew a right may give it back. To ask for it again costs the brokers a connection each time.
            Err(error @ Stopped::Log(Forbidden { .. })) if !control.is_stopping() => {
                control.trouble(Some(format!("the layer stands still: {error}")));
                std::thread::sleep(FORBIDDEN_PAUSE);
            }
            Err(error @ Stopped::Log(Refused { .. })) if alone && !control.is_stopping() => {
                control.trouble(Some(format!("the layer stands still: {error}")));
            }
            ended => return ended,
        }
        std::thread::sleep(REJOIN_PAUSE);
    }
}

/// While history does not answer, a layer may wait for it and not poll; the session's heartbeat, not the pace of
/// polling, tells whether it lives.
fn patient(kafka: &Kafka) -> Kafka {
    let mut kafka = kafka.clone();
    kafka.client_options.entry("max.poll.interval.ms".into()).or_insert_with(|| "86400000".into());
    kafka
}

/// What the group has committed, as it moves. It goes back where an operator sets it back, or the group is lost: what was
/// known before is not in history any more.
fn follow(positions: GroupPositions, partitions: PartitionCount, threads: &Threads) -> watch::Receiver<Cut> {
    let (say, reached) = watch::channel(Cut::default());
    threads.spawn("following the batch layer", async move {
        let mut told = None;
        while !say.is_closed() {
            match positions.look(partitions.get()).await {
                Ok(found) => {
                    told = None;
                    say.send_if_modified(|cut| {
                        let found = found.into_iter().collect();
                        let has_moved = *cut != found;
                        *cut = found;
                        has_moved
                    });
                }
                Err(error) => {
                    let error = error.to_string();
                    if told.as_ref() != Some(&error) {
                        tracing::warn!("how far history is cannot be asked: {error}");
                    }
                    told = Some(error);
                }
            }
            tokio::time::sleep(FOLLOW_EVERY).await;
        }
    });
    reached
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn a_layer_outlives_brokers_that_do_not_know_the_topic_yet() {
        let (control, runs) = (Control::default(), Cell::new(0));
        let run = || {
            runs.set(runs.get() + 1);
            let unknown = tidemark_topic::Error::NoSuchTopic { topic: "events".into() };
            if runs.get() == 1 { Err(unknown) } else { Ok(()) }
        };
        rejoining(&control, false, run).expect("it goes on when the topic is back");
        assert_eq!(runs.get(), 2);
    }
}
