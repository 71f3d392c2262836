//! SIGKILL at random moments while events are sent: to everything, to the ClickHouse engine, to Kafka. The client sends
//! the same batch again until it is acknowledged; then all that was acknowledged is counted, once.
//!
//! `TIDEMARK_KILLS` says how often (3), `TIDEMARK_SEED` repeats a run's moments.

use std::collections::BTreeSet;
use std::time::Duration;
use tidemark_tests::chance::Chance;
use tidemark_tests::data;
use tidemark_tests::figure::figure;
use tidemark_tests::question::{Answer, Question};
use tidemark_tests::recount::{Recount, understand};
use tidemark_tests::sending::{Manner, Pace, Sent, by_http};
use tidemark_tests::server::{Server, Site};

/// A batch again is within two epochs of the first: nothing else is sent meanwhile but the other client's batch.
const EPOCH_BITS: u8 = 9;
const CONFIG: &str = "[counting]\nepoch_bits = 9\n[batch]\nmax_age_ms = 200\nmax_rows = 1000\n";
const MANNER: Manner = Manner { batch: 100, clients: 2, persistent: true };
/// A batch takes about as long, so a kill falls anywhere in it.
const BATCH_MS: usize = 40;
const QUESTIONS_AFTER_A_KILL: usize = 5;
const QUESTIONS_AT_LAST: usize = 40;

#[derive(Clone, Copy, Debug)]
enum Victim {
    Everything,
    Engine,
    Kafka,
}

fn kills() -> usize {
    std::env::var("TIDEMARK_KILLS").ok().and_then(|n| n.parse().ok()).unwrap_or(3)
}

/// Kills, and waits until queries are answered again.
fn strike(victim: Victim, site: &Site, server: Server) -> Server {
    match victim {
        Victim::Everything => {
            server.kill();
            return site.up();
        }
        Victim::Engine => server.kill_engine().map(|pid| server.wait_recovered(pid)),
        Victim::Kafka => server.kill_kafka().map(|pid| server.wait_recovered(pid)),
    }
    .expect("the victim was running");
    server
}

fn check(victim: Victim) {
    let name = format!("kill -9 of {victim:?}");
    let mut chance = Chance::new(&name);
    let site = Site::new(CONFIG);
    let mut running = Some(site.up());
    let client = running.as_ref().map(|server| server.client.clone()).expect("it has just been started");
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = data::lines(&january);
    let pace = Pace::default();
    let mut taken: Vec<(Question, Answer)> = Vec::new();
    let kills = kills();
    let sent = std::thread::scope(|scope| {
        let holding = pace.hold();
        let sender = scope.spawn(|| by_http(&client, &lines, MANNER, &pace));
        for moment in chance.moments(kills, lines.len() / MANNER.batch) {
            holding.wait_for(moment);
            std::thread::sleep(Duration::from_millis(u64::try_from(chance.below(BATCH_MS)).expect("few")));
            running = running.take().map(|server| strike(victim, &site, server));
            let questions = (0..QUESTIONS_AFTER_A_KILL).map(|_| Question::any(&mut chance));
            taken.extend(questions.filter_map(|question| question.try_ask(&client).map(|answer| (question, answer))));
        }
        drop(holding);
        sender.join().expect("the sender goes on to the end")
    });
    let server = running.expect("it has been started again");
    judge(&name, &server, &mut chance, &lines, &sent, taken);
    figure(&format!("{name}: kills, attempts without acknowledgement"), format!("{kills}, {}", sent.repeated));
    server.stop();
}

fn judge(name: &str, server: &Server, chance: &mut Chance, lines: &[&[u8]], sent: &Sent, mut taken: Vec<(Question, Answer)>) {
    let status = server.settled();
    assert_eq!(status["broken_invariants"], 0);
    let recount = Recount::read(&server.runtime().kafka, &server.topic(), EPOCH_BITS);
    let ids = |id: &Option<String>| id.clone().expect("each event has an id");
    let wanted: BTreeSet<String> = lines.iter().map(|line| ids(&understand(line, i64::MAX / 2).expect("a good line").id)).collect();
    let counted: Vec<String> = recount.events().map(|event| ids(&event.id)).collect();
    assert_eq!(sent.accepted, u64::try_from(lines.len()).expect("it fits"), "all was acknowledged");
    assert_eq!(counted.len(), wanted.len(), "each event is counted once");
    assert_eq!(counted.into_iter().collect::<BTreeSet<_>>(), wanted, "what was acknowledged is in the topic");
    let total = Question::total().ask(&server.client, Some(&sent.position));
    assert_eq!(total.count(), sent.accepted, "nothing acknowledged is missing, nothing is counted twice");

    let last = [Question::total(), Question::by("5m", &["event_type"]), Question::by("1d", &["event_type", "product_id"])];
    let questions = last.into_iter().chain((0..QUESTIONS_AT_LAST).map(|_| Question::any(chance)));
    taken.extend(questions.map(|question| (question.clone(), question.ask(&server.client, Some(&sent.position)))));
    recount.check_all(&taken);

    let reasons = server.client.dead_letters().iter().filter(|letter| letter["reason"] == "duplicate").count();
    assert_eq!(
        (reasons, recount.uncounted().len()),
        (recount.uncounted().len(), reasons),
        "what was sent again is a dead letter, and nothing else is"
    );
    figure(
        &format!("{name}: answers equal, duplicates, repairs"),
        format!("{}, {reasons}, {}", taken.len(), status["reconciliation"]["repaired"]),
    );
}

#[test]
fn everything_acknowledged_survives_kills_of_the_whole_tree() {
    check(Victim::Everything);
}

#[test]
fn everything_acknowledged_survives_kills_of_the_engine() {
    check(Victim::Engine);
}

#[test]
fn everything_acknowledged_survives_kills_of_kafka() {
    check(Victim::Kafka);
}
