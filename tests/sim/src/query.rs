//! Queries: a random question, the speed layer's part of the answer now, history's part later, and the recount.

use crate::engine::Engine;
use crate::executor::Task;
use crate::ground::Ground;
use crate::log::{INSTANTS_MS, Log, PRODUCTS, TYPES};
use crate::recount::{Asked, Counted, plain, recount};
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_core::cut::Cut;
use tidemark_core::offset::{NextOffset, Partition};
use tidemark_core::question::{Groups, Question, Rows, merge_rows};
use tidemark_core::view::{Dimension, ViewId};
use tidemark_core::window::{Buckets, Step, TimeRange};
use tidemark_history::{Error, History, Marks, raw};
use tidemark_speed_layer::gathered::Gathered;
use tidemark_speed_layer::tide::Tide;

const HOUR_MS: i64 = 60 * 60 * 1000;
/// 1969-12-29, a Monday.
const MONDAY_MS: i64 = -3 * 24 * HOUR_MS;

/// A question, as it is put to the project and as it is put to the judge.
pub fn random_question(ground: &Ground) -> (ViewId, Question, Asked) {
    let (step, width_ms, origin_ms) = [
        (Step::FiveMinutes, Some(300_000), 0),
        (Step::QuarterHour, Some(900_000), 0),
        (Step::Hour, Some(HOUR_MS), 0),
        (Step::Day, Some(24 * HOUR_MS), 0),
        (Step::Week, Some(7 * 24 * HOUR_MS), MONDAY_MS),
        (Step::Total, None, 0),
    ][ground.below(6)];
    // All of the simulator's instants are in New York's winter, five hours behind.
    let zone = (matches!(step, Step::Day | Step::Week) && ground.chance(500)).then_some("America/New_York");
    let origin_ms = origin_ms + if zone.is_some() { 5 * HOUR_MS } else { 0 };
    let view = ground.below(2);
    let mut dimensions = vec![Dimension::EventType, Dimension::ProductId];
    dimensions.truncate(view + 1);
    let edge = || {
        ground
            .chance(300)
            .then(|| INSTANTS_MS[ground.below(INSTANTS_MS.len())].div_euclid(300_000) * 300_000 + 300_000 * i64::from(ground.chance(500)))
    };
    let range = TimeRange { from_ms: edge(), to_ms: edge() };
    let mut filters = BTreeMap::new();
    for (dimension, values) in dimensions.iter().zip([TYPES, PRODUCTS]) {
        if ground.chance(250) {
            let wanted =
                (0..=ground.below(2)).map(|_| if ground.chance(100) { "absent" } else { values[ground.below(values.len())] }.to_owned());
            filters.insert(*dimension, wanted.collect::<Vec<_>>());
        }
    }
    if ground.chance(500) {
        dimensions.reverse();
    }
    dimensions.retain(|_| ground.chance(600));
    let asked = Asked {
        width_ms,
        origin_ms,
        from_ms: range.from_ms,
        to_ms: range.to_ms,
        group_by: dimensions.iter().map(|d| d.name()).collect(),
        filters: filters.iter().map(|(d, values)| (d.name(), values.clone())).collect(),
    };
    let buckets = Buckets::new(step, zone).expect("a known zone");
    (ViewId(view), Question { range, buckets, group_by: dimensions, filters, only_counts: false }, asked)
}

/// Who is asked.
#[derive(Clone, Copy, Debug)]
enum Way {
    /// Both layers, by a view.
    Both(ViewId),
    /// History alone at the cut H: by a view, or raw events.
    History(Option<ViewId>),
}

/// A query under way.
#[derive(Debug)]
pub struct Query {
    way: Way,
    question: Question,
    asked: Asked,
    /// A top list of so many groups.
    top: Option<usize>,
    /// The speed layer's part.
    speed: Rows,
    marks: Marks,
    /// What the answer may include: S, or H where history alone is asked.
    reached: Cut,
    /// History's part, once it has been asked.
    history: Option<Task<Result<(Cut, Rows), Error>>>,
}

impl Query {
    /// Takes the speed layer's part, at one instant.
    pub fn ask<'a>(ground: &Ground, tides: impl Iterator<Item = (Partition, &'a Tide)>) -> Self {
        let (view, question, asked) = random_question(ground);
        let (mut gathered, mut complete) = (Gathered::default(), Vec::new());
        let (mut marks, mut reached) = (Marks::new(), Cut::default());
        for (partition, tide) in tides {
            let (line, segments) = tide.answer(view, &question, &mut gathered).expect("the instants are in the calendar");
            complete.extend(segments);
            marks.insert(partition, line.mark);
            reached.set(partition, line.position);
        }
        for segment in complete {
            segment.answer(view, &question, &mut gathered).expect("the instants are in the calendar");
        }
        let speed = gathered.into_rows();
        let top = ground.chance(300).then(|| 1 + ground.below(2));
        ground.say(format_args!("query at {reached}, {marks:?}, top {top:?}"));
        Self { way: Way::Both(view), question, asked, top, speed, marks, reached, history: None }
    }

    /// Asks history alone.
    pub fn ask_history_alone(ground: &Ground, reached: Cut) -> Self {
        let (view, question, asked) = random_question(ground);
        let way = Way::History(ground.chance(500).then_some(view));
        ground.say(format_args!("query of {way:?} at {reached}"));
        Self { way, question, asked, top: None, speed: Rows::new(), marks: Marks::new(), reached, history: None }
    }

    fn ask_history(&self, engine: &Engine, ground: &Ground) -> Task<Result<(Cut, Rows), Error>> {
        let (engine, rules, question, way) = (engine.clone(), Arc::clone(&ground.rules), self.question.clone(), self.way);
        let (marks, reached) = (self.marks.clone(), self.reached.clone());
        let groups = self.top.map_or(Groups::All, |n| Groups::for_the_largest(n, &self.speed, usize::MAX));
        Task::new(async move {
            match way {
                Way::Both(view) => Ok((reached, engine.answer(view, &question, &groups, &marks).await?)),
                Way::History(view) => raw::answer(&engine, &rules, view, &question, &reached).await.map(|answer| (answer.cut, answer.rows)),
            }
        })
    }

    /// Goes on; true when it has been answered, rightly, or refused.
    pub fn step(&mut self, ground: &Ground, engine: &Engine, log: &Log) -> bool {
        let mut history = self.history.take().unwrap_or_else(|| self.ask_history(engine, ground));
        let Some(outcome) = history.step() else {
            self.history = Some(history);
            return false;
        };
        let (cut, rows) = match outcome {
            Ok(answer) => answer,
            // Whoever asks tries again some other time.
            Err(Error::Damaged { .. }) => {
                ground.count(|totals| totals.refused += 1);
                return true;
            }
            Err(_) => return false,
        };
        let mut answer = std::mem::take(&mut self.speed);
        merge_rows(&mut answer, rows);
        let mut expected = Counted::new();
        for (partition, position) in cut.iter() {
            log.judged(partition, NextOffset::ZERO..position, |log| recount(log, &self.asked, &mut expected));
        }
        let mut answer = plain(&answer);
        if let Some(n) = self.top {
            keep_largest(&mut answer, n);
            keep_largest(&mut expected, n);
        }
        assert!(
            answer == expected,
            "wrong answer at {cut} ({:?}, {:?})\n to {:?}\n  given    {answer:?}\n  recount  {expected:?}",
            self.way,
            self.marks,
            self.asked
        );
        ground.count(|totals| totals.answers += 1);
        true
    }
}

/// Keeps the rows of the `n` groups that have the largest counts, of equal ones those with the smaller values.
pub fn keep_largest(counted: &mut Counted, n: usize) {
    let mut groups: Vec<(u64, Vec<String>)> = Vec::new();
    for ((_, values), (count, ..)) in counted.iter() {
        match groups.iter_mut().find(|(_, known)| known == values) {
            Some((sum, _)) => *sum += count,
            None => groups.push((*count, values.clone())),
        }
    }
    groups.sort_by(|(a, x), (b, y)| b.cmp(a).then_with(|| x.cmp(y)));
    groups.truncate(n);
    counted.retain(|(_, values), _| groups.iter().any(|(_, kept)| kept == values));
}
