//! A server's life: one owner of a directory, a clean stop and start, and children that do not outlive it.

use std::time::Duration;
use tidemark_tests::data;
use tidemark_tests::question::Question;
use tidemark_tests::recount::Recount;
use tidemark_tests::redis::Redis;
use tidemark_tests::sending::{Manner, Pace, by_http};
use tidemark_tests::server::Site;
use tidemark_tests::wait;

const MANNER: Manner = Manner { batch: 1000, clients: 1, persistent: false };
const CONFIG: &str = "[counting]\nepoch_bits = 8\n[batch]\nmax_age_ms = 200\n";

#[test]
fn a_second_server_on_the_same_directory_is_refused_with_a_sentence() {
    let site = Site::new("");
    let server = site.up();
    let (ended, said) = site.up_again();
    assert!(!ended.success(), "{said}");
    let names_the_owner = said.contains(&server.pid().to_string()) && said.contains(&*site.data().to_string_lossy());
    assert!(names_the_owner && !said.contains("panicked"), "{said}");
    assert!(server.is_ready(), "the first one goes on");
    server.kill();
    let server = site.up();
    assert!(server.is_ready(), "a directory whose owner was killed is free");
    server.stop();
}

#[test]
fn data_survive_a_clean_restart() {
    let site = Site::new(CONFIG);
    let server = site.up();
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = &data::lines(&january)[..8000];
    let sent = by_http(&server.client, lines, MANNER, &Pace::free());
    let question = Question::by("5m", &["event_type", "product_id"]);
    let before = question.ask(&server.client, Some(&sent.position));
    server.stop();

    let server = site.up();
    let after = question.ask(&server.client, Some(&sent.position));
    assert_eq!((after.rows().len(), &after.cut), (before.rows().len(), &before.cut));
    assert!(
        before.mark.iter().all(|(partition, mark)| after.mark[partition] >= *mark),
        "a mark only grows: {:?}, {:?}",
        before.mark,
        after.mark
    );
    let recount = Recount::read(&server.runtime().kafka, &server.topic(), 8);
    recount.check(&question, &after).unwrap_or_else(|what| panic!("after the restart: {what}"));
    let status = server.settled();
    assert_eq!((&status["reconciliation"]["repaired"], &status["broken_invariants"]), (&0.into(), &0.into()));
    recount.check(&question, &question.ask(&server.client, None)).unwrap_or_else(|what| panic!("when settled: {what}"));
    server.stop();
}

/// With a Redis, a restart goes on from the snapshots: nothing is counted anew, and the answer is the same.
#[test]
fn a_restart_goes_on_from_the_snapshots() {
    let redis = Redis::start();
    let site = Site::new(&format!("[counting]\nepoch_bits = 14\n[redis]\nurls = [\"{}\"]\n", redis.url()));
    let server = site.up();
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let sent = by_http(&server.client, &data::lines(&january)[..8_000], MANNER, &Pace::free());
    let question = Question::by("5m", &["event_type", "product_id"]);
    let before = question.ask(&server.client, Some(&sent.position));
    let position = |partition: &u32| {
        let script = "return cjson.decode(redis.call('HGET', KEYS[1], 'head')).position";
        redis.ask(&["EVAL", script, "1", &format!("{{tidemark/g1/events/{partition}}}")])
    };
    let is_written = || sent.position.iter().all(|(partition, next)| position(partition) == format!(":{next}")).then_some(());
    wait::until("the snapshots have all", Duration::from_secs(30), is_written);
    server.kill();

    let server = site.up();
    assert_eq!(question.ask(&server.client, Some(&sent.position)).rows(), before.rows());
    assert_eq!(server.client.metrics()["tidemark_speed_records_total{outcome=\"event\"}"], 0.0);
    server.stop();
}
