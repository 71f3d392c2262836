//! Answers that are known beforehand: `tests/data/expected`, compared by the rules of `conformance.py`.

use crate::client::{Client, Position, written};
use crate::data;
use crate::question::instant;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;

const PLAIN: [&str; 6] = ["count", "amount_count", "sum", "min", "max", "avg"];
const COVERED: [&str; 2] = ["event_type", "product_id"];

/// Asks every query that the views cover, and panics with all that differ. Gives how many there were.
pub fn check_queries(client: &Client, position: &Position) -> usize {
    let known: Vec<Value> = serde_json::from_str(&data::text("expected/queries.json.gz")).expect("the expected answers are JSON");
    let mut differ = Vec::new();
    let mut asked = 0;
    for item in &known {
        let Some(query) = Query::covered(&item["query"]) else { continue };
        asked += 1;
        let answer = client.got(&query.path(position));
        let is_exact = answer["exact"] == true && answer["cut"].is_object() && answer["mark"].is_object();
        let wanted = item["rows"].as_array().expect("an expected answer has rows");
        let found = answer["rows"].as_array().expect("an answer has rows");
        let compared = query.compare(wanted, found, item["tie_at_cut"] == true);
        if let Err(what) = compared.and_then(|()| if is_exact { Ok(()) } else { Err("does not say that it is exact".to_owned()) }) {
            differ.push(format!("{}: {what}", item["id"]));
        }
    }
    assert!(differ.is_empty(), "{} of {asked} answers differ:\n{}", differ.len(), differ.join("\n"));
    assert!(asked > 15, "only {asked} of the expected queries were asked");
    asked
}

/// An expected query, with its plain measures only.
struct Query<'a> {
    json: &'a Value,
    measures: Vec<&'a str>,
    group_by: Vec<&'a str>,
}

impl<'a> Query<'a> {
    fn covered(json: &'a Value) -> Option<Self> {
        let measures: Vec<&str> = texts(&json["metrics"]).into_iter().filter(|name| PLAIN.contains(name)).collect();
        let group_by = texts(&json["group_by"]);
        let filters = json["filter"].as_object().map(|filter| filter.keys().map(String::as_str).collect::<Vec<_>>()).unwrap_or_default();
        let is_covered = !measures.is_empty() && group_by.iter().chain(&filters).all(|name| COVERED.contains(name));
        is_covered.then_some(Self { json, measures, group_by })
    }

    fn path(&self, position: &Position) -> String {
        let mut text = form_urlencoded::Serializer::new(String::new());
        text.append_pair("step", self.json["granularity"].as_str().unwrap_or("total"));
        text.append_pair("at_least", &written(position)).append_pair("timeout_ms", "60000");
        text.append_pair("measures", &self.measures.join(","));
        for name in ["from", "to", "tz"] {
            if let Some(value) = self.json[name].as_str() {
                text.append_pair(name, value);
            }
        }
        if !self.group_by.is_empty() {
            text.append_pair("group_by", &self.group_by.join(","));
        }
        for (name, values) in self.json["filter"].as_object().into_iter().flatten() {
            for value in texts(values) {
                text.append_pair("where", &format!("{name}:{value}"));
            }
        }
        if let (Some(n), Some(by)) = (self.json["limit"].as_u64(), self.json["order_by"].as_str()) {
            text.append_pair("top", &format!("{n}:{by}"));
        }
        format!("/v1/query?{}", text.finish())
    }

    fn compare(&self, wanted: &[Value], found: &[Value], tie: bool) -> Result<(), String> {
        if wanted.len() != found.len() {
            return Err(format!(
                "{} rows, expected {}; the first {:?} against {:?}",
                found.len(),
                wanted.len(),
                found.first(),
                wanted.first()
            ));
        }
        // Ranks equal at the cut may be any.
        let last = if tie { wanted.last().map(|row| &row[self.json["order_by"].as_str().unwrap_or_default()]) } else { None };
        let above = |row: &&Value| last.is_none_or(|last| &row[self.json["order_by"].as_str().unwrap_or_default()] != last);
        let (wanted, found): (Vec<&Value>, Vec<&Value>) = (wanted.iter().filter(above).collect(), found.iter().filter(above).collect());
        if wanted.len() != found.len() {
            return Err(format!("{} rows above the tie, expected {}", found.len(), wanted.len()));
        }
        let wrong = wanted.iter().zip(&found).find(|(wanted, found)| !self.is_same_row(wanted, found));
        wrong.map_or(Ok(()), |(wanted, found)| Err(format!("row {found}, expected {wanted}")))
    }

    fn is_same_row(&self, wanted: &Value, found: &Value) -> bool {
        self.group_by.iter().all(|name| wanted[*name] == found[*name])
            && time(&wanted["window_start"]) == time(&found["window"])
            && self.measures.iter().all(|name| is_same(name, &wanted[*name], &found[*name]))
    }
}

fn texts(json: &Value) -> Vec<&str> {
    match json {
        Value::String(text) => vec![text],
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    }
}

fn time(json: &Value) -> Option<jiff::Timestamp> {
    json.as_str().map(|text| text.parse().unwrap_or_else(|error| panic!("{text}: {error}")))
}

fn is_same(measure: &str, wanted: &Value, found: &Value) -> bool {
    match measure {
        "count" | "amount_count" => wanted.as_u64().is_some() && wanted == found,
        "avg" => match (wanted.as_f64(), found.as_str().and_then(|text| text.parse::<f64>().ok())) {
            (Some(wanted), Some(found)) => (wanted - found).abs() <= (wanted.abs() * 1e-9).max(1e-6),
            _ => wanted.is_null() && found.is_null(),
        },
        // The file's floats have one decimal; an answer has four, and all of them count.
        _ => match (wanted.as_f64(), found.as_str()) {
            (Some(wanted), Some(found)) => format!("{wanted:.4}") == found,
            _ => wanted.is_null() && found.is_null(),
        },
    }
}

/// Compares all 5-minute rows of each UTC day of 2013 with their digest. Gives how many days there were.
pub fn check_digests(client: &Client, position: &Position) -> usize {
    let text = data::text("expected/digest_5m_by_day.csv.gz");
    let mut differ = Vec::new();
    let days: Vec<Vec<&str>> = text.lines().skip(1).map(|line| line.split(',').collect()).collect();
    for day in &days {
        let from: jiff::Timestamp = format!("{}T00:00:00Z", day[0]).parse().expect("a day");
        let rows = rows_between(client, position, from.as_millisecond(), from.as_millisecond() + 86_400_000);
        let canonical: String = rows.iter().map(|row| canonical(row, 2) + "\n").collect();
        let digest: String = Sha256::digest(canonical.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
        if digest != day[3] {
            differ.push(day[0]);
        }
    }
    assert!(differ.is_empty(), "{} of {} days differ: {differ:?}", differ.len(), days.len());
    days.len()
}

/// Compares all 5-minute rows of January by type with the file that has them. Gives how many there were.
pub fn check_january(client: &Client, position: &Position) -> usize {
    let text = data::text("flights-2013-01.expected.5m_by_type.csv.gz");
    let wanted: BTreeSet<String> = text.lines().skip(1).map(str::to_owned).collect();
    let path = format!(
        "/v1/query?step=5m&group_by=event_type&measures=count,amount_count,sum,min,max&at_least={}&timeout_ms=60000",
        written(position)
    );
    let answer = client.got(&path);
    let rows: Vec<String> = answer["rows"].as_array().expect("an answer has rows").iter().map(|row| canonical(row, 1)).collect();
    let found: BTreeSet<String> = rows.iter().cloned().collect();
    let (missing, added): (Vec<_>, Vec<_>) = (wanted.difference(&found).take(3).collect(), found.difference(&wanted).take(3).collect());
    assert!(
        missing.is_empty() && added.is_empty() && rows.len() == found.len(),
        "{} rows, expected {}; missing {missing:?}, too many {added:?}",
        rows.len(),
        wanted.len()
    );
    rows.len()
}

fn rows_between(client: &Client, position: &Position, from_ms: i64, to_ms: i64) -> Vec<Value> {
    let (from, to) = (instant(from_ms), instant(to_ms));
    let path = format!(
        "/v1/query?step=5m&group_by=event_type&measures=count,amount_count,sum,min,max&from={from}&to={to}&at_least={}&timeout_ms=60000",
        written(position)
    );
    client.got(&path)["rows"].as_array().expect("an answer has rows").clone()
}

/// `window,event_type,count,amount_count,sum,min,max`, amounts to so many decimals, which must hold them exactly.
fn canonical(row: &Value, decimals: usize) -> String {
    let money = |name: &str| {
        let Some(text) = row[name].as_str() else { return String::new() };
        let (kept, dropped) = text.split_at(text.len() - (4 - decimals));
        assert!(text.contains('.') && dropped.bytes().all(|digit| digit == b'0'), "{text} has other than {decimals} decimals");
        kept.to_owned()
    };
    let text = |name: &str| row[name].as_str().unwrap_or_default();
    format!(
        "{},{},{},{},{},{},{}",
        text("window"),
        text("event_type"),
        row["count"],
        row["amount_count"],
        money("sum"),
        money("min"),
        money("max")
    )
}
