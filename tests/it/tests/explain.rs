//! Any number of an answer can be explained: the explanation adds up to it, and to what the topic holds.

use serde_json::Value;
use std::collections::BTreeMap;
use tidemark_tests::chance::Chance;
use tidemark_tests::client::{Client, written};
use tidemark_tests::data;
use tidemark_tests::figure::figure;
use tidemark_tests::question::{Question, WINDOW_MS, instant};
use tidemark_tests::recount::{Recount, Verdict};
use tidemark_tests::sending::{Manner, Pace, by_http, by_kafka};
use tidemark_tests::server::Site;

const EPOCH_BITS: u8 = 9;
const CONFIG: &str = "[counting]\nepoch_bits = 9\n[batch]\nmax_age_ms = 200\n[serving]\nlateness_ms = 300000\n";
const LATENESS_MS: i64 = 300_000;
const MANNER: Manner = Manner { batch: 200, clients: 2, persistent: false };
const NUMBERS: usize = 40;
const GROUPS: [&[&str]; 4] = [&["event_type"], &["event_type", "product_id"], &["user_id"], &[]];

/// All pages of an explanation: the first, and the events of all.
fn explained(client: &Client, path: &str) -> (Value, Vec<Value>) {
    let first = client.got(path);
    let mut events: Vec<Value> = first["events"].as_array().expect("events").clone();
    let mut next = first["next"].as_str().map(str::to_owned);
    while let Some(path) = next {
        let page = client.got(&path);
        assert_eq!((&page["number"], &page["cut"]), (&first["number"], &first["cut"]), "every page is of one number");
        events.extend(page["events"].as_array().expect("events").iter().cloned());
        next = page["next"].as_str().map(str::to_owned);
    }
    (first, events)
}

#[test]
fn an_explanation_adds_up_to_its_number_and_to_the_topic() {
    let site = Site::new(CONFIG);
    let server = site.up();
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = &data::lines(&january)[..8_000];
    by_http(&server.client, lines, MANNER, &Pace::free());
    // Ingest keeps dead letters out; other producers do not. What was sent comes again.
    by_kafka(&server.runtime().kafka, &server.topic(), &[&[b"{".as_slice(); 20][..], &lines[7_900..]].concat());
    server.settled();
    let recount = Recount::read(&server.runtime().kafka, &server.topic(), EPOCH_BITS);
    let mut chance = Chance::new("explain");
    let (mut seen, mut layers) = (0, BTreeMap::new());
    for _ in 0..NUMBERS {
        let group_by = *chance.pick(&GROUPS);
        let question = Question::by(["5m", "1h", "1d"][chance.below(3)], group_by);
        let answer = question.ask(&server.client, None);
        let row = chance.pick(&answer.rows()).clone();
        let window: i64 = row["window"].as_str().and_then(|at| at.parse::<jiff::Timestamp>().ok()).expect("a time").as_millisecond();
        let mut path = form_urlencoded::Serializer::new(String::new());
        path.append_pair("step", question.step)
            .append_pair("window", &instant(window).to_string())
            .append_pair("group_by", &group_by.join(","));
        for name in group_by {
            path.append_pair("group", &format!("{name}:{}", row[*name].as_str().expect("a value")));
        }
        path.append_pair("limit", "100").append_pair("at", &format!("1/{}", written(&answer.cut)));
        let (number, events) = explained(&server.client, &format!("/v1/explain?{}", path.finish()));

        for measure in ["count", "amount_count", "sum", "avg", "min", "max"] {
            assert_eq!(number["number"][measure], row[measure], "{measure} of {row}: {number}");
        }
        let epochs = number["epochs"].as_array().expect("epochs");
        let total = |name: &str| epochs.iter().map(|epoch| epoch[name].as_u64().expect("a number")).sum::<u64>();
        assert_eq!((Some(total("count")), Some(total("late"))), (row["count"].as_u64(), number["late"].as_u64()), "{number}");
        for epoch in epochs {
            *layers.entry(epoch["layer"].as_str().expect("a layer").to_owned()).or_insert(0) += 1;
        }
        let places: Vec<(u64, u64)> = events
            .iter()
            .map(|event| (event["partition"].as_u64().expect("a number"), event["offset"].as_u64().expect("a number")))
            .collect();
        let width = match question.step {
            "5m" => WINDOW_MS,
            "1h" => 12 * WINDOW_MS,
            _ => 288 * WINDOW_MS,
        };
        let expected = of_topic(&recount, window..window + width, group_by, &row);
        assert_eq!(places, expected.iter().map(|(place, _)| *place).collect::<Vec<_>>(), "{row}");
        let late: Vec<bool> = events.iter().map(|event| event["late"].as_bool().expect("known")).collect();
        assert_eq!(late, expected.iter().map(|(_, late)| *late).collect::<Vec<_>>(), "{row}");
        assert_eq!(uncounted(&number), uncounted_of_topic(&recount, &places), "{row}");
        seen += events.len();
    }
    figure("explained: numbers, events, epochs by layer", format!("{NUMBERS}, {seen}, {layers:?}"));
    assert!(layers.len() == 2, "both layers: {layers:?}");
    server.stop();
}

/// The places of a row's events, and whether each came late: behind an event of a time by which late ones are not expected.
fn of_topic(recount: &Recount, windows: std::ops::Range<i64>, group_by: &[&str], row: &Value) -> Vec<((u64, u64), bool)> {
    let mut found = Vec::new();
    for (partition, records) in &recount.partitions {
        let mut over = false;
        for (offset, verdict) in records {
            let Verdict::Event(event) = verdict else { continue };
            let value = |name: &str| match name {
                "event_type" => &event.event_type,
                "product_id" => &event.product_id,
                _ => &event.user_id,
            };
            if windows.contains(&event.window_ms) && group_by.iter().all(|name| row[*name] == **value(name)) {
                found.push(((u64::from(*partition), *offset), over));
            }
            over |= event.window_ms >= windows.end + LATENESS_MS;
        }
    }
    found
}

type Reasons = BTreeMap<(u64, String), u64>;

fn uncounted(number: &Value) -> Reasons {
    let of = |of: &Value| {
        (
            (of["partition"].as_u64().expect("a number"), of["reason"].as_str().expect("a reason").to_owned()),
            of["records"].as_u64().expect("a number"),
        )
    };
    number["uncounted"].as_array().expect("a list").iter().map(of).collect()
}

/// From the first of the places to the last, on each partition.
fn uncounted_of_topic(recount: &Recount, places: &[(u64, u64)]) -> Reasons {
    let mut reasons = Reasons::new();
    for ((partition, offset), reason) in recount.uncounted() {
        let partition = u64::from(partition);
        let mut offsets = places.iter().filter(|(p, _)| *p == partition).map(|(_, offset)| *offset);
        let first = offsets.next();
        let last = offsets.next_back().or(first);
        if first.is_some_and(|first| first < offset) && last.is_some_and(|last| offset < last) {
            *reasons.entry((partition, reason.to_owned())).or_default() += 1;
        }
    }
    reasons
}
