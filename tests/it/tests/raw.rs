//! Raw history: questions that no view covers, and what the topic no longer has.

use tidemark_tests::data;
use tidemark_tests::question::Question;
use tidemark_tests::recount::Recount;
use tidemark_tests::retention::remove;
use tidemark_tests::sending::{Manner, Pace, by_http};
use tidemark_tests::server::Site;

const EPOCH_BITS: u8 = 9;
const CONFIG: &str = "[counting]\nepoch_bits = 9\n[batch]\nmax_age_ms = 200\n";
const MANNER: Manner = Manner { batch: 1000, clients: 1, persistent: false };
/// Records of a partition that retention leaves.
const LEFT: u64 = 100;

#[test]
fn a_question_that_no_view_covers_is_answered_from_raw_events_at_the_cut_of_history() {
    let site = Site::new(CONFIG);
    let server = site.up();
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = &data::lines(&january)[..9000];
    let sent = by_http(&server.client, lines, MANNER, &Pace::free());
    let recount = Recount::read(&server.runtime().kafka, &server.topic(), EPOCH_BITS);
    for question in [
        Question::by("total", &["user_id"]),
        Question { filters: vec![("event_type", "UA"), ("event_type", "DL")], ..Question::by("1h", &["user_id", "event_type"]) },
        Question { zone: Some("America/New_York"), ..Question::by("1d", &["user_id"]) },
        Question { filters: vec![("user_id", "N14228")], ..Question::by("5m", &["event_type", "product_id"]) },
    ] {
        let answer = question.ask(&server.client, Some(&sent.position));
        assert_eq!(answer.cut, sent.position, "at the position that was waited for");
        recount.check(&question, &answer).unwrap_or_else(|what| panic!("{question:?}: {what}"));
    }
    server.stop();
}

#[test]
fn what_retention_has_removed_is_taken_from_history_after_a_restart() {
    let site = Site::new(CONFIG);
    let server = site.up();
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = data::lines(&january);
    let sent = by_http(&server.client, &lines[..9000], MANNER, &Pace::free());
    let recount = Recount::read(&server.runtime().kafka, &server.topic(), EPOCH_BITS);
    let question = Question::by("5m", &["event_type", "product_id"]);
    let status = server.settled();
    let is_open = |at: &serde_json::Value| at["mark"].as_u64() < at["end"].as_u64().map(|end| end - LEFT);
    assert!(status["partitions"].as_array().expect("a list").iter().any(is_open), "some open epoch begins below what is left: {status}");
    remove(&server, LEFT);
    server.kill();

    let server = site.up();
    let after = question.ask(&server.client, Some(&sent.position));
    recount.check(&question, &after).unwrap_or_else(|what| panic!("after the restart: {what}"));
    // What comes again is known to both layers, although the log no longer has what it repeats.
    let again = by_http(&server.client, &lines[8000..9000], MANNER, &Pace::free());
    let repeated = question.ask(&server.client, Some(&again.position));
    assert_eq!(repeated.rows(), after.rows(), "nothing counts twice");
    let more = by_http(&server.client, &lines[9000..12000], MANNER, &Pace::free());
    assert_eq!(Question::total().ask(&server.client, Some(&more.position)).count(), 12_000);
    let status = server.settled();
    assert_eq!((&status["reconciliation"]["repaired"], &status["broken_invariants"]), (&0.into(), &0.into()), "{status}");
    assert_eq!(Question::total().ask(&server.client, Some(&more.position)).count(), 12_000);
    server.stop();
}

#[test]
fn a_history_can_begin_where_the_topic_begins_now() {
    let site = Site::new(CONFIG);
    let server = site.up();
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = data::lines(&january);
    by_http(&server.client, &lines[..9000], MANNER, &Pace::free());
    remove(&server, LEFT);
    server.stop();

    site.configure(&format!("{CONFIG}[clickhouse]\ndatabase = \"second\"\n[kafka]\ngroup = \"second\"\n"));
    let server = site.up();
    let left = Recount::read_what_is_left(&server.runtime().kafka, &server.topic(), EPOCH_BITS);
    let question = Question::by("5m", &["event_type", "product_id"]);
    let status = server.settled();
    let answer = question.ask(&server.client, None);
    left.check(&question, &answer).unwrap_or_else(|what| panic!("{what}"));
    assert_eq!(answer.rows().iter().filter_map(|row| row["count"].as_u64()).sum::<u64>(), LEFT * answer.cut.len() as u64);
    assert_eq!((&status["reconciliation"]["repaired"], &status["broken_invariants"]), (&0.into(), &0.into()), "{status}");
    server.kill();

    // And it stays so, although the topic begins still higher.
    let server = site.up();
    let more = by_http(&server.client, &lines[9000..15000], MANNER, &Pace::free());
    let left = Recount::read_what_is_left(&server.runtime().kafka, &server.topic(), EPOCH_BITS);
    server.settled();
    remove(&server, LEFT);
    server.kill();
    let server = site.up();
    let answer = question.ask(&server.client, Some(&more.position));
    left.check(&question, &answer).unwrap_or_else(|what| panic!("after another restart: {what}"));
    server.stop();
}
