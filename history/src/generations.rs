//! The generations of a history: by which rules each counts, what has become of it, and which one answers.

use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_core::generation::{Generation, Rules};

/// What has become of a generation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// It is being filled, beside the one that answers.
    Building(Filling),
    /// It is as good as the one that answers, follows the topic, and can take its place at any time.
    Ready,
    /// It answers.
    Live,
    /// Its tables are gone.
    Dropped,
}

impl State {
    pub fn is_building(self) -> bool {
        matches!(self, Self::Building(_))
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Building(_) => "building",
            Self::Ready => "ready",
            Self::Live => "live",
            Self::Dropped => "dropped",
        }
    }
}

/// How a generation is filled; 0 is no bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Filling {
    /// Records a second, of all partitions together.
    pub max_per_second: u64,
    /// Records that the layers of the generation that answers may be behind; beyond it, filling waits.
    pub max_lag: u64,
    /// All that history has comes from there, though the topic may have it too.
    pub raw_alone: bool,
}

/// Where a generation's records come from. The generations that share raw events share it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Input {
    /// Empty if the brokers have none.
    pub cluster_id: String,
    /// Empty if the brokers have none.
    pub topic_id: String,
    /// The consumer group whose committed positions say how far the batch layer is.
    pub batch_group: String,
}

/// One generation.
#[derive(Clone, Debug)]
pub struct Known {
    pub rules: Arc<Rules>,
    pub state: State,
}

/// All generations that a history has ever had.
#[derive(Clone, Debug)]
pub struct Generations {
    known: BTreeMap<Generation, Known>,
    live: Generation,
    /// Those that answered before, oldest first.
    before: Vec<Generation>,
}

impl Generations {
    /// From the rules of each, and what has been said of them, oldest first. One of which nothing has been said was there
    /// before there were any others, and answers; `None` if there are none.
    pub fn new(rules: impl IntoIterator<Item = Arc<Rules>>, said: impl IntoIterator<Item = (Generation, State)>) -> Option<Self> {
        let known = rules.into_iter().map(|rules| (rules.generation, Known { rules, state: State::Ready }));
        let mut known: BTreeMap<Generation, Known> = known.collect();
        let (mut live, mut before) = (*known.keys().next()?, Vec::new());
        for (generation, state) in said {
            let Some(known) = known.get_mut(&generation).filter(|known| known.state != State::Dropped) else { continue };
            // What is not live any more can be again.
            known.state = if state == State::Live { State::Ready } else { state };
            if state == State::Live && generation != live {
                before.push(std::mem::replace(&mut live, generation));
            }
        }
        known.get_mut(&live)?.state = State::Live;
        Some(Self { known, live, before })
    }

    /// The one that answers.
    pub fn live(&self) -> &Arc<Rules> {
        &self.known[&self.live].rules
    }

    /// The one that answered before, if it still could.
    pub fn before(&self) -> Option<&Arc<Rules>> {
        let before = self.before.iter().rev().find(|generation| **generation != self.live)?;
        self.get(*before).filter(|known| known.state == State::Ready).map(|known| &known.rules)
    }

    pub fn all(&self) -> impl Iterator<Item = &Known> {
        self.known.values()
    }

    pub fn get(&self, generation: Generation) -> Option<&Known> {
        self.known.get(&generation)
    }

    /// Those that have tables: layers work on each.
    pub fn standing(&self) -> impl Iterator<Item = &Known> {
        self.known.values().filter(|known| known.state != State::Dropped)
    }

    /// The one that is being filled, if there is one.
    pub fn building(&self) -> Option<(&Arc<Rules>, Filling)> {
        self.known.values().find_map(|known| match known.state {
            State::Building(filling) => Some((&known.rules, filling)),
            State::Ready | State::Live | State::Dropped => None,
        })
    }

    /// The latest that counts, or has counted, by these rules.
    pub fn by_rules(&self, text: &str) -> Option<&Known> {
        self.known.values().rev().find(|known| known.rules.text() == text)
    }

    /// A number that no generation has had.
    pub fn next(&self) -> Generation {
        self.known.keys().next_back().map_or(Generation::FIRST, |last| last.next())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_core::epoch::EpochBits;
    use tidemark_core::event::Limits;
    use tidemark_core::view::Views;

    fn rules(generation: u32) -> Arc<Rules> {
        let views = Views::declare([("by_type", vec!["event_type"])]).expect("valid");
        let epoch_bits = EpochBits::new(8).expect("valid");
        Arc::new(Rules { generation: Generation(generation), widens: None, epoch_bits, views, limits: Limits::default(), dedup: true })
    }

    fn states(said: &[(u32, State)]) -> (u32, Vec<State>) {
        let said = said.iter().map(|&(generation, state)| (Generation(generation), state));
        let generations = Generations::new([rules(1), rules(2)], said).expect("there are two");
        (generations.live().generation.0, generations.known.values().map(|known| known.state).collect())
    }

    #[test]
    fn the_last_that_went_live_answers() {
        use State::{Dropped, Live, Ready};
        let building = State::Building(Filling::default());
        assert!(Generations::new([], []).is_none());
        assert_eq!(states(&[(2, building)]), (1, vec![Live, building]));
        assert_eq!(states(&[(2, building), (2, Ready)]), (1, vec![Live, Ready]));
        assert_eq!(states(&[(2, building), (2, Ready), (2, Live)]), (2, vec![Ready, Live]));
        assert_eq!(states(&[(2, Live), (1, Live)]), (1, vec![Live, Ready]));
        assert_eq!(states(&[(2, Live), (1, Dropped)]), (2, vec![Dropped, Live]));
        // What is gone does not come back.
        assert_eq!(states(&[(2, Live), (1, Dropped), (1, Live)]), (2, vec![Dropped, Live]));
    }

    /// What is said of a generation before its rules are known counts from when they are.
    #[test]
    fn a_generation_is_never_known_without_what_was_said_of_it() {
        let building = State::Building(Filling::default());
        let said = || [(Generation(2), building)];
        let before = Generations::new([rules(1)], said()).expect("there is one");
        assert_eq!((before.standing().count(), before.next()), (1, Generation(2)));
        let after = Generations::new([rules(1), rules(2)], said()).expect("there are two");
        assert_eq!(after.get(Generation(2)).map(|known| known.state), Some(building));
    }

    #[test]
    fn the_one_before_is_known_until_it_is_dropped() {
        use State::{Dropped, Live};
        let before = |said: &[(u32, State)]| {
            let said = said.iter().map(|&(generation, state)| (Generation(generation), state));
            let generations = Generations::new([rules(1), rules(2), rules(3)], said).expect("there are three");
            generations.before().map(|rules| rules.generation.0)
        };
        assert_eq!(before(&[]), None);
        assert_eq!(before(&[(2, Live)]), Some(1));
        assert_eq!(before(&[(2, Live), (1, Live)]), Some(2));
        assert_eq!(before(&[(2, Live), (3, Live)]), Some(2));
        assert_eq!(before(&[(2, Live), (1, Dropped)]), None);
    }
}
