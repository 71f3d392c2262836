//! What counting costs once a record is here, without Kafka: an epoch's first 65,536 records into an empty tide, so that
//! new values and cells are part of it; and what an answer from an open epoch costs.

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::sync::Arc;
use tidemark_core::cell::fold_of;
use tidemark_core::epoch::{EpochBits, Mark};
use tidemark_core::event::Limits;
use tidemark_core::generation::{Generation, Rules};
use tidemark_core::offset::{Offset, Partition};
use tidemark_core::question::Question;
use tidemark_core::view::{Dimension, ViewId, Views};
use tidemark_core::window::{Buckets, Step, TimeRange};
use tidemark_speed_layer::gathered::Gathered;
use tidemark_speed_layer::tide::Tide;
use tidemark_topic::Record;

const RECORDS: u64 = 1 << 16;
/// As they come from a fetch.
const AT_ONCE: usize = 500;

const START_MS: u64 = 1_735_689_600_000;
const SPAN_MS: u64 = 48 * 300_000;
const TYPES: [&str; 12] = ["view", "click", "search", "scroll", "cart", "purchase", "refund", "login", "logout", "share", "rate", "error"];

/// About what `tidemark bench` generates: 12 types, 10,000 products of which some are far more frequent, 48 windows.
fn payload(n: u64) -> String {
    let draw = |salt: u64| fold_of(Offset::new(n << 3 | salt));
    let kind = TYPES[usize::try_from(draw(1) % 12).expect("12 types")];
    let at = START_MS + n * SPAN_MS / RECORDS + draw(2) % 3_000;
    let product = draw(3) % (draw(4) % 10_000 + 1);
    let amount = if kind == "purchase" { format!("{}.{:02}", draw(5) % 500, draw(6) % 100) } else { "null".to_owned() };
    let (id, user) = (draw(7), draw(0) % 200_000);
    format!(
        r#"{{"event_id":"{id:016x}-{n:019}","event_type":"{kind}","timestamp":{at},"product_id":"p-{product:06}","user_id":"u-{user:06}","order_amount":{amount}}}"#
    )
}

fn rules(views: usize, dedup: bool) -> Arc<Rules> {
    let all = [("by_type", vec!["event_type"]), ("by_product", vec!["event_type", "product_id"])];
    let views = Views::declare(all.into_iter().take(views)).expect("valid");
    let epoch_bits = EpochBits::new(18).expect("valid");
    Arc::new(Rules { generation: Generation(1), widens: None, epoch_bits, views, limits: Limits::default(), dedup })
}

fn applied(rules: &Arc<Rules>, records: &[Record<'_>]) -> Tide {
    let mut tide = Tide::new(Partition(0), Arc::clone(rules), Mark::START);
    records.chunks(AT_ONCE).for_each(|records| tide.apply(records));
    tide
}

fn bench(c: &mut Criterion) {
    let payloads: Vec<String> = (0..RECORDS).map(payload).collect();
    let records: Vec<Record<'_>> = (0..)
        .zip(&payloads)
        .map(|(offset, payload)| Record { offset: Offset::new(offset), timestamp_ms: 1_735_800_000_000, payload: Some(payload.as_bytes()) })
        .collect();

    let mut group = c.benchmark_group("apply");
    group.throughput(Throughput::Elements(RECORDS));
    for (name, views, dedup) in
        [("one view", 1, false), ("one view, duplicates", 1, true), ("two views", 2, false), ("two views, duplicates", 2, true)]
    {
        let rules = rules(views, dedup);
        group.bench_function(name, |b| b.iter_batched(|| (), |()| applied(&rules, black_box(&records)), BatchSize::PerIteration));
    }
    group.finish();

    let tide = applied(&rules(2, true), &records);
    let question = |group_by: &[Dimension]| Question {
        range: TimeRange::default(),
        buckets: Buckets::new(Step::FiveMinutes, None).expect("no zone"),
        group_by: group_by.to_vec(),
        filters: Default::default(),
        only_counts: false,
    };
    let mut group = c.benchmark_group("answer from an open epoch");
    for (name, view, group_by) in
        [("576 rows by type", 0, &[Dimension::EventType][..]), ("all cells by product", 1, &[Dimension::EventType, Dimension::ProductId])]
    {
        let question = question(group_by);
        group.bench_function(name, |b| {
            b.iter(|| {
                let mut gathered = Gathered::default();
                tide.answer(ViewId(view), &question, &mut gathered).expect("windows of this century");
                gathered.into_rows()
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
