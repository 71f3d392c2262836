//! What is sent: events of some forty windows around January 2013, so that epochs and months are crossed all the time and the judge
//! has few groups; now and then one that was sent before, one without an id, and a line that is no event.

use std::collections::VecDeque;
use tidemark_tests::chance::Chance;
use tidemark_tests::question::WINDOW_MS;

/// 2012-12-31T00:00:00Z
const FIRST_MS: i64 = 1_356_912_000_000;
const WINDOWS: usize = 40;
/// So far apart that the windows reach into February.
const APART: i64 = 233;
/// How many lines back one is sent again.
const REMEMBERED: usize = 50;
const TYPES: [&str; 5] = ["UA", "DL", "B6", "9E", "OO"];
const PRODUCTS: [&str; 3] = ["JFK-LAX", "LGA-ATL", "EWR-IAH"];
pub const USERS: usize = 12;
const BROKEN: [&str; 4] = ["not JSON", "[1,2]", r#"{"timestamp":"2013-01-05T00:00:00Z"}"#, r#"{"event_type":"UA","timestamp":"soon"}"#];

/// An endless supply of lines, the same for the same seed and name.
#[derive(Debug)]
pub struct Events {
    chance: Chance,
    name: &'static str,
    next: u64,
    recent: VecDeque<Line>,
}

#[derive(Clone, Debug)]
pub struct Line {
    pub text: String,
    /// `None` where it has none, or is no event.
    pub id: Option<String>,
    /// The key that ingest would give it.
    pub user: Option<String>,
}

impl Events {
    pub fn new(name: &'static str, seed: u64) -> Self {
        let salt = name.bytes().fold(seed, |salt, byte| salt.wrapping_mul(31).wrapping_add(u64::from(byte)));
        Self { chance: Chance::of(salt), name, next: 0, recent: VecDeque::new() }
    }

    pub fn lines(&mut self, n: usize) -> Vec<Line> {
        (0..n).map(|_| self.line()).collect()
    }

    fn line(&mut self) -> Line {
        if self.chance.once_in(50) {
            return Line { text: (*self.chance.pick(&BROKEN)).to_owned(), id: None, user: None };
        }
        if !self.recent.is_empty() && self.chance.once_in(30) {
            return self.recent[self.chance.below(self.recent.len())].clone();
        }
        let line = self.event();
        self.recent.push_back(line.clone());
        if self.recent.len() > REMEMBERED {
            self.recent.pop_front();
        }
        line
    }

    fn event(&mut self) -> Line {
        self.next += 1;
        let chance = &mut self.chance;
        let window = i64::try_from(chance.below(WINDOWS)).expect("few windows");
        let within = i64::try_from(chance.below(300_000)).expect("a window's length");
        let timestamp_ms = FIRST_MS + window * APART * WINDOW_MS + within;
        let user = format!("u{}", chance.below(USERS));
        let mut text = format!(
            r#"{{"event_type":"{}","product_id":"{}","user_id":"{user}","timestamp":{timestamp_ms}"#,
            chance.pick(&TYPES),
            chance.pick(&PRODUCTS)
        );
        if !chance.once_in(3) {
            text += &format!(r#","order_amount":{}.{:02}"#, chance.below(2000), chance.below(100));
        }
        let id = (!chance.once_in(30)).then(|| format!("{}-{}", self.name, self.next));
        if let Some(id) = &id {
            text += &format!(r#","event_id":"{id}""#);
        }
        Line { text: text + "}", id, user: Some(user) }
    }
}

/// An event by which a run sees that all is counted again.
pub fn probe() -> Line {
    let text = format!(r#"{{"event_type":"UA","product_id":"JFK-LAX","user_id":"u0","timestamp":{FIRST_MS}}}"#);
    Line { text, id: None, user: Some("u0".to_owned()) }
}
