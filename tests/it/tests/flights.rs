//! A year of real events, sent in order: every known answer, to the last digit.

use std::time::Duration;
use tidemark_tests::client::Position;
use tidemark_tests::figure::figure;
use tidemark_tests::sending::{Manner, Pace, by_http, by_kafka};
use tidemark_tests::server::{Server, Site, binary};
use tidemark_tests::{data, expected, wait};

const EVENTS: u64 = 336_776;
const MANNER: Manner = Manner { batch: 1000, clients: 2, persistent: false };
/// The engines' memory is not counted.
const MEMORY_LIMIT_MIB: u64 = 300;
const SMALL_EPOCHS: &str = "[counting]\nepoch_bits = 10\n[batch]\nmax_age_ms = 200\nmax_rows = 2000\n";
const LARGER_EPOCHS: &str = "[counting]\nepoch_bits = 12\n[batch]\nmax_age_ms = 200\nmax_rows = 8000\n";

/// Sends the year, asks all that is known of it while epochs close, and again when `closed` of them have.
fn check(name: &str, config: &str, closed: std::ops::RangeInclusive<u64>, send: impl FnOnce(&Server, &[&[u8]]) -> Position) {
    let site = Site::new(config);
    let server = site.up();
    let year = data::bytes("flights-2013.ndjson.zst");
    let began = std::time::Instant::now();
    let position = send(&server, &data::lines(&year));
    figure(&format!("{name}: sent, s"), format!("{:.1}", began.elapsed().as_secs_f64()));
    assert_eq!(position.values().sum::<u64>(), EVENTS, "each line is one record: {position:?}");
    let after_sending = server.peak_memory_mib();
    let queries = expected::check_queries(&server.client, &position);
    let days = expected::check_digests(&server.client, &position);
    figure(&format!("{name}: queries and days equal"), format!("{queries} and {days}"));
    let after_queries = server.peak_memory_mib();

    let status = wait::until("the epochs close", Duration::from_secs(240), || {
        let status = server.client.status();
        (status["reconciliation"]["closed"].as_u64() >= Some(*closed.start())).then_some(status)
    });
    if *closed.start() > 0 {
        expected::check_queries(&server.client, &position);
        expected::check_digests(&server.client, &position);
    }
    assert!(closed.contains(&status["reconciliation"]["closed"].as_u64().expect("a number")), "{}", status["reconciliation"]);
    assert_eq!((&status["reconciliation"]["repaired"], &status["broken_invariants"]), (&0.into(), &0.into()));
    figure(&format!("{name}: epochs closed"), &status["reconciliation"]["closed"]);
    let memory = server.peak_memory_mib();
    figure(&format!("{name}: peak memory of tidemark, MiB: sent, asked, at last"), format!("{after_sending}, {after_queries}, {memory}"));
    if binary().parent().is_some_and(|profile| profile.ends_with("release")) {
        assert!(memory < MEMORY_LIMIT_MIB, "the process had {memory} MiB");
    }
    server.stop();
}

fn http(server: &Server, lines: &[&[u8]]) -> Position {
    let sent = by_http(&server.client, lines, MANNER, &Pace::free());
    assert_eq!((sent.accepted, sent.rejected.len()), (EVENTS, 0));
    sent.position
}

#[test]
fn the_year_through_http_is_equal_while_no_epoch_closes() {
    check("flights, http, large epochs", "", 0..=0, http);
}

/// Others have each half of it.
#[test]
#[ignore = "minutes of work: make accept-main"]
fn the_year_through_http_is_equal_while_hundreds_of_epochs_close() {
    check("flights, http, small epochs", SMALL_EPOCHS, 200..=EVENTS, http);
}

#[test]
fn the_year_from_a_plain_kafka_producer_is_equal_while_epochs_close() {
    check("flights, kafka, epochs of 4096", LARGER_EPOCHS, 50..=EVENTS, |server, lines| {
        by_kafka(&server.runtime().kafka, &server.topic(), lines)
    });
}

#[test]
#[ignore = "minutes of work: make accept-main"]
fn the_year_from_a_plain_kafka_producer_is_equal_while_hundreds_of_epochs_close() {
    check("flights, kafka, small epochs", SMALL_EPOCHS, 200..=EVENTS, |server, lines| {
        by_kafka(&server.runtime().kafka, &server.topic(), lines)
    });
}
