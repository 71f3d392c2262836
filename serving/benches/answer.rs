//! What serving adds to an answer whose rows are there: understanding the question, merging the two layers' rows, and
//! writing them down.

use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use std::hint::black_box;
use tidemark_core::amount::Amount;
use tidemark_core::cell::{Cell, fold_of};
use tidemark_core::epoch::EpochBits;
use tidemark_core::event::Limits;
use tidemark_core::generation::{Generation, Rules};
use tidemark_core::offset::Offset;
use tidemark_core::question::{RowKey, Rows, merge_rows};
use tidemark_core::view::Views;
use tidemark_serving::answer::{Answer, Source, arrange, json};
use tidemark_serving::plan::{Plan, plan};

const START_MS: i64 = 1_735_689_600_000;
const HOUR_MS: i64 = 3_600_000;

const DASHBOARD: &str = "from=2025-01-01T00:00:00Z&to=2025-01-01T01:00:00Z&step=5m&group_by=event_type";
const FILTERED: &str = "from=2025-01-01T00:00:00Z&to=2025-02-01T00:00:00Z&step=1h&group_by=event_type,product_id&where=event_type:view&where=event_type:cart&measures=count,sum,avg&top=10:sum&at_least=0:1000,1:2000";
const YEAR: &str = "from=2025-01-01T05:00:00Z&to=2026-01-01T05:00:00Z&step=1d&group_by=event_type&tz=America/New_York";
const TOP: &str = "step=1h&group_by=product_id&top=10:count";

fn rules() -> Rules {
    let views = Views::declare([("by_type", vec!["event_type"]), ("by_product", vec!["event_type", "product_id"])]).expect("valid");
    let epoch_bits = EpochBits::new(18).expect("valid");
    Rules { generation: Generation(1), widens: None, epoch_bits, views, limits: Limits::default(), dedup: true }
}

fn parameters(query: &str) -> Vec<(String, String)> {
    form_urlencoded::parse(query.as_bytes()).into_owned().collect()
}

fn planned(query: &str) -> Plan {
    plan(&rules(), &parameters(query)).expect("valid")
}

/// Of each of so many buckets and values a row, but for one in five.
fn rows(buckets: i64, values: u64, step_ms: i64, salt: u64) -> Rows {
    let mut rows = Rows::new();
    for bucket in 0..buckets {
        for value in 0..values {
            let drawn = fold_of(Offset::new(bucket.unsigned_abs() * values + value + (salt << 40)));
            if !drawn.is_multiple_of(5) {
                let mut cell = Cell::EMPTY;
                (0..drawn % 3 + 1).for_each(|n| cell.add(drawn + n, Some(Amount::from_ten_thousandths(1_000))));
                rows.insert(RowKey { bucket_ms: START_MS + bucket * step_ms, values: vec![format!("p-{value:06}").into()] }, cell);
            }
        }
    }
    rows
}

fn bench(c: &mut Criterion) {
    let rules = rules();
    let mut group = c.benchmark_group("plan");
    for (name, query) in
        [("an hour by type", DASHBOARD), ("filters, a top list, a position", FILTERED), ("a year of New York's days", YEAR)]
    {
        let parameters = parameters(query);
        group.bench_function(name, |b| b.iter(|| plan(&rules, black_box(&parameters)).expect("valid")));
    }
    group.finish();

    let mut group = c.benchmark_group("merge");
    let hour = (rows(1, 12, HOUR_MS, 1), rows(12, 12, HOUR_MS / 12, 2));
    let day = (rows(2, 10_000, HOUR_MS, 1), rows(24, 10_000, HOUR_MS, 2));
    for (name, query, (speed, history)) in [
        ("an hour by type", DASHBOARD, &hour),
        ("a day of 10,000 products", "step=1h&group_by=product_id", &day),
        ("the same, top 10", TOP, &day),
    ] {
        let plan = planned(query);
        group.bench_function(name, |b| b.iter(|| arrange(&plan, black_box(speed), black_box(history))));
    }
    // What the layers themselves do with the rows of epochs and partitions.
    group.bench_function("a day of 10,000 products, row by row into another", |b| {
        b.iter_batched(
            || day.clone(),
            |(speed, mut history)| {
                merge_rows(&mut history, speed);
                history
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();

    let plan = planned(DASHBOARD);
    let answer = Answer {
        rows: arrange(&plan, &hour.0, &hour.1),
        memory: None,
        cut: Default::default(),
        mark: Default::default(),
        end: Default::default(),
        revision: 0,
        revised: Vec::new(),
        generation: Generation(1),
        source: Source::History,
    };
    c.bench_function("json of an hour by type", |b| b.iter(|| json(&plan, black_box(&answer))));
}

criterion_group!(benches, bench);
criterion_main!(benches);
