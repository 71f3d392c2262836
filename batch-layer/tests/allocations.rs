//! A record becomes an encoded row without an allocation of its own: a block's rows lie one behind the other in a buffer
//! that doubles, and the set of ids doubles too.

use std::time::{Duration, Instant};
use tidemark_batch_layer::BlockLimits;
use tidemark_batch_layer::lane::Lane;
use tidemark_core::epoch::EpochBits;
use tidemark_core::event::Limits;
use tidemark_core::generation::{Generation, Rules};
use tidemark_core::offset::{NextOffset, Offset, Partition};
use tidemark_core::view::Views;
use tidemark_topic::Record;

/// Taken before: the block has begun, and the month's rows have their buffer.
const WARM: u64 = 1 << 10;
const TAKEN: u64 = 50_000;

/// All within an hour: a block's month is looked up again when the day changes.
fn event(n: u64) -> String {
    let at = 1_735_689_600_000 + n % 3_600_000;
    let amount = if n.is_multiple_of(3) { "12.34" } else { "null" };
    format!(
        r#"{{"event_id":"{n:036}","event_type":"type-{}","timestamp":{at},"product_id":"p-{:06}","user_id":"u-{n}","order_amount":{amount},"properties":{{"a":1,"b":"x"}}}}"#,
        n % 12,
        n % 1_000
    )
}

/// How often taking the records from number `WARM` on into one block allocates, and the block's bytes before and after.
fn allocations(dedup: bool) -> (u64, usize, usize) {
    let views = Views::declare([("by_type", vec!["event_type"])]).expect("valid");
    let epoch_bits = EpochBits::new(18).expect("valid");
    let rules = Rules { generation: Generation(1), widens: None, epoch_bits, views, limits: Limits::default(), dedup };
    let limits = BlockLimits { max_rows: 2 * TAKEN, max_age: Duration::from_secs(3_600), ..BlockLimits::default() };
    let mut lane = Lane::new(&rules, Partition(0), NextOffset::ZERO, None);
    let payloads: Vec<String> = (0..WARM + TAKEN).map(event).collect();
    let now = Instant::now();
    let take = |numbers: std::ops::Range<u64>, lane: &mut Lane| {
        for (offset, payload) in numbers.clone().zip(&payloads[usize::try_from(numbers.start).expect("small")..]) {
            let record = Record { offset: Offset::new(offset), timestamp_ms: 1_735_700_000_000, payload: Some(payload.as_bytes()) };
            lane.take(&record, now, &limits);
        }
    };
    take(0..WARM, &mut lane);
    let before = lane.bytes();
    let measured = allocation_counter::measure(|| take(WARM..WARM + TAKEN, &mut lane));
    assert!(!lane.is_full(), "all of it is one block");
    (measured.count_total, before, lane.bytes())
}

#[test]
fn a_record_becomes_a_row_without_an_allocation_of_its_own() {
    let (measured, before, after) = allocations(false);
    let doublings = u64::from((after / before).ilog2()) + 1;
    assert!((1..=doublings).contains(&measured), "{measured} allocations for {before} to {after} bytes, which are {doublings} doublings");
    // And of the ids, from 2^10 to 2^16.
    let (with_ids, ..) = allocations(true);
    assert_eq!(with_ids - measured, 6);
}
