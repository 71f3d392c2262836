//! Questions at a cut that was, beside all that happens: while inserts land piece by piece, epochs close and are repaired.
//! Their dice are their own, so that a world is the same with them and without.

use crate::engine::Engine;
use crate::executor::Task;
use crate::ground::Ground;
use crate::log::Log;
use crate::query::{keep_largest, random_question};
use crate::recount::{Asked, Counted, plain, recount};
use std::sync::Arc;
use tidemark_core::cut::Cut;
use tidemark_core::offset::NextOffset;
use tidemark_core::question::{Groups, Rows};
use tidemark_history::{Error, raw};

/// A question is taken further in one of so many steps of the world.
const PACE: usize = 3;

/// One question after the other.
#[derive(Debug)]
pub struct Pinned {
    ground: Ground,
    under_way: Option<Query>,
}

#[derive(Debug)]
struct Query {
    asked: Asked,
    top: Option<usize>,
    cut: Cut,
    task: Task<Result<Option<Rows>, Error>>,
}

impl Pinned {
    pub fn new(ground: &Ground, seed: u64) -> Self {
        Self { ground: ground.with_dice(!seed), under_way: None }
    }

    /// Asks, or goes on; an answer must be right, now as at any other time.
    pub fn step(&mut self, engine: &Engine, log: &Log, reached: impl FnOnce() -> Cut) {
        if self.ground.below(PACE) > 0 {
            return;
        }
        let Some(query) = &mut self.under_way else {
            self.under_way = Some(self.ask(engine, reached()));
            return;
        };
        let Some(outcome) = query.task.step() else { return };
        if let (Ok(Some(rows)), Some(query)) = (outcome, self.under_way.take()) {
            query.check(&rows, log);
            self.ground.count(|totals| totals.pinned += 1);
        }
        self.under_way = None;
    }

    /// At any cut that history has reached.
    fn ask(&self, engine: &Engine, reached: Cut) -> Query {
        let (view, question, asked) = random_question(&self.ground);
        let view = self.ground.chance(700).then_some(view);
        let top = self.ground.chance(300).then(|| 1 + self.ground.below(2));
        let place = |at: NextOffset| NextOffset::new(at.get().saturating_sub(u64::try_from(self.ground.below(24)).unwrap_or_default()));
        let cut: Cut = reached.iter().map(|(partition, at)| (partition, place(at))).collect();
        let (twin, rules, wanted) = (engine.twin.clone(), Arc::clone(&self.ground.rules), cut.clone());
        let task = Task::new(async move {
            let needed = |open: &Rows| top.map_or(Groups::All, |n| Groups::for_the_largest(n, open, usize::MAX));
            raw::answer_at(&twin, &rules, view, &question, needed, &reached, &wanted).await
        });
        Query { asked, top, cut, task }
    }
}

impl Query {
    fn check(&self, rows: &Rows, log: &Log) {
        let mut expected = Counted::new();
        for (partition, position) in self.cut.iter() {
            log.judged(partition, NextOffset::ZERO..position, |log| recount(log, &self.asked, &mut expected));
        }
        let mut answer = plain(rows);
        if let Some(n) = self.top {
            keep_largest(&mut answer, n);
            keep_largest(&mut expected, n);
        }
        let Self { asked, cut, .. } = self;
        assert!(answer == expected, "wrong answer at the cut {cut}\n to {asked:?}\n  given    {answer:?}\n  recount  {expected:?}");
    }
}
