//! Counting allocates nothing for an event whose values and cells are there. What is left is the growth of tables, a
//! logarithm of what they hold: each bound here says which tables, and how often they grow.

use std::sync::Arc;
use tidemark_core::epoch::{EpochBits, Mark};
use tidemark_core::event::Limits;
use tidemark_core::generation::{Generation, Rules};
use tidemark_core::offset::{Offset, Partition};
use tidemark_core::view::Views;
use tidemark_speed_layer::tide::Tide;
use tidemark_topic::Record;

/// Counted before: each of the cells several times, so that none changes its kind any more.
const WARM: u64 = 1 << 14;
const COUNTED: u64 = 100_000;

const START_MS: u64 = 1_735_689_600_000;
const WINDOW_MS: u64 = 300_000;

const BOTH: [(&str, &[&str]); 2] = [("by_type", &["event_type"]), ("by_product", &["event_type", "product_id"])];

/// One in ten is a duplicate, one in a hundred is none of these: 12 types, 40 products, 4 windows, 1,920 cells.
fn usual(n: u64) -> String {
    if n % 100 == 50 {
        return "{\"event_type\":\"type-0\"".to_owned();
    }
    let (kind, product, window) = (n % 12, n / 12 % 40, n / 480 % 4);
    event(id_of(n), kind, product, window, if kind == 0 { "12.34" } else { "null" })
}

fn id_of(n: u64) -> u64 {
    if n % 10 == 9 { n - 1 } else { n }
}

fn event(id: u64, kind: u64, product: u64, window: u64, amount: &str) -> String {
    let at = START_MS + window * WINDOW_MS;
    format!(
        r#"{{"event_id":"{id:036}","event_type":"type-{kind}","timestamp":{at},"product_id":"p-{product:06}","user_id":"u-{id}","order_amount":{amount}}}"#
    )
}

/// How often counting the records from number `WARM` on allocates.
fn allocations(views: &[(&str, &[&str])], dedup: bool, payload: impl Fn(u64) -> String) -> u64 {
    let views = Views::declare(views.iter().map(|(name, dimensions)| (*name, dimensions.to_vec()))).expect("valid");
    let epoch_bits = EpochBits::new(18).expect("valid");
    let rules = Rules { generation: Generation(1), widens: None, epoch_bits, views, limits: Limits::default(), dedup };
    let mut tide = Tide::new(Partition(0), Arc::new(rules), Mark::START);
    let payloads: Vec<String> = (0..WARM + COUNTED).map(payload).collect();
    let records: Vec<Record<'_>> = (0..)
        .zip(&payloads)
        .map(|(offset, payload)| Record { offset: Offset::new(offset), timestamp_ms: 1_735_700_000_000, payload: Some(payload.as_bytes()) })
        .collect();
    let (warm, counted) = records.split_at(usize::try_from(WARM).expect("small"));
    tide.apply(warm);
    // As they come from a fetch.
    let measured = allocation_counter::measure(|| counted.chunks(500).for_each(|records| tide.apply(records)));
    assert_eq!(tide.waterline().position.get(), WARM + COUNTED);
    measured.count_total
}

#[test]
fn an_event_of_known_values_allocates_nothing() {
    for views in [&BOTH[..1], &BOTH] {
        assert_eq!(allocations(views, false, usual), 0, "{views:?}");
    }
}

/// The one thing that grows with events is the set of their ids. It doubles: from the 2^14 of before to 2^17, three times.
#[test]
fn duplicates_are_found_with_three_allocations_in_a_hundred_thousand_events() {
    let ids = |records: u64| (0..records).filter(|n| n % 100 != 50 && id_of(*n) == *n).count().next_power_of_two().ilog2();
    let doublings = ids(WARM + COUNTED) - ids(WARM);
    assert_eq!(doublings, 3);
    for views in [&BOTH[..1], &BOTH] {
        assert_eq!(allocations(views, true, usual), u64::from(doublings), "{views:?}");
    }
}

/// The worst that can come: each event has a product of its own, and so a cell. Its text, its number, its group and its
/// cell lie in 16 tables and lists, of which none grows by less than half.
#[test]
fn new_values_and_cells_allocate_only_as_tables_grow() {
    let dictionary = 3; // text, ends, places
    let groups = 2; // keys, places
    let kinds = 2 * 3; // of cells: a list and its free numbers each
    let windows = 4;
    let tables = 2 * dictionary + groups + kinds + windows;
    let growths = (((WARM + COUNTED) as f64) / WARM as f64).log(1.5).ceil() + 1.0;
    let measured = allocations(&BOTH[1..], false, |n| event(n, n % 12, n, n % 4, if n % 2 == 0 { "1" } else { "null" }));
    assert!(measured as f64 <= f64::from(tables) * growths, "{measured} allocations, {tables} tables, {growths} growths each");
}
