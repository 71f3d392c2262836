//! At any moment while events arrive, an answer is what a recount of the topic below the answer's own cut gives.

use serde_json::Value;
use std::ops::Range;
use std::time::Duration;
use tidemark_tests::chance::Chance;
use tidemark_tests::client::Position;
use tidemark_tests::data;
use tidemark_tests::figure::figure;
use tidemark_tests::question::{Answer, Question};
use tidemark_tests::recount::Recount;
use tidemark_tests::sending::{Manner, Pace, by_http};
use tidemark_tests::server::{Server, Site};
use tidemark_tests::wait;

const ANSWERS: usize = 120;
/// By this answer an epoch has been closed: the sender waits for it.
const CLOSED_BY: usize = 24;
const DEADLINE: Duration = Duration::from_secs(60);
const MANNER: Manner = Manner { batch: 50, clients: 2, persistent: false };

/// Takes answers while January is sent; during `pause` (numbers of answers) a layer stands still.
fn check(name: &str, epoch_bits: u8, pause: Option<(&str, Range<usize>)>) {
    let site = Site::new(&format!("[counting]\nepoch_bits = {epoch_bits}\n[batch]\nmax_age_ms = 200\nmax_rows = 2000\n"));
    let server = site.up();
    let mut chance = Chance::new(name);
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = data::lines(&january);
    // Half of it is enough for a layer to stand still and catch up.
    let lines = &lines[..lines.len() / if pause.is_some() { 2 } else { 1 }];
    let pace = Pace::default();
    let (taken, sent) = std::thread::scope(|scope| {
        let holding = pace.hold();
        let sender = scope.spawn(|| by_http(&server.client, lines, MANNER, &pace));
        let taken = take(&server, &mut chance, lines.len() / MANNER.batch, &pause, |batch| holding.wait_for(batch));
        drop(holding);
        (taken, sender.join().expect("the sender goes on to the end"))
    });
    assert_eq!(sent.accepted, u64::try_from(lines.len()).expect("it fits"));

    let recount = Recount::read(&server.runtime().kafka, &server.topic(), epoch_bits);
    recount.check_all(&taken);
    let mixed =
        taken.iter().filter(|(_, answer)| answer.mark.iter().any(|(partition, mark)| *mark > 0 && *mark < answer.cut[partition])).count();
    figure(&format!("{name}: answers equal, of which from both layers"), format!("{} and {mixed}", taken.len()));
    assert!(mixed > 20, "only {mixed} answers came from both layers: epochs did not close meanwhile");
    settle(&server, &recount, &Question::any(&mut chance), &sent.position);
    server.stop();
}

fn take(
    server: &Server,
    chance: &mut Chance,
    batches: usize,
    pause: &Option<(&str, Range<usize>)>,
    wait_for: impl Fn(usize),
) -> Vec<(Question, Answer)> {
    let mut taken: Vec<(Question, Answer)> = Vec::new();
    let mut stood: Option<Value> = None;
    for (n, moment) in chance.moments(ANSWERS, batches).into_iter().enumerate() {
        wait_for(moment);
        if n == CLOSED_BY {
            wait::until("an epoch is closed", DEADLINE, || (server.client.status()["reconciliation"]["closed"] != 0).then_some(()));
        }
        if let Some((layer, during)) = pause {
            if n == during.start {
                server.client.steer(layer, "pause");
            } else if n == usize::midpoint(during.start, during.end) {
                stood = Some(position(server, layer));
            } else if n == during.end {
                assert_eq!(stood.take(), Some(position(server, layer)), "a paused layer takes nothing");
                server.client.steer(layer, "resume");
            }
        }
        let question = Question::any(chance);
        let answer = question.ask(&server.client, None);
        taken.push((question, answer));
    }
    taken
}

/// How far a layer is, on every partition.
fn position(server: &Server, layer: &str) -> Value {
    let name = if layer == "batch" { "history" } else { "speed" };
    server.client.status()["partitions"]
        .as_array()
        .expect("the status lists partitions")
        .iter()
        .map(|partition| partition[name].clone())
        .collect()
}

/// When all is quiet, nothing needed repair, and the answers still stand.
fn settle(server: &Server, recount: &Recount, question: &Question, position: &Position) {
    let status = server.settled();
    assert_eq!((&status["reconciliation"]["repaired"], &status["broken_invariants"]), (&0.into(), &0.into()));
    for question in [question.clone(), Question::total(), Question::by("5m", &["event_type", "product_id"])] {
        recount
            .check(&question, &question.ask(&server.client, Some(position)))
            .unwrap_or_else(|what| panic!("at last, {question:?}: {what}"));
    }
}

#[test]
fn an_answer_is_exact_at_any_moment_while_epochs_close() {
    check("any moment", 7, None);
}

#[test]
fn an_answer_is_exact_at_any_moment_while_the_batch_layer_is_paused() {
    check("any moment, batch paused", 7, Some(("batch", 36..84)));
}

#[test]
fn an_answer_is_exact_at_any_moment_while_the_speed_layer_is_paused() {
    check("any moment, speed paused", 8, Some(("speed", 36..84)));
}
