//! January as it arrives in life: late, and dirty.

use serde_json::Value;
use std::collections::BTreeMap;
use tidemark_tests::client::Position;
use tidemark_tests::figure::figure;
use tidemark_tests::recount::{Recount, Verdict};
use tidemark_tests::sending::{Manner, Pace, by_http, by_kafka};
use tidemark_tests::server::{Server, Site};
use tidemark_tests::{data, expected};

const MANNER: Manner = Manner { batch: 1000, clients: 2, persistent: false };
const DUPLICATES: usize = 11;
const EPOCH_BITS: u8 = 8;
const SMALL_EPOCHS: &str = "[counting]\nepoch_bits = 8\n[batch]\nmax_age_ms = 200\nmax_rows = 2000\n";

#[test]
fn late_events_are_counted_in_their_own_windows() {
    let site = Site::new(SMALL_EPOCHS);
    let server = site.up();
    let late = data::bytes("flights-2013-01.late.ndjson.gz");
    let sent = by_http(&server.client, &data::lines(&late), MANNER, &Pace::free());
    expected::check_january(&server.client, &sent.position);
    let status = server.settled();
    assert_eq!(status["reconciliation"]["repaired"], 0);
    let rows = expected::check_january(&server.client, &sent.position);
    figure("late January: 5-minute rows equal, live and closed", rows);
    server.stop();
}

#[test]
fn what_is_broken_in_the_topic_is_a_dead_letter_and_what_comes_twice_counts_once() {
    let site = Site::new(SMALL_EPOCHS);
    let server = site.up();
    let dirty = data::bytes("flights-2013-01.dirty.ndjson.gz");
    let lines = data::lines(&dirty);
    let position = by_kafka(&server.runtime().kafka, &server.topic(), &lines);
    expected::check_january(&server.client, &position);
    server.settled();
    expected::check_january(&server.client, &position);

    let recount = Recount::read(&server.runtime().kafka, &server.topic(), EPOCH_BITS);
    let letters = server.client.dead_letters();
    check_against_recount(&letters, &recount);
    check_against_manifest(&letters, &lines);
    check_sums(&server, &recount, &position);
    figure("dirty January: dead letters and duplicates as they should be", format!("{} and {DUPLICATES}", letters.len() - DUPLICATES));
    server.stop();
}

#[test]
fn ingest_refuses_exactly_the_broken_lines() {
    let site = Site::new("");
    let server = site.up();
    let dirty = data::bytes("flights-2013-01.dirty.ndjson.gz");
    let lines = data::lines(&dirty);
    let sent = by_http(&server.client, &lines, Manner { clients: 1, ..MANNER }, &Pace::free());
    let manifest = manifest();
    let broken = manifest.iter().filter(|(_, kind)| *kind != "dup_identical").map(|(line, _)| *line);
    assert_eq!(sent.rejected.keys().copied().collect::<Vec<_>>(), broken.collect::<Vec<_>>());
    for (line, reason) in &sent.rejected {
        let allowed = reasons(&manifest[line]);
        assert!(allowed.iter().any(|allowed| reason.contains(allowed)), "line {}: {reason}, not one of {allowed:?}", line + 1);
    }
    expected::check_january(&server.client, &sent.position);
    server.stop();
}

/// Kinds by line, from 0.
fn manifest() -> BTreeMap<usize, String> {
    let text = data::text("flights-2013-01.dirty.manifest.csv.gz");
    let entry = |line: &str| {
        let fields: Vec<&str> = line.split(',').collect();
        (fields[0].parse::<usize>().expect("a line number") - 1, fields[1].to_owned())
    };
    text.lines().skip(1).map(entry).collect()
}

/// The reasons that fit a kind of the manifest.
fn reasons(kind: &str) -> &'static [&'static str] {
    match kind {
        "truncated" | "nan" => &["not_json"],
        "missing_event_type" => &["missing_event_type"],
        "missing_timestamp" => &["missing_timestamp"],
        "type_amount" => &["bad_order_amount"],
        "bad_timestamp" => &["bad_timestamp"],
        "invalid_utf8" => &["not_utf8"],
        "not_object" => &["not_an_object", "missing_event_type"],
        "ts_1970" => &["too_old"],
        "ts_2999" => &["too_far_ahead"],
        "deep" => &["too_deep"],
        "dup_identical" => &["duplicate"],
        other => panic!("the manifest has an unknown kind {other}"),
    }
}

/// Each at its place, with its reason, and no other.
fn check_against_recount(letters: &[Value], recount: &Recount) {
    let number = |letter: &Value, name: &str| letter[name].as_u64().unwrap_or_else(|| panic!("{name} of {letter}"));
    let place = |letter: &Value| (u32::try_from(number(letter, "partition")).expect("a partition"), number(letter, "offset"));
    let found: BTreeMap<(u32, u64), &str> =
        letters.iter().map(|letter| (place(letter), letter["reason"].as_str().expect("a reason"))).collect();
    assert_eq!(found.len(), letters.len(), "each record is one dead letter");
    assert_eq!(found, recount.uncounted());
}

/// Each kept whole, with a reason that fits what the manifest says was done to it.
fn check_against_manifest(letters: &[Value], lines: &[&[u8]]) {
    let manifest = manifest();
    assert_eq!(letters.len(), manifest.len());
    let mut found: BTreeMap<Vec<u8>, Vec<&str>> = BTreeMap::new();
    for letter in letters {
        found.entry(payload(letter)).or_default().push(letter["reason"].as_str().expect("a reason"));
    }
    for (line, kind) in &manifest {
        let reasons_found = found.get(lines[*line]).unwrap_or_else(|| panic!("line {} is not among the dead letters as it was", line + 1));
        let fits = reasons_found.iter().all(|reason| reasons(kind).contains(reason));
        assert!(fits, "line {} is {kind}, and a dead letter for {reasons_found:?}", line + 1);
    }
    let duplicates = letters.iter().filter(|letter| letter["reason"] == "duplicate").count();
    assert_eq!(duplicates, DUPLICATES);
}

fn payload(letter: &Value) -> Vec<u8> {
    if let Some(text) = letter["payload"].as_str() {
        return text.as_bytes().to_vec();
    }
    let hex = letter["payload_hex"].as_str().unwrap_or_else(|| panic!("a dead letter has its record: {letter}"));
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal")).collect()
}

/// Invariant I3, for each partition: events + duplicates + dead letters + holes = span, by history's tables up to the
/// end, by the ledger up to the mark; and each of them is what the recount says.
fn check_sums(server: &Server, recount: &Recount, position: &Position) {
    let tables = sums(
        server,
        "SELECT partition, sum(e), sum(u), sum(d), 0, sum(e + u + d) FROM (
        SELECT partition, count() AS e, 0 AS u, 0 AS d FROM events GROUP BY partition
        UNION ALL SELECT partition, 0, countIf(reason = 'duplicate'), countIf(reason != 'duplicate') FROM dead_letters GROUP BY partition
        ) GROUP BY partition",
    );
    let ledger = sums(
        server,
        "SELECT partition, sum(events), sum(duplicates), sum(dead_letters), sum(holes), count() * bitShiftLeft(toUInt64(1), 8) FROM ledger WHERE entry = 'closed' GROUP BY partition",
    );
    for (partition, end) in &recount.ends {
        assert_eq!(position.get(partition), Some(end), "what was sent is what is there");
        for (sums, upto) in [(&tables[partition], *end), (&ledger[partition], end >> EPOCH_BITS << EPOCH_BITS)] {
            assert_eq!(sums[..4].iter().sum::<u64>(), upto, "partition {partition}: {sums:?} up to {upto}");
            assert_eq!(sums[..], recounted(recount, *partition, upto), "partition {partition} up to {upto}");
        }
    }
}

fn sums(server: &Server, statement: &str) -> BTreeMap<u32, Vec<u64>> {
    let number = |text: &String| text.parse::<u64>().unwrap_or_else(|_| panic!("{text} is a number"));
    server
        .sql(statement)
        .iter()
        .map(|row| (u32::try_from(number(&row[0])).expect("a partition"), row[1..].iter().map(number).collect()))
        .collect()
}

/// Events, duplicates, dead letters, holes, span of the offsets below `upto`.
fn recounted(recount: &Recount, partition: u32, upto: u64) -> [u64; 5] {
    let mut sums = [0, 0, 0, upto, upto];
    for (_, verdict) in recount.partitions[&partition].iter().filter(|(offset, _)| *offset < upto) {
        sums[3] -= 1;
        sums[match verdict {
            Verdict::Event(_) => 0,
            Verdict::Duplicate => 1,
            Verdict::DeadLetter(_) => 2,
        }] += 1;
    }
    sums
}
