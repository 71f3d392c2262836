//! What is answered, as it is described: the texts themselves are written in `answer.rs`, `push/` and `api/`.

#![expect(dead_code, reason = "described, never made")]

use serde_json::{Map, Value};
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// An answer, and what it contains.
#[derive(ToSchema)]
pub struct Answer {
    /// By window, then by the dimensions.
    rows: Vec<Row>,
    /// Every event below is counted, and none above: of each partition, by its number, a next offset.
    #[schema(example = json!({"0": 3222, "1": 3129}))]
    cut: BTreeMap<String, u64>,
    /// Below is history, above the speed layer. Not of an answer by `at`, as are `end` and `took_ms`.
    mark: Option<BTreeMap<String, u64>>,
    /// Where the log ends.
    end: Option<BTreeMap<String, u64>>,
    /// Whose rules counted.
    generation: u32,
    /// How often damage of closed history had been found or repaired; absent while it never has.
    history_revision: Option<u64>,
    /// What has happened to closed history since the answer that a permalink is from; absent if nothing has.
    revised: Option<Vec<Revised>>,
    /// `true`: what is not exact is not answered.
    exact: bool,
    took_ms: Option<f64>,
}

/// Something that has happened to a closed epoch.
#[derive(ToSchema)]
pub struct Revised {
    partition: u32,
    epoch: u64,
    /// `damaged`, `repaired` or `loss accepted`.
    change: String,
    /// In words.
    what: String,
    #[schema(format = DateTime)]
    at: String,
}

/// The bucket's start, the dimensions and the measures that were asked for.
#[derive(ToSchema)]
pub struct Row {
    /// The bucket's start, in UTC; absent where the step is `total`.
    #[schema(format = DateTime)]
    window: Option<String>,
    event_type: Option<String>,
    product_id: Option<String>,
    user_id: Option<String>,
    count: Option<u64>,
    /// Events that had an amount.
    amount_count: Option<u64>,
    /// A decimal; null where no event had an amount. So are `avg`, `min` and `max`.
    #[schema(nullable, example = "12.3400")]
    sum: Option<String>,
    #[schema(nullable)]
    avg: Option<String>,
    #[schema(nullable)]
    min: Option<String>,
    #[schema(nullable)]
    max: Option<String>,
}

/// A number, and what it is made of.
#[derive(ToSchema)]
pub struct Explanation {
    /// All measures of it.
    number: Map<String, Value>,
    #[schema(required, nullable, format = DateTime)]
    from: Option<String>,
    #[schema(required, nullable, format = DateTime)]
    to: Option<String>,
    /// The values of its dimensions.
    r#where: BTreeMap<String, Vec<String>>,
    /// `live`, `closing` or `final`.
    #[schema(required, nullable)]
    phase: Option<String>,
    /// Where it is explained.
    cut: BTreeMap<String, u64>,
    generation: u32,
    /// Events that came when the range was over; null where it has no end.
    #[schema(required, nullable)]
    late: Option<u64>,
    /// Where its events stand, and which layer answers for them.
    epochs: Vec<Map<String, Value>>,
    uncounted: Vec<Uncounted>,
    events: Vec<Map<String, Value>>,
    /// Where the next page is; null on the last one.
    #[schema(required, nullable)]
    next: Option<String>,
}

/// Records between a number's events that were not counted.
#[derive(ToSchema)]
pub struct Uncounted {
    partition: u32,
    reason: String,
    records: u64,
}

/// What was not counted, newest first.
#[derive(ToSchema)]
pub struct DeadLetters {
    dead_letters: Vec<DeadLetter>,
    /// What `before` of the next page is; null on the last one.
    #[schema(required, nullable)]
    next: Option<String>,
}

/// A record that was not counted.
#[derive(ToSchema)]
pub struct DeadLetter {
    topic: String,
    partition: u32,
    offset: u64,
    #[schema(format = DateTime)]
    record_timestamp: String,
    #[schema(example = "duplicate")]
    reason: String,
    /// The record, where it is UTF-8.
    payload: Option<String>,
    /// The record in hexadecimal, where it is not.
    payload_hex: Option<String>,
}

/// Where everything stands. All positions are next offsets.
#[derive(ToSchema)]
pub struct Status {
    topic: String,
    generation: u32,
    /// The rules of that generation, as text.
    rules: String,
    epoch_bits: u8,
    views: Vec<View>,
    /// What a question can be grouped and filtered by.
    dimensions: Vec<String>,
    partitions: Vec<Partition>,
    /// Up to where event time has come.
    #[schema(required, nullable, format = DateTime)]
    watermark: Option<String>,
    /// How far event time must have passed a window's end before it is final.
    lateness_ms: u64,
    /// Epochs that are being repaired, closed epochs that are damaged, history's revision, and what keeps that from being known.
    ledger: Map<String, Value>,
    /// Generations that are there, and do not answer.
    other_generations: Vec<Map<String, Value>>,
    /// Where the live part of answers comes from, and what is wrong with it.
    live: Map<String, Value>,
    /// The layers that run in this process.
    layers: Map<String, Value>,
    /// Failed checks of invariants since the start.
    broken_invariants: u64,
}

#[derive(ToSchema)]
pub struct View {
    name: String,
    dimensions: Vec<String>,
}

/// If it is not ready, its number and that alone.
#[derive(ToSchema)]
pub struct Partition {
    partition: u32,
    ready: bool,
    /// Below it history answers.
    mark: Option<u64>,
    /// How far history is.
    history: Option<u64>,
    /// How far the speed layer is.
    speed: Option<u64>,
    end: Option<u64>,
    /// Records that are not counted yet.
    lag: Option<u64>,
    history_lag: Option<u64>,
    closed_epochs: Option<u64>,
    open_epochs: Option<u64>,
    cells: Option<u64>,
}

/// A layer, as it is now.
#[derive(ToSchema)]
pub struct Layer {
    layer: String,
    paused: bool,
}
