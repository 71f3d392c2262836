//! Roles in processes of their own.

use std::process::Command;
use tidemark_tests::client::{Position, raise, written};
use tidemark_tests::data;
use tidemark_tests::question::Question;
use tidemark_tests::recount::Recount;
use tidemark_tests::role::Role;
use tidemark_tests::sending::{Manner, Pace, by_http};
use tidemark_tests::server::{Site, binary};

const PERSISTENT: Manner = Manner { batch: 100, clients: 2, persistent: true };
const CONFIG: &str = "[counting]\nepoch_bits = 8\n[batch]\nmax_age_ms = 200\n";

/// Two doors to one topic beside the server's own. One is killed and comes back while events are sent to it, the other is
/// stopped: what any of them has acknowledged is counted, and once.
#[test]
fn what_any_ingest_has_acknowledged_is_counted_once() {
    let site = Site::new(CONFIG);
    let server = site.up();
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = &data::lines(&january)[..12_000];
    let (mut killed, stopped) = (Role::ingest(&server), Role::ingest(&server));
    let refused = killed.client.get("/v1/query?step=total");
    assert!(refused.status == 404 && refused.text().contains("answered elsewhere"), "{}", refused.text());

    let mut position = Position::new();
    let pace = Pace::free();
    let client = killed.client.clone();
    std::thread::scope(|scope| {
        // Whoever gets no answer sends again; the ids see to it that it counts once.
        let sending = scope.spawn(|| by_http(&client, &lines[..6000], PERSISTENT, &pace));
        let pace = pace.hold();
        pace.wait_for(20);
        killed.kill_and_restart();
        pace.wait_for(40);
        drop(pace);
        let sent = sending.join().expect("sent");
        assert!(sent.repeated > 0, "nobody noticed that the process was killed");
        raise(&mut position, &written(&sent.position));
    });
    let once = Manner { batch: 500, clients: 1, persistent: false };
    for (client, lines) in [(&stopped.client, &lines[6000..9000]), (&server.client, &lines[9000..])] {
        raise(&mut position, &written(&by_http(client, lines, once, &Pace::free()).position));
    }
    stopped.stop();
    killed.stop();
    let question = Question::by("5m", &["event_type", "product_id"]);
    let answer = question.ask(&server.client, Some(&position));
    let recount = Recount::read(&server.runtime().kafka, &server.topic(), 8);
    recount.check(&question, &answer).unwrap_or_else(|what| panic!("{what}"));
    server.stop();
}

#[test]
fn ingest_without_a_kafka_says_what_to_name() {
    let output = Command::new(binary()).arg("ingest").output().expect("started");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(!output.status.success() && said.contains("--kafka HOST:PORT"), "{said}");
}
