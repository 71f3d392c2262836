//! `tidemark recount`: equal where all is right, and where it is not it says what differs.

use serde_json::Value;
use std::collections::BTreeSet;
use std::process::{Command, Output};
use tidemark_tests::data;
use tidemark_tests::recount::Recount;
use tidemark_tests::retention::remove;
use tidemark_tests::sending::{Manner, Pace, by_http};
use tidemark_tests::server::{Server, Site, binary};

const EPOCH_BITS: u8 = 9;
const CONFIG: &str = "[counting]\nepoch_bits = 9\n[batch]\nmax_age_ms = 200\n";
const MANNER: Manner = Manner { batch: 1000, clients: 1, persistent: false };
const EVENTS: usize = 9000;
const REPEATED: usize = 50;

/// Runs it on a server's own directory.
fn recount(site: &Site, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("recount").arg("--data").arg(site.data()).arg("--config").arg(site.config()).args(arguments);
    command.output().expect("tidemark starts")
}

fn report(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"))
}

/// Nothing differs, and each view has these events.
fn assert_equal(output: &Output, events: u64) -> Value {
    assert!(output.status.success(), "{output:?}");
    let report = report(output);
    let views = report["views"].as_array().expect("views");
    assert_eq!(views.len(), 2, "{report}");
    for view in views {
        assert_eq!((view["different"].as_u64(), view["events"].as_u64()), (Some(0), Some(events)), "{report}");
    }
    assert_eq!(report["differences"], Value::Array(Vec::new()), "{report}");
    report
}

/// Sends events, some of them twice; all of it settles.
fn send(server: &Server) {
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = data::lines(&january);
    by_http(&server.client, &lines[..EVENTS], MANNER, &Pace::free());
    by_http(&server.client, &lines[EVENTS - REPEATED..EVENTS], MANNER, &Pace::free());
    server.settled();
}

#[test]
fn a_recount_agrees_and_finds_the_cell_that_somebody_has_changed() {
    let site = Site::new(CONFIG);
    let server = site.up();
    send(&server);
    let all = assert_equal(&recount(&site, &["--json"]), EVENTS as u64);
    assert_eq!((all["events"].as_u64(), all["duplicates"].as_u64()), (Some(EVENTS as u64), Some(REPEATED as u64)), "{all}");
    // By a judge that shares no code with it.
    let judge = Recount::read(&server.runtime().kafka, &server.topic(), EPOCH_BITS);
    let cells: BTreeSet<_> = judge.events().map(|event| (event.window_ms, &event.event_type, &event.product_id)).collect();
    assert_eq!(all["views"][1]["cells"].as_u64(), Some(cells.len() as u64), "{all}");

    let said = recount(&site, &["--from", "2013-01-02T00:00:00Z", "--to", "2013-01-03T00:00:00Z"]);
    let text = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(said.status.success() && text.contains("by_product: ") && text.contains("all equal"), "{text}");

    // A closed cell loses events. What has been asked before may be answered from the cache: another range is asked.
    let row = server.sql("SELECT toUnixTimestamp(window), event_type, sum(count) FROM by_type_5m_g1 WHERE epoch = 0 AND window >= '2013-01-01 12:00:00' GROUP BY ALL ORDER BY 1, 2 LIMIT 1");
    let [window, event_type, count] = &row[0][..] else { panic!("{row:?}") };
    let place = format!("epoch = 0 AND window = {window} AND event_type = '{event_type}'");
    server.sql(&format!("DELETE FROM by_type_5m_g1 WHERE {place}"));
    let output = recount(&site, &["--json", "--from", "2013-01-01T11:55:00Z"]);
    assert!(!output.status.success(), "{output:?}");
    let found = report(&output);
    assert_eq!((found["views"][0]["different"].as_u64(), found["views"][1]["different"].as_u64()), (Some(1), Some(0)), "{found}");
    let difference = &found["differences"][0];
    assert_eq!((&difference["view"], &difference["values"][0]), (&"by_type".into(), &event_type.as_str().into()), "{found}");
    let missing = difference["counted"]["count"].as_u64().expect("a count") - difference["answered"]["count"].as_u64().unwrap_or(0);
    assert_eq!(missing.to_string(), *count, "{found}");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("1 cells were answered otherwise"), "{said}");

    // What it cannot do it says.
    for (arguments, wanted) in [
        (&["--from", "2013-01-02T00:01:00Z"][..], "2013-01-02T00:00:00"),
        (&["--from", "yesterday"], "is no instant"),
        (&["--url", "http://127.0.0.1:1"], "does not answer"),
    ] {
        let output = recount(&site, arguments);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(wanted), "{arguments:?}: {said}");
    }
    server.stop();
}

#[test]
fn what_the_topic_no_longer_has_is_recounted_from_raw_history() {
    let site = Site::new(CONFIG);
    let server = site.up();
    send(&server);
    remove(&server, 100);
    let report = assert_equal(&recount(&site, &["--json"]), EVENTS as u64);
    assert_eq!(report["duplicates"].as_u64(), Some(REPEATED as u64), "{report}");
    let partitions = server.client.status()["partitions"].as_array().expect("a list").len();
    assert_eq!(report["from_history"].as_array().map(Vec::len), Some(partitions), "{report}");
    server.stop();
}
