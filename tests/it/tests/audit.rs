//! Ten kinds of damage below the mark, done with SQL while nobody looks: an audit finds each, no answer comes from there any more,
//! and what can be told again is repaired, from raw rows or from the topic. What cannot, is not answered until somebody accepts it.

use serde_json::Value;
use std::process::{Command, Output, Stdio};
use std::time::Duration;
use tidemark_tests::data;
use tidemark_tests::question::{Answer, Question};
use tidemark_tests::recount::Recount;
use tidemark_tests::retention;
use tidemark_tests::sending::by_kafka;
use tidemark_tests::server::{Server, Site, binary};
use tidemark_tests::wait;

const EPOCH_BITS: u8 = 7;
const CONFIG: &str = "[kafka]\npartitions = 1\n[counting]\nepoch_bits = 7\n[batch]\nmax_age_ms = 200\n";
/// Everybody must have heard of damage before it is repaired, which takes half a minute; then a few seconds for each epoch.
const DEADLINE: Duration = Duration::from_secs(240);

/// The kinds, each of an epoch of its own, and whether raw rows are damaged by it.
const DAMAGE: [(&str, bool); 10] = [
    ("ALTER TABLE events DELETE WHERE offset = 130", true),
    ("INSERT INTO events SELECT * FROM events WHERE offset = 260", true),
    ("ALTER TABLE events UPDATE order_amount = ifNull(order_amount, 0) + 1 WHERE offset = 390", true),
    ("ALTER TABLE events UPDATE user_id = 'somebody else' WHERE offset = 520", true),
    ("INSERT INTO dead_letters (partition, offset, record_timestamp, reason, payload) VALUES (0, 650, now(), 'bad_json', '')", true),
    ("ALTER TABLE by_type_5m_g1 DELETE WHERE epoch = 6", false),
    ("INSERT INTO by_type_1h_g1 SELECT * FROM by_type_1h_g1 WHERE epoch = 7", false),
    ("ALTER TABLE by_type_1d_g1 UPDATE amount_sum = amount_sum + 1 WHERE epoch = 8", false),
    ("ALTER TABLE events DELETE WHERE offset >= 1152 AND offset < 1280", true),
    ("ALTER TABLE ledger UPDATE events = events + 1 WHERE epoch = 10", false),
];

fn damage(server: &Server, statement: &str) {
    server.sql(&format!("{statement}{}", if statement.starts_with("ALTER") { " SETTINGS mutations_sync = 1" } else { "" }));
}

fn damaged(server: &Server) -> Vec<Value> {
    server.client.status()["ledger"]["damaged"].as_array().cloned().unwrap_or_default()
}

fn questions() -> Vec<Question> {
    let by_user = Question { filters: vec![("user_id", "N14228")], ..Question::total() };
    vec![Question::total(), Question::by("1h", &["event_type"]), Question::by("1d", &["event_type"]), by_user]
}

fn audit(site: &Site, arguments: &[&str]) -> Output {
    let mut command = Command::new(binary());
    command.arg("audit").args(arguments).arg("--data").arg(site.data()).arg("--config").arg(site.config()).stdin(Stdio::null());
    command.output().expect("tidemark starts")
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn ten_kinds_of_damage_are_found_and_repaired_and_no_answer_comes_from_there() {
    let site = Site::new(CONFIG);
    let server = site.up();
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = &data::lines(&january)[..3_000];
    let position = by_kafka(&server.runtime().kafka, &server.topic(), lines);
    Question::total().ask(&server.client, Some(&position));
    server.settled();
    let recount = Recount::read(&server.runtime().kafka, &server.topic(), EPOCH_BITS);
    let reply = server.client.get(&Question::by("1h", &["event_type"]).path(None));
    let (rows, link) = (reply.json()["rows"].clone(), reply.link.expect("an answer says where it stays"));
    assert_eq!(server.client.got(&link)["rows"], rows);
    assert!(audit(&site, &[]).status.success(), "nothing is damaged");

    for (statement, _) in DAMAGE {
        damage(&server, statement);
    }
    let looked = audit(&site, &["--dry-run", "--json"]);
    let report: Value = serde_json::from_slice(&looked.stdout).unwrap_or_else(|error| panic!("{error}: {}", said(&looked)));
    let found: Vec<u64> = report["damaged"].as_array().expect("a list").iter().map(|of| of["epoch"].as_u64().expect("a number")).collect();
    assert_eq!((looked.status.code(), found), (Some(3), (1..=10).collect()), "{report:#}");
    assert!(damaged(&server).is_empty(), "a dry run records nothing");
    // Recent epochs are the first that a server looks at when it starts.
    server.kill();
    let server = site.up();
    wait::until("all damage is known", DEADLINE, || (damaged(&server).len() == DAMAGE.len()).then_some(()));
    for (of, (statement, raw)) in damaged(&server).iter().zip(DAMAGE) {
        assert_eq!(of["raw_is_sound"], !raw, "{statement}: {of}");
    }
    let (mut answered, mut refused) = (0, 0);
    wait::until("it is repaired", DEADLINE, || {
        std::thread::sleep(Duration::from_millis(250)); // Leaves the machine to other tests.
        for question in questions() {
            let reply = server.client.try_get(&question.path(None)).expect("the server answers");
            if reply.status == 503 {
                assert!(reply.text().contains("history is damaged") && reply.text().contains("tidemark audit"), "{}", reply.text());
                refused += 1;
            } else {
                let answer = Answer::read(&reply.json());
                recount.check(&question, &answer).unwrap_or_else(|what| panic!("while history was damaged: {what}"));
                answered += 1;
            }
        }
        damaged(&server).is_empty().then_some(())
    });
    assert!(answered > 0 && refused > 0, "{answered} answers, {refused} refused");
    for question in questions() {
        recount.check(&question, &question.ask(&server.client, None)).unwrap_or_else(|what| panic!("after the repair: {what}"));
    }
    let again = server.client.got(&link);
    assert_eq!(again["rows"], rows, "a link has the same numbers");
    let revised = again["revised"].as_array().expect("it says what has changed meanwhile");
    assert!(DAMAGE.len() * 2 <= revised.len() && again["history_revision"].as_u64() >= Some(20), "{again}");
    let newer = server.client.get(&link).link.expect("a link");
    assert_eq!(server.client.got(&newer)["revised"], Value::Null, "its own link knows of all that: {newer}");
    let after = audit(&site, &[]);
    assert!(after.status.success(), "{}", said(&after));

    // What the topic has forgotten and raw rows have lost: nobody answers it, until somebody accepts that.
    server.stop();
    site.configure(&format!("{CONFIG}[audit]\nrepair = false\n"));
    let server = site.up();
    retention::remove(&server, 100);
    damage(&server, "ALTER TABLE events DELETE WHERE offset = 1700");
    let found = audit(&site, &[]);
    assert!(found.status.code() == Some(3) && said(&found).contains("there are"), "{}", said(&found));
    wait::until("the question is refused", DEADLINE, || {
        (server.client.try_get(&Question::total().path(None)).expect("an answer").status == 503).then_some(())
    });
    let accepted = audit(&site, &["--accept-loss"]);
    assert!(accepted.status.success() && said(&accepted).contains("are left"), "{}", said(&accepted));
    let count = wait::until("it is answered again", DEADLINE, || {
        let reply = server.client.try_get(&Question::total().path(None)).expect("an answer");
        (reply.status == 200).then(|| reply.json()["rows"][0]["count"].as_u64())
    });
    assert_eq!(count, Some(recount.events().count() as u64 - 1));
    server.stop();
}
