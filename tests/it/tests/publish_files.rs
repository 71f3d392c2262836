//! `tidemark replay publish` from files and from raw history: each event once, whatever is killed, with its time moved or not.

use crate::publish::{Copied, PATIENCE, command, kill_thrice, make, publish, read};
use serde_json::Value;
use std::collections::{BTreeMap, HashMap};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, SystemTime};
use tidemark_tests::client::Client;
use tidemark_tests::data;
use tidemark_tests::retention::remove;
use tidemark_tests::sending::by_kafka;
use tidemark_tests::server::{Server, Site, binary};

const JANUARY: &str = "flights-2013-01.late.ndjson.gz";
const DIRTY: &str = "flights-2013-01.dirty.ndjson.gz";

fn path(name: &str) -> String {
    data::path(name).display().to_string()
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

#[track_caller]
fn succeeded(output: &Output, says: &str) {
    assert!(output.status.success() && said(output).contains(says), "{}", said(output));
}

/// The last line as JSON: the report.
pub(crate) fn reported(output: &Output) -> Value {
    assert!(output.status.success(), "{}", said(output));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    serde_json::from_str(text.lines().last().expect("a report")).expect("the report is JSON")
}

type Key = Option<Vec<u8>>;

/// The user, else the event's id.
fn key(line: &[u8]) -> Key {
    let event: Value = serde_json::from_slice(line).ok()?;
    let text = |name: &str| event[name].as_str().filter(|text| !text.is_empty()).map(|text| text.as_bytes().to_vec());
    text("user_id").or_else(|| text("event_id"))
}

/// Each line is there once, and those of a key are in order.
fn check_lines(published: &BTreeMap<i32, Vec<Copied>>, lines: &[Vec<u8>]) {
    let mut by_key: HashMap<Key, Vec<&[u8]>> = HashMap::new();
    lines.iter().for_each(|line| by_key.entry(key(line)).or_default().push(line));
    let mut found: HashMap<Key, (i32, Vec<&[u8]>)> = HashMap::new();
    for (partition, records) in published {
        for record in records {
            let (at, payloads) = found.entry(record.key.clone()).or_insert((*partition, Vec::new()));
            payloads.push(record.payload.as_deref().expect("a payload"));
            assert!(*at == *partition || record.key.is_none(), "a key has one partition");
        }
    }
    let keyed = |key: &Key| if key.is_none() { "what has no key".to_owned() } else { format!("{key:?}") };
    for (key, wanted) in &mut by_key {
        let (_, payloads) = found.get_mut(key).unwrap_or_else(|| panic!("{} is missing", keyed(key)));
        // Without a key a record goes anywhere.
        if key.is_none() {
            wanted.sort_unstable();
            payloads.sort_unstable();
        }
        assert!(payloads == wanted, "{}: {} for {}", keyed(key), payloads.len(), wanted.len());
    }
    assert_eq!(found.len(), by_key.len());
}

fn owned(lines: &[&[u8]]) -> Vec<Vec<u8>> {
    lines.iter().map(|line| line.to_vec()).collect()
}

fn now_ms() -> i64 {
    i64::try_from(SystemTime::UNIX_EPOCH.elapsed().expect("after 1970").as_millis()).expect("an i64")
}

/// A line with another time in the same form, if it is JSON that has one.
fn moved(line: &[u8], by_ms: i64) -> Vec<u8> {
    let Ok(event) = serde_json::from_slice::<Value>(line) else { return line.to_vec() };
    let (was, is) = match &event["timestamp"] {
        Value::Number(ms) => (ms.to_string(), (ms.as_i64().expect("milliseconds") + by_ms).to_string()),
        Value::String(text) => {
            let at: jiff::Timestamp = text.parse().expect("a time");
            let later = jiff::Timestamp::from_millisecond(at.as_millisecond() + by_ms).expect("a time");
            (text.clone(), later.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string())
        }
        other => panic!("{other} is no time"),
    };
    let text = String::from_utf8(line.to_vec()).expect("JSON is UTF-8");
    assert_eq!(text.matches(&was).count(), 1, "{text}");
    text.replace(&was, &is).into_bytes()
}

#[test]
fn files_are_published_whole_though_the_copy_is_killed_and_times_move_by_one_and_the_same() {
    let site = Site::new("[kafka]\npartitions = 3\n");
    let server = site.up();
    for topic in ["filed", "moved"] {
        make(&server, topic, &[]);
    }
    let (january, dirty) = (data::bytes(JANUARY), data::bytes(DIRTY));
    let (january, dirty) = (owned(&data::lines(&january)), owned(&data::lines(&dirty)));

    // A packed file, a plain one with blank lines, and one that ends without an end of line.
    let plain = "{\"event_type\":\"a\",\"timestamp\":1357035300000,\"event_id\":\"one\"}\r\n\n  \nno event\n";
    let last = "{\"event_type\":\"a\",\"timestamp\":\"2013-01-01T10:15:00Z\"}";
    let (plain, last) = (site.file("plain.ndjson", plain), site.file("last.ndjson", last));
    let (plain, last) = (plain.display().to_string(), last.display().to_string());
    let wanted = ["--from-file", &path(JANUARY), &plain, &last, "--into", "filed"];
    kill_thrice(&site, &server, &wanted, "filed", january.len());
    let done = publish(&site, &wanted);
    succeeded(&done, "1 of the records are no events");
    let mut lines = january.clone();
    let more = [
        "{\"event_type\":\"a\",\"timestamp\":1357035300000,\"event_id\":\"one\"}",
        "no event",
        "{\"event_type\":\"a\",\"timestamp\":\"2013-01-01T10:15:00Z\"}",
    ];
    lines.extend(more.map(|line| line.as_bytes().to_vec()));
    let filed = read(&server, "filed");
    check_lines(&filed, &lines);
    let ages = filed.values().flatten().map(|record| now_ms() - record.timestamp_ms);
    assert!(ages.max().expect("records") < 600_000, "records are of the time at which they were written");

    // Keys go where ingest puts them.
    let sent: Vec<&[u8]> = january.iter().take(500).map(Vec::as_slice).collect();
    let reply = server.client.post("/v1/events", &[("content-type", "application/x-ndjson")], &sent.join(&b'\n'));
    assert_eq!(reply.status, 200, "{}", reply.text());
    let places = |records: BTreeMap<i32, Vec<Copied>>| -> HashMap<Vec<u8>, i32> {
        records.into_iter().flat_map(|(at, records)| records.into_iter().filter_map(move |record| Some((record.key?, at)))).collect()
    };
    let (ours, ingested) = (places(filed), places(read(&server, &server.topic())));
    assert!(ingested.len() > 100 && ingested.iter().all(|(key, at)| ours.get(key) == Some(at)));

    // Again there is nothing to do; what is appended to the last file is published by the same command.
    let again = publish(&site, &[&wanted[..], &["--json"]].concat());
    let report = reported(&again);
    assert_eq!((&report["records"], &report["complete"]), (&Value::from(0), &Value::from(true)), "{report}");
    std::fs::write(&last, format!("{}\n{}\n", more[2], more[0])).expect("writing a file");
    assert_eq!(reported(&publish(&site, &[&wanted[..], &["--json"]].concat()))["records"], 1);

    // The dirty file with its times moved: what is no event passes as it is.
    let began = now_ms();
    let shifted = ["--from-file", &path(DIRTY), "--into", "moved", "--shift-to-now", "--json"];
    kill_thrice(&site, &server, &shifted, "moved", dirty.len());
    let output = publish(&site, &shifted);
    let report = reported(&output);
    let by_ms = report["shifted_ms"].as_i64().expect("times were moved");
    let first: jiff::Timestamp = "2013-01-01T10:15:00Z".parse().expect("a time");
    assert!((began..now_ms()).contains(&(first.as_millisecond() + by_ms)), "the first is now: {report}");
    let moved_lines = read(&server, "moved").into_values().flatten().map(|record| record.payload.expect("a payload"));
    check_moved(moved_lines.collect(), &dirty, by_ms);

    // A topic's events move likewise, and its records are not of the future, which Kafka would refuse.
    let mut later = Command::new(binary());
    later.args(["replay", "publish", "--topic", "filed", "--into", "later", "--shift-to-now", "--json", "--data"]).arg(site.data());
    let report = reported(&later.output().expect("tidemark starts"));
    let (by_ms, filed, later) = (report["shifted_ms"].as_i64().expect("times were moved"), read(&server, "filed"), read(&server, "later"));
    assert_eq!(report["no_events"], 1, "{report}");
    for (partition, records) in filed {
        let payloads = |records: &[Copied]| records.iter().map(|record| record.payload.clone().expect("a payload")).collect::<Vec<_>>();
        let expected: Vec<Vec<u8>> = payloads(&records).iter().map(|line| moved(line, by_ms)).collect();
        assert!(payloads(&later[&partition]) == expected, "partition {partition}");
        assert!(later[&partition].iter().all(|record| record.timestamp_ms <= now_ms()));
    }

    refuses(&site, &server);
    server.stop();
}

/// As many as there were, each either as it was, because it is no event, or with its time moved.
fn check_moved(mut published: Vec<Vec<u8>>, lines: &[Vec<u8>], by_ms: i64) {
    let manifest = String::from_utf8(data::bytes("flights-2013-01.dirty.manifest.csv.gz")).expect("UTF-8");
    let no_events: Vec<usize> = manifest
        .lines()
        .skip(1)
        .map(|line| line.split(',').collect::<Vec<_>>())
        .filter(|fields| fields[2] != "duplicate")
        .map(|fields| fields[0].parse::<usize>().expect("a line number") - 1)
        .collect();
    assert!(no_events.len() > 100);
    let expected = lines.iter().enumerate();
    let expected = expected.map(|(n, line)| if no_events.contains(&n) { line.clone() } else { moved(line, by_ms) });
    let mut expected: Vec<Vec<u8>> = expected.collect();
    expected.sort_unstable();
    published.sort_unstable();
    assert_eq!(published.len(), expected.len());
    for (published, expected) in published.iter().zip(&expected) {
        assert_eq!(String::from_utf8_lossy(published), String::from_utf8_lossy(expected));
    }
}

/// What cannot be published is said, with the place and what to do.
fn refuses(site: &Site, server: &Server) {
    let whole = std::fs::read(data::path(JANUARY)).expect("a file of tests/data");
    let cut = site.file("cut.ndjson.gz", "");
    std::fs::write(&cut, &whole[..whole.len() / 2]).expect("writing a file");
    let cut = cut.display().to_string();
    make(server, "wrong", &[]);
    for (arguments, wanted) in [
        (&["--from-file", &cut][..], "the file is broken or cut off there"),
        (&["--from-file", &cut], "cut.ndjson.gz:1"),
        (&["--from-file", "/nowhere.ndjson"], "/nowhere.ndjson: cannot be opened"),
        (&["--from-file", "-"], "standard input cannot be published"),
        (&["--from-file", &cut, "--raw"], "cannot be used with"),
        (&["--from-file", &cut, "--from", "1"], "cannot be used with"),
    ] {
        let output = publish(site, &[arguments, &["--into", "wrong"]].concat());
        assert!(!output.status.success() && said(&output).contains(wanted), "{arguments:?}: {}", said(&output));
    }
    // A whole file in its place goes on from there.
    std::fs::write(&cut, &whole).expect("writing a file");
    succeeded(&publish(site, &["--from-file", &cut, "--into", "wrong"]), "all of the range has been copied");
    let january = data::bytes(JANUARY);
    check_lines(&read(server, "wrong"), &owned(&data::lines(&january)));
    // A shorter one, or one that begins otherwise, is another.
    std::fs::write(&cut, data::lines(&january)[..10].join(&b'\n')).expect("writing a file");
    let shorter = publish(site, &["--from-file", &cut, "--into", "wrong"]);
    assert!(!shorter.status.success() && said(&shorter).contains("has 10 lines, but 26865"), "{}", said(&shorter));
    std::fs::write(&cut, "another\n").expect("writing a file");
    let other = publish(site, &["--from-file", &cut, "--into", "wrong"]);
    assert!(!other.status.success() && said(&other).contains("give this one another name"), "{}", said(&other));
}

/// What an event says, however it is written; anything else is what its bytes are.
fn meaning(payload: &[u8]) -> String {
    let read = || -> Option<String> {
        let event: Value = serde_json::from_slice(payload).ok()?;
        let text = |name: &str| event[name].as_str().unwrap_or_default();
        let at = match &event["timestamp"] {
            Value::Number(ms) => ms.as_i64()?,
            Value::String(text) => text.parse::<jiff::Timestamp>().ok()?.as_millisecond(),
            _ => return None,
        };
        let as_text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let members = event["properties"].as_object().into_iter().flatten();
        let properties: BTreeMap<&String, String> = members.map(|(name, value)| (name, as_text(value))).collect();
        let (kind, id, product, user) = (event["event_type"].as_str()?, text("event_id"), text("product_id"), text("user_id"));
        Some(format!("{kind} {at} {id} {product} {user} {:?} {properties:?}", event["order_amount"].as_f64()))
    };
    read().unwrap_or_else(|| format!("{payload:?}"))
}

fn meanings(records: &[Copied]) -> Vec<String> {
    records.iter().map(|record| meaning(record.payload.as_deref().unwrap_or_default())).collect()
}

/// `replay publish` of the server's own topic.
pub(crate) fn publish_own(site: &Site, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(["replay", "publish", "--data"]).arg(site.data()).arg("--config").arg(site.config()).args(arguments);
    command
}

#[test]
fn raw_history_gives_what_the_topic_no_longer_has() {
    let site = Site::new("[kafka]\npartitions = 3\n[counting]\nepoch_bits = 9\n[batch]\nmax_age_ms = 200\n");
    let server = site.up();
    let dirty = data::bytes(DIRTY);
    by_kafka(&server.runtime().kafka, &server.topic(), &data::lines(&dirty));
    let status = server.settled();
    let had = read(&server, &server.topic());
    remove(&server, 4000);
    let gone = publish_own(&site, &["--into", "again", "--from", "0:0,1:0,2:0"]).output().expect("tidemark starts");
    assert!(!gone.status.success() && said(&gone).contains("--raw takes what the topic no longer has"), "{}", said(&gone));

    let wanted = ["--raw", "--into", "again", "--rate", "5000"];
    make(&server, "again", &[]);
    for round in 1..=2 {
        let mut copying = publish_own(&site, &wanted).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("tidemark starts");
        tidemark_tests::wait::until("the copy goes on", PATIENCE, || {
            (read(&server, "again").values().map(Vec::len).sum::<usize>() > round * 6000).then_some(())
        });
        copying.kill().expect("killing a child");
        copying.wait().expect("waiting for a killed child");
    }
    succeeded(&publish_own(&site, &wanted).output().expect("tidemark starts"), "all of the range has been copied");
    let again = read(&server, "again");
    let mut closed = 0;
    for (partition, records) in &had {
        let at = &status["partitions"][usize::try_from(*partition).expect("a partition")];
        let mark = usize::try_from(at["mark"].as_u64().expect("a mark")).expect("a usize");
        closed += mark;
        assert_eq!(again[partition].len(), mark, "partition {partition}");
        let (ours, theirs) = (meanings(&again[partition]), meanings(&records[..mark]));
        for (n, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
            assert_eq!(ours, theirs, "partition {partition}, offset {n}");
        }
        // What is no event has lost its key.
        let keyed = again[partition].iter().zip(records).filter(|(ours, _)| ours.key.is_some());
        assert!(keyed.clone().all(|(ours, theirs)| ours.key == theirs.key), "partition {partition}");
        assert!(keyed.count() > mark * 9 / 10);
    }
    assert!(closed > 20_000, "{closed}");

    // A day of it, and some offsets.
    let day = ["--raw", "--into", "day", "--from", "2013-01-10T00:00:00Z", "--to", "2013-01-11T00:00:00Z", "--json"];
    let report = reported(&publish_own(&site, &day).output().expect("tidemark starts"));
    let events = server.sql("SELECT toString(count()) FROM raw_events WHERE toDate(timestamp, 'UTC') = '2013-01-10'")[0][0].parse::<u64>();
    let (published, events) = (report["records"].as_u64().expect("a number"), events.expect("a number"));
    assert!(published <= events && published + 1536 > events && published > 500, "{report}, {events}");
    let few = ["--raw", "--into", "few", "--from", "0:10,1:0,2:5", "--to", "0:20,1:0,2:6", "--json"];
    assert_eq!(reported(&publish_own(&site, &few).output().expect("tidemark starts"))["records"], 11);
    let open = publish_own(&site, &["--raw", "--into", "open", "--to", "0:99999999"]).output().expect("tidemark starts");
    assert!(!open.status.success() && said(&open).contains("raw history has closed epochs of partition 0 from 0 up to"), "{}", said(&open));
    parquet(&site, &server);
    server.stop();
}

/// Raw events as Parquet, as ClickHouse writes it, and back.
fn parquet(site: &Site, server: &Server) {
    let engine = Client::new(server.runtime().clickhouse);
    let columns = "event_id, event_type, timestamp, product_id, user_id, order_amount, properties";
    let export = |columns: &str, name: &str| {
        let select = format!("SELECT {columns} FROM raw_events ORDER BY user_id, timestamp, event_id FORMAT Parquet");
        let reply = engine.post("/?database=tidemark&output_format_parquet_row_group_size=5000", &[], select.as_bytes());
        assert_eq!(reply.status, 200, "{}", reply.text());
        let path = site.file(name, "");
        std::fs::write(&path, reply.body).expect("writing a file");
        path.display().to_string()
    };
    let whole = export(columns, "raw.parquet");
    make(server, "rows", &[]);
    let wanted = ["--from-file", &whole, "--into", "rows"];
    let rows = server.sql("SELECT event_id, user_id FROM raw_events ORDER BY user_id, timestamp, event_id");
    kill_thrice(site, server, &wanted, "rows", rows.len());
    succeeded(&publish(site, &wanted), "all of the range has been copied");
    let published = read(server, "rows");
    let mut by_user: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for record in published.values().flatten() {
        let event: Value = serde_json::from_slice(record.payload.as_deref().expect("a payload")).expect("JSON");
        let key = String::from_utf8(record.key.clone().expect("a key")).expect("UTF-8");
        assert_eq!(event["user_id"].as_str(), Some(&*key));
        by_user.entry(key).or_default().push(event["event_id"].as_str().expect("an id").to_owned());
    }
    let mut expected: BTreeMap<String, Vec<String>> = BTreeMap::new();
    rows.iter().for_each(|row| expected.entry(row[1].clone()).or_default().push(row[0].clone()));
    assert!(by_user == expected, "each row once, in the order of the file");
    // What each says is what raw history publishes.
    let said_by = |records: &BTreeMap<i32, Vec<Copied>>| -> BTreeMap<String, usize> {
        let mut all = BTreeMap::new();
        records.values().for_each(|records| meanings(records).into_iter().for_each(|meaning| *all.entry(meaning).or_default() += 1));
        all
    };
    let (rows, raw) = (said_by(&published), said_by(&read(server, "again")));
    let missing = raw.iter().filter(|(meaning, _)| meaning.contains(" nyc-") && !rows.contains_key(*meaning)).count();
    // Those of the last, open epochs are not in both.
    assert!(missing <= 22, "{missing} of raw history are not among the rows");

    let wrong = export(&format!("{columns}, offset AS place"), "wrong.parquet");
    let refused = publish(site, &["--from-file", &wrong, "--into", "rows"]);
    assert!(!refused.status.success() && said(&refused).contains("wrong.parquet: the column `place`"), "{}", said(&refused));
    let bytes = std::fs::read(&whole).expect("the file");
    let cut = site.file("cut.parquet", "");
    std::fs::write(&cut, &bytes[..bytes.len() / 2]).expect("writing a file");
    let refused = publish(site, &["--from-file", &cut.display().to_string(), "--into", "rows"]);
    assert!(!refused.status.success() && said(&refused).contains("cut.parquet: is no whole Parquet file"), "{}", said(&refused));
}

pub(crate) fn events_of_a_file_follow_each_other_as_their_times_say() {
    let site = Site::alone("[kafka]\npartitions = 3\n");
    let server = site.up();
    let event = |n: i64| format!("{{\"event_type\":\"a\",\"timestamp\":{},\"user_id\":\"u{}\"}}\n", 1_357_035_300_000 + n * 3000, n % 7);
    let file = site.file("paced.ndjson", &(0..200).map(event).collect::<String>());
    make(&server, "paced", &[("message.timestamp.type", "LogAppendTime")]);
    let began = std::time::Instant::now();
    let child = command(&site, &["--from-file", &file.display().to_string(), "--into", "paced", "--speed", "60x", "--json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("tidemark starts");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success() && began.elapsed() > Duration::from_secs(9));
    let progress = String::from_utf8_lossy(&output.stdout).lines().filter(|line| line.starts_with("{\"records\"")).count();
    assert!((8..=13).contains(&progress), "a line a second: {progress}");
    let mut appended: Vec<i64> = read(&server, "paced").into_values().flatten().map(|record| record.timestamp_ms).collect();
    appended.sort_unstable();
    let mut off: Vec<i64> = appended.windows(2).map(|pair| (pair[1] - pair[0] - 50).abs()).collect();
    off.sort_unstable();
    assert_eq!(appended.len(), 200);
    assert!(off[off.len() / 2] <= 5, "{off:?}");
    server.stop();
}
