//! Live push: one task for each distinct query that somebody listens to, which asks the engine when something has moved, and
//! [`feed`], which its subscribers read.

pub mod feed;

use crate::answer::Source;
use crate::answering::Answering;
use crate::engine::{AnswerError, Engine};
use crate::plan::{Plan, PlanError, absolute, plan_text};
use feed::{Feed, Heard, Next, Text};
use parking_lot::Mutex;
use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;
use tidemark_metrics::{Collector, DescriptorEncoder, Page};
use tidemark_topic::now_ms;
use tokio::sync::watch;
use tokio::time::Instant;

/// Between two answers of a query at least: where open epochs answer, and where raw history does, which is dearer.
const PAUSE: Duration = Duration::from_millis(50);
const RAW_PAUSE: Duration = Duration::from_secs(5);

/// Between two looks whether the range, or what is final, has moved though nothing has come.
const LOOK: Duration = Duration::from_secs(1);

/// So long a query without subscribers is kept: somebody may come back.
const LINGER: Duration = Duration::from_secs(30);

/// How often something is sent, for proxies and for clients that listen whether they still hear.
const HEARTBEAT: Duration = Duration::from_secs(15);

/// Distinct queries that are listened to at a time, and rows of each.
const MOST_QUERIES: usize = 1_000;
const MOST_ROWS: usize = 50_000;

/// Before a client that was cut off comes back.
const COME_BACK_MS: u32 = 1_000;

/// All live queries of a process.
#[derive(Debug)]
pub struct Push {
    answering: Answering,
    queries: Mutex<HashMap<String, Arc<Query>>>,
    closed: watch::Sender<bool>,
    /// Answers that were computed.
    answers: AtomicU64,
}

/// One of them.
#[derive(Debug)]
struct Query {
    feed: Mutex<Feed>,
    /// Counts the events, and the troubles.
    moved: watch::Sender<u64>,
    /// Why there is no newer answer, in words.
    trouble: Mutex<Option<Text>>,
    subscribers: AtomicUsize,
}

/// Why a query cannot be listened to.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    #[error(transparent)]
    Plan(#[from] PlanError),
    #[error(transparent)]
    Answer(#[from] AnswerError),
    #[error("{MOST_QUERIES} different queries are listened to already; ask one of those, or /v1/query")]
    TooManyQueries,
    #[error(
        "the answer has {0} rows, and more than {MOST_ROWS} are not pushed; ask for a shorter range, a longer step or fewer dimensions"
    )]
    TooManyRows(usize),
}

impl Push {
    pub fn new(answering: Answering) -> Arc<Self> {
        Arc::new(Self { answering, queries: Mutex::default(), closed: watch::Sender::new(false), answers: AtomicU64::new(0) })
    }

    /// Ends all streams: the process stops, and another one may go on.
    pub fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Queries that are listened to, and how many listen.
    fn listened(&self) -> (usize, usize) {
        let queries = self.queries.lock();
        (queries.len(), queries.values().map(|query| query.subscribers.load(Ordering::Relaxed)).sum())
    }

    /// Listens to a query, from behind the event of an id on if that is still known, else from the whole answer on.
    pub async fn subscribe(self: &Arc<Self>, query: &str, last_id: Option<&str>) -> Result<Subscriber, PushError> {
        let known = self.queries.lock().get(query).cloned();
        let shared = match known {
            Some(shared) => shared,
            None => self.begin(query).await?,
        };
        shared.subscribers.fetch_add(1, Ordering::Relaxed);
        let (moved, closed) = (shared.moved.subscribe(), self.closed.subscribe());
        let at = last_id.and_then(|id| shared.feed.lock().behind(id));
        Ok(Subscriber { query: shared, at, moved, closed, greeted: false, trouble: None })
    }

    /// The first answer is waited for: what is wrong with a query is said with a status.
    async fn begin(self: &Arc<Self>, query: &str) -> Result<Arc<Query>, PushError> {
        let engine = self.answering.live();
        let asked = Asked::new(&engine, query)?;
        let heard = asked.ask(&engine).await?;
        if heard.answer.rows.len() > MOST_ROWS {
            return Err(PushError::TooManyRows(heard.answer.rows.len()));
        }
        let mut queries = self.queries.lock();
        if let Some(shared) = queries.get(query) {
            return Ok(Arc::clone(shared));
        }
        if queries.len() >= MOST_QUERIES {
            return Err(PushError::TooManyQueries);
        }
        let mut feed = Feed::default();
        feed.hear(heard);
        let (feed, moved, trouble) = (Mutex::new(feed), watch::Sender::new(0), Mutex::default());
        let shared = Arc::new(Query { feed, moved, trouble, subscribers: AtomicUsize::new(0) });
        queries.insert(query.to_owned(), Arc::clone(&shared));
        tokio::spawn(Arc::clone(self).follow(query.to_owned(), Arc::clone(&shared)));
        Ok(shared)
    }

    /// Keeps a query's feed up to date, while somebody listens.
    async fn follow(self: Arc<Self>, query: String, shared: Arc<Query>) {
        let mut wanted = Instant::now();
        let mut closed = self.closed.subscribe();
        while !*closed.borrow_and_update() {
            if shared.subscribers.load(Ordering::Relaxed) > 0 {
                wanted = Instant::now();
            }
            if wanted.elapsed() > LINGER {
                let mut queries = self.queries.lock();
                // Who subscribes looks under the same lock, and counts itself a moment later.
                if shared.subscribers.load(Ordering::Relaxed) == 0 && Arc::strong_count(&shared) <= 2 {
                    queries.remove(&query);
                    return;
                }
            }
            let began = Instant::now();
            let engine = self.answering.live();
            let (mut live, mut history) = (engine.live.changes(), engine.reached.clone());
            live.mark_unchanged();
            history.mark_unchanged();
            let heard = match Asked::new(&engine, &query) {
                Ok(asked) if shared.is_old(&engine, &asked) => {
                    let _turn = engine.admission.live.enter().await;
                    asked.ask(&engine).await.map(Some)
                }
                Ok(_) => Ok(None),
                Err(error) => Err(error),
            };
            if heard.as_ref().is_ok_and(Option::is_some) {
                self.answers.fetch_add(1, Ordering::Relaxed);
            }
            let raw = heard.as_ref().is_ok_and(|heard| heard.as_ref().is_some_and(|heard| heard.answer.source == Source::Raw));
            shared.tell(heard);
            // No query takes more than a fifth of a core.
            let pause = if raw { RAW_PAUSE } else { PAUSE };
            tokio::time::sleep(pause.max(4 * began.elapsed())).await;
            tokio::select! {
                _ = live.changed() => {}
                _ = history.changed(), if raw => {}
                _ = closed.changed() => {}
                () = tokio::time::sleep(LOOK) => {}
            }
        }
    }
}

impl Collector for Listened {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (mut page, (queries, subscribers)) = (Page(encoder), self.0.listened());
        page.gauge(("tidemark_live_queries", "Distinct queries that /v1/live answers"), queries)?;
        page.gauge(("tidemark_live_subscribers", "Streams of /v1/live that are open"), subscribers)?;
        let help = "Answers that were computed for /v1/live, each for all who listen to its query";
        page.counter(("tidemark_live_answers", help), self.0.answers.load(Ordering::Relaxed))
    }
}

/// What it tells Prometheus.
#[derive(Debug)]
pub struct Listened(pub Arc<Push>);

/// A query as it is to be answered now.
struct Asked {
    plan: Plan,
    watermark_ms: Option<i64>,
}

impl Asked {
    fn new(engine: &Engine, query: &str) -> Result<Self, PushError> {
        let plan = plan_text(&engine.rules, &absolute(query, now_ms())?)?;
        if plan.at.is_some() {
            return Err(
                PlanError("nothing is pushed of an answer that stays the same: ask /v1/query for it, or leave `at` out".into()).into()
            );
        }
        // Before the answer, which then has all that event time has passed.
        Ok(Self { plan, watermark_ms: engine.watermark_ms(now_ms()) })
    }

    async fn ask(self, engine: &Engine) -> Result<Heard, PushError> {
        let answer = engine.answer(&self.plan).await?;
        let Self { plan, watermark_ms } = self;
        Ok(Heard { plan, answer, watermark_ms, lateness: engine.lateness })
    }
}

impl Query {
    /// True if a new answer may be another one.
    fn is_old(&self, engine: &Engine, asked: &Asked) -> bool {
        let feed = self.feed.lock();
        let Some(heard) = feed.heard() else { return true };
        let Heard { plan, answer, watermark_ms, .. } = heard;
        answer.generation != engine.rules.generation
            || plan.identity != asked.plan.identity
            || *watermark_ms != asked.watermark_ms
            || match answer.source {
                Source::Raw => *engine.reached.borrow() != answer.cut,
                _ => answer.revision != engine.history.revision() || !engine.is_still_at(&answer.cut, &answer.mark, &answer.end),
            }
    }

    /// Tells an answer, or why there is none.
    fn tell(&self, heard: Result<Option<Heard>, PushError>) {
        let (told, trouble) = match heard {
            Ok(Some(heard)) if heard.answer.rows.len() > MOST_ROWS => {
                (false, Some(PushError::TooManyRows(heard.answer.rows.len()).to_string()))
            }
            Ok(Some(heard)) => (self.feed.lock().hear(heard), None),
            Ok(None) => (false, None),
            Err(error) => (false, Some(error.to_string())),
        };
        let event = |text: String| Text::from(format!("event: trouble\ndata: {}\n\n", serde_json::json!({"detail": text})));
        let (trouble, mut now) = (trouble.map(event), self.trouble.lock());
        if told || *now != trouble {
            *now = trouble;
            self.moved.send_modify(|n| *n = n.wrapping_add(1));
        }
    }
}

/// One who listens.
#[derive(Debug)]
pub struct Subscriber {
    query: Arc<Query>,
    /// The number of the event that it reads next; `None`: it wants the whole answer first.
    at: Option<u64>,
    moved: watch::Receiver<u64>,
    closed: watch::Receiver<bool>,
    greeted: bool,
    /// What it has been told.
    trouble: Option<Text>,
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.query.subscribers.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Subscriber {
    /// What is to be sent next; waits for it. `None` at the end.
    pub async fn next(&mut self) -> Option<Text> {
        if !std::mem::replace(&mut self.greeted, true) {
            return Some(Text::from(format!("retry: {COME_BACK_MS}\n\n")));
        }
        loop {
            let _ = self.moved.borrow_and_update();
            if let Some(text) = self.read() {
                return Some(text);
            }
            tokio::select! {
                moved = self.moved.changed() => moved.ok()?,
                _ = self.closed.wait_for(|closed| *closed) => return None,
                () = tokio::time::sleep(HEARTBEAT) => return Some(Text::from(": still here\n\n")),
            }
        }
    }

    fn read(&mut self) -> Option<Text> {
        let mut feed = self.query.feed.lock();
        let Some(at) = &mut self.at else {
            let (text, next) = feed.snapshot()?;
            self.at = Some(next);
            return Some(text);
        };
        match feed.read(at) {
            Next::Event(text) => return Some(text),
            Next::Lagged(missed, text) => return Some(Text::from(format!("event: lagged\ndata: {{\"missed\":{missed}}}\n\n{text}"))),
            Next::Nothing => {}
        }
        drop(feed);
        let trouble = self.query.trouble.lock().clone();
        if trouble == self.trouble {
            return None;
        }
        self.trouble.clone_from(&trouble);
        // That it is over is told, too.
        Some(trouble.unwrap_or_else(|| Text::from("event: trouble\ndata: {\"detail\":null}\n\n")))
    }
}
