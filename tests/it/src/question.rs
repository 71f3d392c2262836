//! Questions, their answers, and how a time falls into a bucket: by jiff's calendar, not by Tidemark's.

use crate::chance::Chance;
use crate::client::{Client, Position, written};
use jiff::civil::Weekday;
use jiff::tz::TimeZone;
use jiff::{Timestamp, ToSpan as _};
use serde_json::Value;

pub const WINDOW_MS: i64 = 300_000;
const HOUR_MS: i64 = 12 * WINDOW_MS;
const DAY_MS: i64 = 24 * HOUR_MS;
const ZONES: [Option<&str>; 4] = [None, None, Some("America/New_York"), Some("Asia/Kolkata")];
const STEPS: [&str; 6] = ["total", "5m", "15m", "1h", "1d", "1w"];
const GROUPS: [&[&str]; 5] = [&[], &["event_type"], &["product_id"], &["event_type", "product_id"], &["product_id", "event_type"]];
const TYPES: [&str; 6] = ["UA", "DL", "B6", "9E", "OO", "none-such"];
const PRODUCTS: [&str; 4] = ["JFK-LAX", "LGA-ATL", "EWR-IAH", "none-such"];

/// What can be asked of `/v1/query`, all measures always.
#[derive(Clone, Debug, Default)]
pub struct Question {
    pub step: &'static str,
    pub group_by: &'static [&'static str],
    /// One dimension's values: any of them; two dimensions: both.
    pub filters: Vec<(&'static str, &'static str)>,
    pub from_ms: Option<i64>,
    pub to_ms: Option<i64>,
    pub zone: Option<&'static str>,
    /// By count. Only with a total.
    pub top: Option<usize>,
}

/// What came back, rows as they were written.
#[derive(Clone, Debug)]
pub struct Answer {
    /// As text: thousands of answers are kept until they can be judged, and values take many times as much.
    rows: String,
    pub cut: Position,
    pub mark: Position,
    pub end: Position,
    pub generation: u64,
}

impl Question {
    pub fn total() -> Self {
        Self { step: "total", ..Self::default() }
    }

    pub fn by(step: &'static str, group_by: &'static [&'static str]) -> Self {
        Self { step, group_by, ..Self::default() }
    }

    /// Any question about January 2013.
    pub fn any(chance: &mut Chance) -> Self {
        let step = *chance.pick(&STEPS);
        let group_by = *chance.pick(&GROUPS);
        let is_fine = matches!(step, "5m" | "15m");
        let (from_ms, to_ms) = range(chance, is_fine && group_by.contains(&"product_id"));
        let mut filters = Vec::new();
        if chance.once_in(3) {
            filters.extend((0..=chance.below(3)).map(|_| ("event_type", *chance.pick(&TYPES))));
        }
        if chance.once_in(5) {
            filters.extend((0..=chance.below(2)).map(|_| ("product_id", *chance.pick(&PRODUCTS))));
        }
        let zone = if matches!(step, "1d" | "1w") { *chance.pick(&ZONES) } else { None };
        let top = (step == "total" && !group_by.is_empty() && chance.once_in(3)).then(|| 1 + chance.below(12));
        Self { step, group_by, filters, from_ms, to_ms, zone, top }
    }

    /// As a request; `at_least` waits for a position.
    pub fn path(&self, at_least: Option<&Position>) -> String {
        let mut text = form_urlencoded::Serializer::new(String::new());
        text.append_pair("step", self.step).append_pair("measures", "count,amount_count,sum,min,max,avg");
        if !self.group_by.is_empty() {
            text.append_pair("group_by", &self.group_by.join(","));
        }
        for (dimension, value) in &self.filters {
            text.append_pair("where", &format!("{dimension}:{value}"));
        }
        if let Some(from_ms) = self.from_ms {
            text.append_pair("from", &from_ms.to_string());
        }
        if let Some(to_ms) = self.to_ms {
            text.append_pair("to", &instant(to_ms).to_string());
        }
        if let Some(zone) = self.zone {
            text.append_pair("tz", zone);
        }
        if let Some(top) = self.top {
            text.append_pair("top", &format!("{top}:count"));
        }
        if let Some(position) = at_least {
            text.append_pair("at_least", &written(position)).append_pair("timeout_ms", "60000");
        }
        format!("/v1/query?{}", text.finish())
    }

    pub fn ask(&self, client: &Client, at_least: Option<&Position>) -> Answer {
        Answer::read(&client.got(&self.path(at_least)))
    }

    /// The answer, unless the server cannot give one now: then a problem document must say so.
    pub fn try_ask(&self, client: &Client) -> Option<Answer> {
        let reply = client.try_get(&self.path(None)).ok()?;
        if reply.status == 200 {
            return Some(Answer::read(&reply.json()));
        }
        assert_eq!((reply.status, &*reply.content_type), (503, "application/problem+json"), "{}", reply.text());
        None
    }

    /// The start of the bucket that a window falls in; 0 for a total.
    pub fn bucket(&self, window_ms: i64) -> i64 {
        match self.step {
            "total" => 0,
            "5m" => window_ms,
            "15m" => floor(window_ms, 3 * WINDOW_MS),
            "1h" => floor(window_ms, HOUR_MS),
            "1d" | "1w" => self.calendar_bucket(window_ms),
            other => panic!("this recount knows no step {other}"),
        }
    }

    fn calendar_bucket(&self, window_ms: i64) -> i64 {
        let zone = self.zone.map_or(TimeZone::UTC, |name| TimeZone::get(name).expect("a zone of the bundled database"));
        let mut date = zone.to_datetime(instant(window_ms)).date();
        if self.step == "1w" {
            date = date.checked_sub(i64::from(date.weekday().since(Weekday::Monday)).days()).expect("a date before");
        }
        zone.to_ambiguous_timestamp(date.at(0, 0, 0, 0)).compatible().expect("a day begins").as_millisecond()
    }
}

impl Answer {
    pub fn read(json: &Value) -> Self {
        assert_eq!(json["exact"], true, "the answer says that it is exact");
        let position = |name: &str| {
            let pairs = json[name].as_object().unwrap_or_else(|| panic!("the answer has no `{name}`: {json}"));
            pairs.iter().map(|(partition, next)| (partition.parse().expect("a partition"), next.as_u64().expect("an offset"))).collect()
        };
        let rows = json["rows"].to_string();
        let generation = json["generation"].as_u64().expect("the answer names its generation");
        Self { rows, cut: position("cut"), mark: position("mark"), end: position("end"), generation }
    }

    pub fn rows(&self) -> Vec<Value> {
        serde_json::from_str(&self.rows).expect("an answer has rows")
    }

    /// The count of an answer that has one row.
    pub fn count(&self) -> u64 {
        let rows = self.rows();
        assert_eq!(rows.len(), 1, "one row: {rows:?}");
        rows[0]["count"].as_u64().expect("a count")
    }
}

/// A range in January and a little beyond, either side absent now and then.
fn range(chance: &mut Chance, short: bool) -> (Option<i64>, Option<i64>) {
    let january_ms: i64 = 1_356_998_400_000;
    let windows = |n: usize| i64::try_from(n).expect("few windows") * WINDOW_MS;
    let from_ms = january_ms + windows(chance.below(31 * 288));
    let length = *chance.pick(if short { &[1, 12, 288] } else { &[1, 288, 288 * 7, 288 * 31] });
    let to_ms = from_ms + windows(1 + chance.below(length));
    match chance.below(5) {
        0 if !short => (None, None),
        1 if !short => (Some(from_ms), None),
        2 if !short => (None, Some(to_ms)),
        3 => (Some(floor(from_ms, DAY_MS)), Some(floor(from_ms, DAY_MS) + if short { DAY_MS } else { 7 * DAY_MS })),
        _ => (Some(from_ms), Some(to_ms)),
    }
}

fn floor(ms: i64, unit: i64) -> i64 {
    ms - ms.rem_euclid(unit)
}

pub fn instant(ms: i64) -> Timestamp {
    Timestamp::from_millisecond(ms).expect("a time within the calendar")
}
