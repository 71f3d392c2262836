//! Read your own write: a query that asks for the position which ingest returned contains the event, at once.

use std::time::{Duration, Instant};
use tidemark_tests::client::{Position, raise};
use tidemark_tests::figure::figure;
use tidemark_tests::question::Question;
use tidemark_tests::server::Site;

const WRITES: u64 = 200;
/// The issue's number.
const MEDIAN_LIMIT: Duration = Duration::from_millis(100);

pub(crate) fn a_write_is_in_the_next_answer_at_its_position_in_under_100_ms() {
    let site = Site::alone("");
    let server = site.up();
    let question = Question { filters: vec![("event_type", "written")], ..Question::total() };
    let mut took: Vec<Duration> = Vec::new();
    for n in 1..=WRITES {
        let event = format!(r#"{{"event_id":"w{n}","event_type":"written","user_id":"u{n}","timestamp":"2013-01-01T10:15:00Z"}}"#);
        let began = Instant::now();
        let reply = server.client.post("/v1/events", &[("content-type", "application/json")], event.as_bytes());
        assert_eq!(reply.status, 200, "{}", reply.text());
        let mut position = Position::new();
        raise(&mut position, reply.json()["position"].as_str().expect("the answer has a position"));
        let answer = question.ask(&server.client, Some(&position));
        took.push(began.elapsed());
        assert_eq!(answer.count(), n, "the answer at {position:?} contains what was written: {answer:?}");
    }
    took.sort_unstable();
    let (median, worst) = (took[took.len() / 2], took[took.len() - 1]);
    figure(
        "read your own write: median and slowest, ms",
        format!("{:.1} and {:.1}", median.as_secs_f64() * 1000.0, worst.as_secs_f64() * 1000.0),
    );
    assert!(median < MEDIAN_LIMIT, "the median is {median:?}");
    server.stop();
}
