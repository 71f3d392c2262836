//! What a live query's subscribers are told: its answer, and then what changes of it. Pure.
//!
//! Events are written once, whoever reads them, and the last ones are kept: a subscriber reads at its own pace, and one that
//! comes back goes on behind the event that it names. Whoever is too far behind is told so, and gets the answer anew.

use crate::answer::{Answer, Windows, push_key, push_positions, push_row};
use crate::plan::Plan;
use std::collections::{BTreeMap, VecDeque};
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;
use tidemark_core::cell::Cell;
use tidemark_core::question::RowKey;
use tidemark_core::watermark::Phase;
use tidemark_core::window::rfc3339;

/// Events that are kept, and their bytes.
const KEPT_EVENTS: usize = 256;
const KEPT_BYTES: usize = 4 << 20;

/// A server-sent event's text.
pub type Text = Arc<str>;

/// An answer, and how far event time had come before it was given.
#[derive(Debug)]
pub struct Heard {
    pub plan: Plan,
    pub answer: Answer,
    pub watermark_ms: Option<i64>,
    pub lateness: Duration,
}

impl Heard {
    /// Names the state of whoever has been told all up to here.
    fn id(&self) -> String {
        format!("{}/{}", self.answer.generation, self.answer.cut)
    }

    fn phase(&self, bucket_ms: i64) -> Phase {
        let question = &self.plan.question;
        let end = question.buckets.start_after(bucket_ms).unwrap_or(i64::MAX).min(question.range.to_ms.unwrap_or(i64::MAX));
        Phase::of(end, self.watermark_ms, self.lateness)
    }

    fn rows(&self) -> BTreeMap<RowKey, (Cell, Phase)> {
        let mut phases: BTreeMap<i64, Phase> = BTreeMap::new();
        let rows = self.answer.rows.iter().map(|(key, cell)| {
            let phase = *phases.entry(key.bucket_ms).or_insert_with(|| self.phase(key.bucket_ms));
            (key.clone(), (*cell, phase))
        });
        rows.collect()
    }

    /// An event of these rows, and of those that are gone.
    fn event<'r>(
        &self,
        kind: &str,
        rows: impl Iterator<Item = (&'r RowKey, &'r (Cell, Phase))>,
        gone: impl Iterator<Item = &'r RowKey>,
    ) -> Text {
        let mut out = format!("event: {kind}\nid: {}\ndata: {{\"rows\":[", self.id());
        let (mut windows, mut comma) = (Windows::default(), "");
        for (key, (cell, phase)) in rows {
            out.push_str(comma);
            out.push('{');
            push_row(&mut out, &self.plan, &mut windows, key, cell);
            let _ = write!(out, ",\"revision\":{},\"final\":{}}}", cell.count, *phase == Phase::Final);
            comma = ",";
        }
        out.push_str("],\"gone\":[");
        comma = "";
        for key in gone {
            out.push_str(comma);
            out.push('{');
            push_key(&mut out, &self.plan, &mut windows, key);
            out.push('}');
            comma = ",";
        }
        out.push_str("],");
        push_positions(&mut out, &self.answer);
        let watermark = self.watermark_ms.map_or_else(|| "null".to_owned(), |ms| format!("\"{}\"", rfc3339(ms)));
        let _ = write!(out, ",\"watermark\":{watermark},\"exact\":true}}\n\n");
        out.into()
    }
}

/// A live query's state.
#[derive(Debug, Default)]
pub struct Feed {
    heard: Option<Heard>,
    rows: BTreeMap<RowKey, (Cell, Phase)>,
    /// The number of the next event.
    next: u64,
    /// The last events, each with the id that it ends at.
    kept: VecDeque<(String, Text)>,
    kept_bytes: usize,
    /// The whole answer as it is now, for whoever begins.
    snapshot: Option<Text>,
}

/// What a subscriber reads next.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Next {
    /// An event.
    Event(Text),
    /// It is so many events too far behind: the whole answer, behind which it goes on.
    Lagged(u64, Text),
    /// Nothing yet.
    Nothing,
}

impl Feed {
    /// Takes an answer; true if subscribers are to be told.
    pub fn hear(&mut self, heard: Heard) -> bool {
        let rows = heard.rows();
        let event = match &self.heard {
            None => None,
            // Counted by other rules: nothing to compare with.
            Some(before) if before.answer.generation != heard.answer.generation => {
                self.kept.clear();
                self.kept_bytes = 0;
                Some(heard.event("snapshot", rows.iter(), std::iter::empty()))
            }
            Some(_) => {
                let mut changed = rows.iter().filter(|(key, row)| self.rows.get(*key) != Some(row)).peekable();
                let mut gone = self.rows.keys().filter(|key| !rows.contains_key(*key)).peekable();
                let is_changed = changed.peek().is_some() || gone.peek().is_some();
                is_changed.then(|| heard.event("change", changed, gone))
            }
        };
        if let Some(event) = &event {
            self.keep(heard.id(), Arc::clone(event));
        }
        self.snapshot = None;
        (self.heard, self.rows) = (Some(heard), rows);
        event.is_some()
    }

    fn keep(&mut self, id: String, event: Text) {
        self.next += 1;
        self.kept_bytes += event.len();
        self.kept.push_back((id, event));
        while self.kept.len() > KEPT_EVENTS || (self.kept_bytes > KEPT_BYTES && self.kept.len() > 1) {
            self.kept_bytes -= self.kept.pop_front().map_or(0, |(_, event)| event.len());
        }
    }

    pub fn heard(&self) -> Option<&Heard> {
        self.heard.as_ref()
    }

    /// The whole answer, and the number of the first event behind it.
    pub fn snapshot(&mut self) -> Option<(Text, u64)> {
        let heard = self.heard.as_ref()?;
        let text = self.snapshot.get_or_insert_with(|| heard.event("snapshot", self.rows.iter(), std::iter::empty()));
        Some((Arc::clone(text), self.next))
    }

    /// The number of the first event behind the one of this id, if that can still be told from there.
    pub fn behind(&self, id: &str) -> Option<u64> {
        if self.heard.as_ref().is_some_and(|heard| heard.id() == id) {
            return Some(self.next);
        }
        let at = self.kept.iter().rposition(|(known, _)| known == id)?;
        Some(self.next - (self.kept.len() - at) as u64 + 1)
    }

    /// What whoever has read all below `at` reads next.
    pub fn read(&mut self, at: &mut u64) -> Next {
        if *at >= self.next {
            return Next::Nothing;
        }
        let first = self.next - self.kept.len() as u64;
        match at.checked_sub(first).and_then(|nth| self.kept.get(usize::try_from(nth).ok()?)) {
            Some((_, event)) => {
                *at += 1;
                Next::Event(Arc::clone(event))
            }
            None => {
                let missed = self.next - *at;
                let Some((text, next)) = self.snapshot() else { return Next::Nothing };
                *at = next;
                Next::Lagged(missed, text)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::Source;
    use crate::plan::plan;
    use serde_json::{Value, json};
    use tidemark_core::cut::Cut;
    use tidemark_core::generation::{Generation, Rules};
    use tidemark_core::offset::{NextOffset, Partition};

    fn planned() -> Plan {
        let text = "epoch_bits=9 dedup=true max_bytes=1000 max_depth=3 earliest_ms=0 max_ahead_ms=7 amount_strings=false view:a=event_type";
        let rules = Rules::read(Generation(1), text).expect("well formed");
        let pairs = [("step", "5m"), ("group_by", "event_type")].map(|(name, value)| (name.to_owned(), value.to_owned()));
        plan(&rules, &pairs).expect("valid")
    }

    /// `0 a=2  300000 b=1`: windows, values and counts, at a position and a watermark.
    fn heard(rows: &str, at: u64, watermark_ms: i64) -> Heard {
        let row = |row: &str| {
            let (key, count) = row.split_once('=').expect("key=count");
            let (window, value) = key.split_once(' ').expect("window value");
            let key = RowKey { bucket_ms: window.parse().expect("a window"), values: vec![value.into()] };
            (key, Cell::without_amounts(count.parse().expect("a count"), 0))
        };
        let rows = rows.split("  ").filter(|row| !row.is_empty()).map(row).collect();
        let cut = Cut::from_iter([(Partition(0), NextOffset::new(at))]);
        let (mark, end) = (Cut::default(), cut.clone());
        let answer = Answer {
            rows,
            memory: None,
            cut,
            mark,
            end,
            generation: Generation(1),
            revision: 0,
            revised: Vec::new(),
            source: Source::Cache,
        };
        Heard { plan: planned(), answer, watermark_ms: Some(watermark_ms), lateness: Duration::from_secs(60) }
    }

    fn event(text: &str) -> (String, String, Value) {
        let field = |name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(&format!("{name}: ")));
            line.unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
        };
        assert!(text.ends_with("\n\n"), "{text}");
        (field("event"), field("id"), serde_json::from_str(&field("data")).expect("JSON"))
    }

    #[test]
    fn changes_are_told_with_their_revisions_and_what_is_gone() {
        let mut feed = Feed::default();
        assert!(!feed.hear(heard("0 a=2  0 b=1", 3, 0)), "nobody has been told anything yet");
        let (kind, id, data) = event(&feed.snapshot().expect("heard").0);
        assert_eq!((kind.as_str(), id.as_str(), data["rows"].as_array().map(Vec::len)), ("snapshot", "1/0:3", Some(2)));
        let mut at = feed.snapshot().expect("heard").1;
        assert!(!feed.hear(heard("0 a=2  0 b=1", 4, 0)), "nothing of it has changed");
        assert!(feed.hear(heard("0 a=3  300000 b=1", 6, 0)));
        let Next::Event(text) = feed.read(&mut at) else { panic!("there is one") };
        let (kind, id, data) = event(&text);
        assert_eq!((kind.as_str(), id.as_str()), ("change", "1/0:6"));
        assert_eq!(
            data["rows"],
            json!([
                {"window": "1970-01-01T00:00:00.000Z", "event_type": "a", "count": 3, "revision": 3, "final": false},
                {"window": "1970-01-01T00:05:00.000Z", "event_type": "b", "count": 1, "revision": 1, "final": false},
            ])
        );
        assert_eq!(data["gone"], json!([{"window": "1970-01-01T00:00:00.000Z", "event_type": "b"}]));
        assert_eq!((feed.read(&mut at), &data["cut"]), (Next::Nothing, &json!({"0": 6})));
    }

    #[test]
    fn a_window_becomes_final_and_a_late_event_raises_its_revision() {
        let mut feed = Feed::default();
        let last = |feed: &mut Feed, heard| {
            let mut at = feed.next;
            feed.hear(heard);
            let Next::Event(text) = feed.read(&mut at) else { panic!("there is a change") };
            let row = event(&text).2["rows"][0].clone();
            (row["revision"].as_u64(), row["final"].as_bool())
        };
        feed.hear(heard("0 a=2", 3, 359_999));
        assert_eq!(last(&mut feed, heard("0 a=2", 3, 360_000)), (Some(2), Some(true)));
        assert_eq!(last(&mut feed, heard("0 a=3", 4, 360_000)), (Some(3), Some(true)));
    }

    #[test]
    fn whoever_comes_back_goes_on_behind_the_event_that_it_names() {
        let mut feed = Feed::default();
        for n in 1..=4 {
            feed.hear(heard(&format!("0 a={n}"), n, 0));
        }
        let mut at = feed.behind("1/0:2").expect("kept");
        let read: Vec<String> = std::iter::from_fn(|| match feed.read(&mut at) {
            Next::Event(text) => Some(event(&text).1),
            _ => None,
        })
        .collect();
        assert_eq!(read, ["1/0:3", "1/0:4"]);
        assert_eq!((feed.behind("1/0:4"), feed.behind("1/0:77"), feed.behind("2/0:2")), (Some(feed.next), None, None));
        // The answer that it began with is no event, but as long as nothing has changed it is where the feed is.
        let mut feed = Feed::default();
        feed.hear(heard("0 a=1", 1, 0));
        assert_eq!(feed.behind("1/0:1"), Some(0));
    }

    #[test]
    fn whoever_is_too_far_behind_is_told_so_and_gets_the_answer() {
        let mut feed = Feed::default();
        feed.hear(heard("0 a=1", 1, 0));
        let mut at = feed.snapshot().expect("heard").1;
        let events = KEPT_EVENTS as u64 + 3;
        for n in 2..2 + events {
            feed.hear(heard(&format!("0 a={n}"), n, 0));
        }
        let Next::Lagged(missed, text) = feed.read(&mut at) else { panic!("it is too far behind") };
        assert_eq!((missed, event(&text).2["rows"][0]["count"].as_u64()), (events, Some(1 + events)));
        assert_eq!(feed.read(&mut at), Next::Nothing);
    }

    #[test]
    fn another_generation_is_told_whole() {
        let mut feed = Feed::default();
        feed.hear(heard("0 a=1", 1, 0));
        let mut at = feed.snapshot().expect("heard").1;
        let mut other = heard("0 a=1", 1, 0);
        other.answer.generation = Generation(2);
        assert!(feed.hear(other));
        let Next::Event(text) = feed.read(&mut at) else { panic!("there is one") };
        assert_eq!((event(&text).0.as_str(), event(&text).1.as_str()), ("snapshot", "2/0:1"));
    }
}
