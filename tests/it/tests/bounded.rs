//! While history takes nothing, the speed layer's memory has a bound: it counts so far, says why it waits, and goes on.

use std::time::Duration;
use tidemark_tests::client::written;
use tidemark_tests::data;
use tidemark_tests::question::Question;
use tidemark_tests::recount::Recount;
use tidemark_tests::sending::{Manner, Pace, by_http};
use tidemark_tests::server::Site;
use tidemark_tests::wait;

const MANNER: Manner = Manner { batch: 1000, clients: 1, persistent: false };
/// A partition's bound is two epochs, 512 events.
const CONFIG: &str = "[counting]\nepoch_bits = 8\n[batch]\nmax_age_ms = 200\n[speed]\nmax_open_events = 1\n";

#[test]
fn open_epochs_have_a_bound_and_answers_stay_exact_at_it() {
    let site = Site::new(CONFIG);
    let server = site.up();
    let january = data::bytes("flights-2013-01.late.ndjson.gz");
    let lines = data::lines(&january);
    server.client.steer("batch", "pause");
    by_http(&server.client, &lines[..6000], MANNER, &Pace::free());
    let trouble = wait::until("every partition is at its bound", Duration::from_secs(30), || {
        let status = server.client.status();
        let trouble = status["layers"]["speed"]["trouble"].as_str()?.to_owned();
        let open = |at: &serde_json::Value| at["speed"].as_u64().zip(at["mark"].as_u64()).is_some_and(|(speed, mark)| speed - mark > 512);
        status["partitions"].as_array()?.iter().all(open).then_some(trouble)
    });
    assert!(trouble.contains("speed.max_open_events"), "{trouble}");
    // More is sent, and not counted: an answer that must have it does not come, and one that need not is exact at its cut.
    let more = by_http(&server.client, &lines[6000..8000], MANNER, &Pace::free());
    let question = Question::by("5m", &["event_type", "product_id"]);
    let reply = server.client.get(&format!("{}&at_least={}&timeout_ms=2000", question.path(None), written(&more.position)));
    assert_eq!(reply.status, 504, "{}", reply.text());
    let answer = question.ask(&server.client, None);
    let recount = Recount::read(&server.runtime().kafka, &server.topic(), 8);
    recount.check(&question, &answer).unwrap_or_else(|what| panic!("at the bound: {what}"));

    server.client.steer("batch", "resume");
    let answer = question.ask(&server.client, Some(&more.position));
    recount.check(&question, &answer).unwrap_or_else(|what| panic!("afterwards: {what}"));
    let status = server.settled();
    // A partition at the log's end may have been at its bound until its last epoch closed; the loop sees that at its next poll.
    wait::until("the layer no longer says that it waits", Duration::from_secs(30), || {
        server.client.status()["layers"]["speed"]["trouble"].is_null().then_some(())
    });
    assert_eq!((&status["reconciliation"]["repaired"], &status["broken_invariants"]), (&0.into(), &0.into()));
    server.stop();
}
