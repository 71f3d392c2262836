//! A new generation of both views, filled beside the one that answers, compared with it, and put in its place. Where only
//! views are added, it shares all else with the one that answers, and nothing but those views is written.
//!
//! The work is done by the layers of every process, which follow what history says of its generations; this declares the
//! new one, watches until it has caught up, and says the rest. So it can be stopped and begun again at any time: what has
//! been done is in history, in Kafka's groups and in Redis, and nowhere else.

use crate::compare::{CompareError, Comparison, Side, compare};
use serde::Serialize;
use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidemark_core::cell::Tally;
use tidemark_core::cut::Cut;
use tidemark_core::generation::{Generation, Rules, Widening};
use tidemark_core::offset::{NextOffset, Partition};
use tidemark_core::window::TimeRange;
use tidemark_history::clickhouse::{Archive, ClickHouse};
use tidemark_history::generations::{Filling, Generations, Known, State};
use tidemark_history::{Digest, History as _, Marks};
use tidemark_topic::Extent;
use tidemark_topic::kafka::{Admin, GroupPositions};

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

/// The rate of now is that of so long.
const RECENTLY: Duration = Duration::from_secs(10);

/// When nothing has moved for so long, it is said.
const STANDSTILL: Duration = Duration::from_secs(30);

/// How long engines may not answer, before this gives up watching.
const PATIENCE: Duration = Duration::from_secs(300);

/// What the work is about.
#[derive(Debug)]
pub struct Rebuild<'a> {
    pub archive: &'a Archive,
    pub admin: &'a Admin,
    /// How far the batch layer of the generation that answers is, and that of the new one, if it has one of its own.
    pub old_positions: GroupPositions,
    pub new_positions: Option<GroupPositions>,
    pub old: Arc<ClickHouse>,
    pub new: Arc<ClickHouse>,
}

/// What is going on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// Records are written and counted.
    Filling,
    /// All are written; the last epochs are being compared by the two layers and closed.
    Closing,
    /// The two generations are compared.
    Comparing,
}

impl Phase {
    pub fn name(self) -> &'static str {
        match self {
            Self::Filling => "filling",
            Self::Closing => "closing",
            Self::Comparing => "comparing",
        }
    }
}

/// How far it is. Offsets stand for records: some are holes.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Progress {
    pub generation: u32,
    pub phase: Phase,
    pub done: u64,
    pub all: u64,
    /// A second: of late, and since this began to watch.
    pub rate: f64,
    pub mean_rate: f64,
    /// Seconds to go, at the better and at the worse of the two rates; `None` while nothing moves, or nothing is left.
    pub to_go: Option<(u64, u64)>,
    /// Records that the generation which answers has, and this one has not.
    pub behind: u64,
    /// Of closed epochs.
    pub events: u64,
    pub duplicates: u64,
    pub dead_letters: u64,
    pub bytes_on_disk: u64,
    /// Nothing moves, in words.
    pub trouble: Option<String>,
}

/// Why it could not be done. What has been done stays.
#[derive(Debug, thiserror::Error)]
pub enum RebuildError {
    #[error(transparent)]
    History(#[from] tidemark_history::Error),
    #[error(transparent)]
    Log(#[from] tidemark_topic::Error),
    #[error("the generations could not be compared: {0}")]
    Compare(#[from] CompareError),
    #[error(
        "generation {generation} is being filled already, by other rules: {rules}\n\
         Wait for it (`tidemark replay status`), or give it up: tidemark replay drop {generation}"
    )]
    Another { generation: Generation, rules: String },
    #[error(
        "generation {0} shares raw events with the one that answers, but not with one that widens it; it must go first: tidemark replay drop {0}"
    )]
    Branch(Generation),
    #[error("generation {0} has been dropped meanwhile")]
    Dropped(Generation),
}

/// What speaks for a new generation.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
#[serde(untagged)]
pub enum Verdict {
    /// It has been compared with the one that answers.
    Compared(Comparison),
    /// It shares what that one has; of what it has more, each epoch has been compared by its own speed layer.
    Agreed { cut: String, views: Vec<Added> },
}

/// What an added view has in closed epochs.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Added {
    pub view: String,
    pub cells: u64,
    pub events: u64,
}

impl Verdict {
    pub fn is_equal(&self) -> bool {
        match self {
            Self::Compared(comparison) => comparison.is_equal(),
            Self::Agreed { .. } => true,
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compared(comparison) => comparison.fmt(f),
            Self::Agreed { cut, views } => {
                writeln!(f, "raw history and topic agree on each cell of each epoch that was closed at {cut}:")?;
                views.iter().try_for_each(|Added { view, cells, events }| writeln!(f, "  view {view}: {cells} cells of {events} events"))
            }
        }
    }
}

/// Declares a generation that counts by these rules, or finds the one that was begun; says how it is to be filled. `true` if
/// it was there. With `since`, an epoch's beginning above all that the topic has, it widens the one that answers.
pub async fn declare(
    archive: &Archive,
    generations: &Generations,
    wanted: &Rules,
    filling: Filling,
    since: Option<Cut>,
) -> Result<(Arc<Rules>, bool), RebuildError> {
    let (text, live) = (wanted.text(), generations.live());
    let (rules, known) = match generations.building() {
        Some((rules, _)) if rules.text() == text && rules.widens.is_some() == since.is_some() => (Arc::clone(rules), true),
        Some((rules, _)) => return Err(RebuildError::Another { generation: rules.generation, rules: rules.text() }),
        None => {
            let widens = since.map(|since| Widening { rules: Arc::clone(live), since });
            (Arc::new(Rules { generation: generations.next(), widens, ..wanted.clone() }), false)
        }
    };
    if rules.widens.is_some() {
        // Of two that widen the same one, neither would know what the other has closed.
        let branch = |known: &&Known| known.rules.raw() == live.raw() && !known.state.is_building() && !live.shares_with(&known.rules);
        if let Some(branch) = generations.standing().find(branch) {
            return Err(RebuildError::Branch(branch.rules.generation));
        }
    }
    // In this order: a process that knows of a generation must know that it is to be filled, and from where.
    archive.say(rules.generation, State::Building(filling)).await?;
    archive.declare(&rules).await?;
    // Somebody else may have done the same at this moment: what was said first stands.
    let first = archive.generations().await?.and_then(|now| now.building().map(|(rules, _)| Arc::clone(rules)));
    match first {
        Some(first) if first.generation != rules.generation => {
            archive.say(rules.generation, State::Dropped).await?;
            Err(RebuildError::Another { generation: first.generation, rules: first.text() })
        }
        _ => Ok((rules, known)),
    }
}

impl Rebuild<'_> {
    /// Watches until the new generation has all that the old one has, and compares them.
    pub async fn until_compared(&self, mut show: impl FnMut(&Progress)) -> Result<Verdict, RebuildError> {
        let mut watch = Watch::new(self);
        let (reached, mut last) = watch.until_caught_up(&mut show).await?;
        if self.is_wider() {
            return self.agreed().await;
        }
        last.phase = Phase::Comparing;
        let began = Instant::now();
        let (old, new) = (Side { history: &*self.old, rules: self.old.rules() }, Side { history: &*self.new, rules: self.new.rules() });
        let mut shown = Instant::now();
        let compared = compare(old, new, &reached, |done, all| {
            if shown.elapsed() >= LOOK {
                shown = Instant::now();
                show(&Progress { done, all, ..rated(&last, done, all, done as f64 / began.elapsed().as_secs_f64(), None) });
            }
        });
        Ok(Verdict::Compared(compared.await?))
    }

    /// The new one shares all that the old one has.
    fn is_wider(&self) -> bool {
        self.new.rules().widens.is_some()
    }

    async fn agreed(&self) -> Result<Verdict, RebuildError> {
        let (rules, marks) = (self.new.rules(), self.new.marks().await?);
        let mut views = Vec::new();
        for view in rules.kept() {
            let Digest { cells, events, .. } = self.new.digest(view, TimeRange::default(), &marks).await?;
            views.push(Added { view: rules.views.get(view).name().to_owned(), cells, events });
        }
        let closed: Cut = marks.iter().map(|(&partition, mark)| (partition, mark.position(rules.epoch_bits))).collect();
        Ok(Verdict::Agreed { cut: closed.to_string(), views })
    }
}

/// With the rates, and what follows from them.
#[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for people")]
fn rated(of: &Progress, done: u64, all: u64, mean_rate: f64, rate: Option<f64>) -> Progress {
    let rate = rate.unwrap_or(mean_rate);
    let left = all.saturating_sub(done) as f64;
    let (slow, fast) = (rate.min(mean_rate), rate.max(mean_rate));
    let to_go = (slow > 0.0 && left > 0.0).then(|| ((left / fast).ceil() as u64, (left / slow).ceil() as u64));
    Progress { done, all, rate, mean_rate, to_go, ..of.clone() }
}

/// Looks at how far the new generation is.
struct Watch<'w, 'a> {
    of: &'w Rebuild<'a>,
    /// When so many were done, of late.
    recently: VecDeque<(Instant, u64)>,
    first: Option<(Instant, u64)>,
    /// What was done and closed when something last moved.
    at: (u64, u64),
    moved: Instant,
    begun: Option<Marks>,
}

/// Where both are.
struct Looked {
    extents: BTreeMap<Partition, Extent>,
    old: Cut,
    new: Cut,
    marks: Marks,
    start: Cut,
    closed: Tally,
    bytes_on_disk: u64,
}

impl<'w, 'a> Watch<'w, 'a> {
    fn new(of: &'w Rebuild<'a>) -> Self {
        Self { of, recently: VecDeque::new(), first: None, at: (0, 0), moved: Instant::now(), begun: None }
    }

    async fn look(&mut self) -> Result<Looked, RebuildError> {
        let extents = self.of.admin.extents().await?;
        let partitions = u32::try_from(extents.len()).unwrap_or(u32::MAX);
        let begun = match &self.begun {
            Some(begun) => begun.clone(),
            None => self.begun.insert(self.of.old.begun().await?).clone(),
        };
        let bits = self.of.old.rules().epoch_bits;
        let start = extents.keys().map(|&p| (p, begun.get(&p).map_or(NextOffset::ZERO, |mark| mark.position(bits)))).collect();
        let generation = self.of.new.rules().generation;
        let known = self.of.archive.generations().await?;
        if known.is_some_and(|known| known.get(generation).is_some_and(|known| known.state == State::Dropped)) {
            return Err(RebuildError::Dropped(generation));
        }
        let marks = self.of.new.marks().await?;
        let new = match &self.of.new_positions {
            Some(positions) => positions.look(partitions).await?.into_iter().collect(),
            None => marks.iter().map(|(&partition, mark)| (partition, mark.position(bits))).collect(),
        };
        Ok(Looked {
            extents,
            old: self.of.old_positions.look(partitions).await?.into_iter().collect(),
            new,
            marks,
            start,
            closed: self.of.new.closed().await?,
            bytes_on_disk: self.of.new.bytes_on_disk().await?,
        })
    }

    /// The same; while an engine does not answer, again.
    async fn look_patiently(&mut self) -> Result<Looked, RebuildError> {
        let until = Instant::now() + PATIENCE;
        loop {
            match self.look().await {
                Err(
                    RebuildError::History(tidemark_history::Error::Unavailable { .. })
                    | RebuildError::Log(tidemark_topic::Error::Unavailable { .. }),
                ) if Instant::now() < until => tokio::time::sleep(LOOK).await,
                looked => return looked,
            }
        }
    }

    /// Where the old one was when the new one had as much, with all epochs below closed.
    async fn until_caught_up(&mut self, show: &mut impl FnMut(&Progress)) -> Result<(Cut, Progress), RebuildError> {
        let bits = self.of.new.rules().epoch_bits;
        let mut reached: Option<Cut> = None;
        loop {
            let looked = self.look_patiently().await?;
            // Shared, all is written that the old one has.
            if reached.is_none() && (self.of.is_wider() || looked.new.reaches(&looked.old)) {
                reached = Some(looked.old.clone());
            }
            let is_closed = |cut: &Cut| {
                cut.iter().all(|(partition, at)| {
                    let mark = looked.marks.get(&partition).map_or(NextOffset::ZERO, |mark| mark.position(bits));
                    mark >= bits.start_of(bits.epoch_at(at))
                })
            };
            let phase = if reached.is_some() && !self.of.is_wider() { Phase::Closing } else { Phase::Filling };
            let progress = self.progress(phase, &looked);
            show(&progress);
            if let Some(cut) = reached.take_if(|cut| is_closed(cut)) {
                return Ok((cut, progress));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate, for people")]
    fn progress(&mut self, phase: Phase, looked: &Looked) -> Progress {
        let Looked { extents, old, new, start, marks, closed, bytes_on_disk } = looked;
        let bits = self.of.new.rules().epoch_bits;
        let since_start = |at: &dyn Fn(Partition) -> NextOffset| -> u64 { extents.keys().map(|&p| at(p).since(start.get(p))).sum() };
        let (done, all) = (since_start(&|p| new.get(p)), since_start(&|p| extents[&p].end));
        let closed_offsets = since_start(&|p| marks.get(&p).map_or(NextOffset::ZERO, |mark| mark.position(bits)));
        let now = Instant::now();
        if self.at != (done, closed_offsets) {
            (self.at, self.moved) = ((done, closed_offsets), now);
        }
        self.recently.push_back((now, done));
        while self.recently.front().is_some_and(|(at, _)| now.duration_since(*at) > RECENTLY) {
            self.recently.pop_front();
        }
        let (first_at, first_done) = *self.first.get_or_insert((now, done));
        let per_second = |from: Instant, more: u64| more as f64 / now.duration_since(from).as_secs_f64().max(0.001);
        let mean_rate = per_second(first_at, done.saturating_sub(first_done));
        let (recent_at, recent_done) = self.recently[0];
        let rate = per_second(recent_at, done.saturating_sub(recent_done));
        let trouble = (done < all && self.moved.elapsed() > STANDSTILL).then(|| {
            let what =
                "nothing has moved for a while: is a tidemark running that knows of generations, and what do its log and /v1/status say?";
            what.to_owned()
        });
        let behind = extents.keys().map(|&p| old.get(p).since(new.get(p))).sum();
        let generation = self.of.new.rules().generation.0;
        let (Tally { events, duplicates, dead_letters, .. }, bytes_on_disk) = (*closed, *bytes_on_disk);
        let still = Progress {
            generation,
            phase,
            done,
            all,
            rate,
            mean_rate,
            to_go: None,
            behind,
            events,
            duplicates,
            dead_letters,
            bytes_on_disk,
            trouble,
        };
        rated(&still, done, all, mean_rate, Some(rate))
    }
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, phase, done, all, rate, mean_rate, to_go, behind, events, duplicates, dead_letters, bytes_on_disk, trouble } =
            self;
        write!(f, "generation {generation} {}: {done} of {all}, {rate:.0}/s now, {mean_rate:.0}/s in the mean", phase.name())?;
        match to_go {
            Some((least, most)) if least == most => write!(f, ", {} to go", time(*least))?,
            Some((least, most)) => write!(f, ", {} to {} to go", time(*least), time(*most))?,
            None => {}
        }
        let megabytes = bytes_on_disk / 1_000_000;
        write!(f, ", {behind} behind, closed: {events} events, {duplicates} duplicates, {dead_letters} dead letters, {megabytes} MB")?;
        trouble.iter().try_for_each(|trouble| write!(f, "; {trouble}"))
    }
}

/// A time for people.
pub(crate) fn time(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds.div_ceil(60)),
        _ => format!("{} h", seconds.div_ceil(3600)),
    }
}
