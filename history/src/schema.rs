//! The tables, generated from the rules of a generation. ClickHouse SQL.
//!
//! `events` and `dead_letters` are written by the batch layer; for each view three roll-ups, 5 minutes → 1 hour →
//! 1 day, are filled by materialized views, each from the one before. Roll-ups carry partition and epoch, so that a
//! query can stop at the mark; plain views that merge both away serve people.

use crate::clickhouse::Tables;
use crate::sql;
use std::collections::BTreeSet;
use tidemark_core::generation::{Generation, Rules};
use tidemark_core::view::{Dimension, View, ViewId};
use tidemark_core::window::Level;

/// Raises when a statement of this file changes for a history that exists; [`migrations`] says how to get there.
pub const SCHEMA_VERSION: u32 = 3;

/// How many inserts a table remembers tokens of. A stuck partition must not outlive it: at two inserts (months) a block
/// and a block every 10 s this is more than half a day; what slips through is found by reconciliation.
const DEDUPLICATION_WINDOW: u32 = 10_000;

/// The columns of the base tables, in the order in which [`crate::rows`] writes them.
pub const EVENT_COLUMNS: &str = "partition, offset, event_id, event_type, timestamp, product_id, user_id, order_amount, properties";
pub const DEAD_LETTER_COLUMNS: &str = "partition, offset, record_timestamp, reason, payload";

/// Raw events of a generation. The first one's have no number, as they had before there could be others.
pub fn events_table(rules: &Rules) -> String {
    numbered("events", rules.raw())
}

/// Its dead letters.
pub fn dead_letters_table(rules: &Rules) -> String {
    numbered("dead_letters", rules.raw())
}

/// Where a repair keeps raw events until they are back in their own table.
pub fn staged_events_table(rules: &Rules) -> String {
    numbered("staged_events", rules.raw())
}

/// The same of dead letters.
pub fn staged_dead_letters_table(rules: &Rules) -> String {
    numbered("staged_dead_letters", rules.raw())
}

fn numbered(name: &str, generation: Generation) -> String {
    if generation == Generation::FIRST { name.to_owned() } else { format!("{name}_g{generation}") }
}

/// What people ask for raw events and dead letters, whichever generation answers.
const RAW_EVENTS: &str = "raw_events";
const RAW_DEAD_LETTERS: &str = "raw_dead_letters";

/// `by_type_1h_g1`
pub fn rollup_table(rules: &Rules, view: ViewId, level: Level) -> String {
    format!("{}_{}_g{}", rules.views.get(view).name(), level.suffix(), rules.keeper(view))
}

/// The roll-ups of these views, at all levels.
pub fn rollup_tables(rules: &Rules, views: impl Iterator<Item = ViewId>) -> impl Iterator<Item = String> {
    views.flat_map(|view| Level::ALL.map(|level| rollup_table(rules, view, level)))
}

/// The statements of each version, oldest first, for the tables that are a generation's own; all of them are safe to repeat.
pub fn migrations(rules: &Rules, tables: &Tables) -> Vec<(u32, Vec<String>)> {
    vec![(1, version_1(rules, tables)), (2, version_2(rules, tables)), (3, version_3(rules, tables))]
}

impl Tables {
    /// What follows an object's name in DDL.
    pub fn on_cluster(&self) -> String {
        match self {
            Self::Replicated { cluster: Some(cluster), .. } => format!(" ON CLUSTER {}", sql::literal(cluster)),
            Self::Own | Self::Replicated { cluster: None, .. } => String::new(),
        }
    }

    /// `ENGINE = …`, of the MergeTree family.
    fn engine(&self, engine: &str) -> String {
        match self {
            Self::Own => format!("ENGINE = {engine}"),
            Self::Replicated { path, .. } => format!("ENGINE = Replicated{engine}({}, '{{replica}}')", sql::literal(path)),
        }
    }
}

/// Codecs that [`events`] has had since. What was written before is read as it is, and written anew when parts merge.
fn version_2(rules: &Rules, tables: &Tables) -> Vec<String> {
    vec![format!(
        "ALTER TABLE {}{} MODIFY COLUMN partition CODEC(T64, ZSTD(1)), MODIFY COLUMN offset CODEC(T64, ZSTD(1)), \
         MODIFY COLUMN product_id CODEC(ZSTD(3)), MODIFY COLUMN user_id CODEC(ZSTD(3)), MODIFY COLUMN properties CODEC(ZSTD(3))",
        events_table(rules),
        tables.on_cluster()
    )]
}

/// Tables for repairs. Nothing is filled from them, and they are empty most of the time.
fn version_3(rules: &Rules, tables: &Tables) -> Vec<String> {
    if rules.widens.is_some() {
        return Vec::new();
    }
    let table = |name: String, columns: &str| {
        format!(
            "CREATE TABLE IF NOT EXISTS {name}{on_cluster} (
    partition UInt32,
    offset UInt64,
{columns}
) {engine} ORDER BY (partition, offset)
SETTINGS {deduplication}",
            on_cluster = tables.on_cluster(),
            engine = tables.engine("MergeTree"),
            deduplication = deduplication(),
        )
    };
    vec![
        table(
            staged_events_table(rules),
            "    event_id String,
    event_type LowCardinality(String),
    timestamp DateTime64(3, 'UTC'),
    product_id String,
    user_id String,
    order_amount Nullable(Decimal(18, 4)),
    properties Map(LowCardinality(String), String)",
        ),
        table(
            staged_dead_letters_table(rules),
            "    record_timestamp DateTime64(3, 'UTC'),
    reason LowCardinality(String),
    payload String",
        ),
    ]
}

fn version_1(rules: &Rules, tables: &Tables) -> Vec<String> {
    let mut statements = if rules.widens.is_none() { vec![events(rules, tables), dead_letters(rules, tables)] } else { vec![] };
    let of = |view| Level::ALL.into_iter().flat_map(move |level| [rollup(rules, view, level, tables), filler(rules, view, level, tables)]);
    statements.extend(rules.kept().flat_map(of));
    statements
}

/// The views for people, which show the generation that answers: all of them are safe to repeat.
pub fn for_people(rules: &Rules, tables: &Tables) -> Vec<String> {
    let on_cluster = tables.on_cluster();
    let raw = [(RAW_EVENTS, events_table(rules)), (RAW_DEAD_LETTERS, dead_letters_table(rules))];
    let raw = raw.map(|(name, table)| format!("CREATE OR REPLACE VIEW {name}{on_cluster} AS SELECT * FROM {table}"));
    let merged = rules.views.ids().flat_map(|view| Level::ALL.map(|level| merged(rules, view, level, tables)));
    raw.into_iter().chain(merged).collect()
}

/// What frees a generation: fillers first, so that none writes to what is gone. What people see stays where the `live`
/// generation shows something by that name, and tables stay that one of the `others` shares.
pub fn drop(rules: &Rules, live: &Rules, others: &[&Rules], tables: &Tables) -> Vec<String> {
    let on_cluster = tables.on_cluster();
    let gone = |kind: &str, name: String| format!("DROP {kind} IF EXISTS {name}{on_cluster} SYNC");
    let rolled_up = |rules: &Rules| rollup_tables(rules, rules.views.ids()).collect::<BTreeSet<_>>();
    let raw =
        |rules: &Rules| [events_table(rules), dead_letters_table(rules), staged_events_table(rules), staged_dead_letters_table(rules)];
    let in_use: BTreeSet<String> = others.iter().flat_map(|rules| rolled_up(rules).into_iter().chain(raw(rules))).collect();
    let own = |table: &String| !in_use.contains(table);
    let rollups: Vec<String> = rolled_up(rules).into_iter().filter(own).collect();
    let fillers = rollups.iter().map(|table| format!("{table}_filler"));
    let unseen = rules.views.iter().filter(|view| live.views.iter().all(|other| other.name() != view.name()));
    let unseen = unseen.flat_map(|view| Level::ALL.map(|level| format!("{}_{}", view.name(), level.suffix())));
    let views: Vec<String> = fillers.chain(unseen).map(|view| gone("VIEW", view)).collect();
    let tables = rollups.into_iter().chain(raw(rules).into_iter().filter(own)).map(|table| gone("TABLE", table));
    views.into_iter().chain(tables).collect()
}

/// The tables that all generations share, which must exist before anything else can be asked.
pub fn shared(tables: &Tables) -> Vec<String> {
    vec![generations(tables), generation_states(tables), generation_inputs(tables), ledger(tables), audits(tables)]
}

/// What has become of each generation; the last row about one counts, and the last of all that says `live`.
fn generation_states(tables: &Tables) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS generation_states{on_cluster} (
    generation UInt32,
    state Enum8('building' = 1, 'ready' = 2, 'live' = 3, 'dropped' = 4),
    max_per_second UInt64,
    max_lag UInt64,
    raw_alone Bool,
    at DateTime64(6, 'UTC') DEFAULT now64(6)
) {engine} ORDER BY at",
        on_cluster = tables.on_cluster(),
        engine = tables.engine("MergeTree"),
    )
}

/// Which topic each generation's raw events come from, and by which consumer group; the last row about one counts.
fn generation_inputs(tables: &Tables) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS generation_inputs{on_cluster} (
    generation UInt32,
    cluster_id String,
    topic_id String,
    batch_group String,
    at DateTime64(6, 'UTC') DEFAULT now64(6)
) {engine} ORDER BY (generation, at)",
        on_cluster = tables.on_cluster(),
        engine = tables.engine("MergeTree"),
    )
}

/// By which rules each generation counts, and which versions of this file its tables have.
fn generations(tables: &Tables) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS generations{on_cluster} (
    generation UInt32,
    schema_version UInt32,
    topic String,
    rules String,
    at DateTime64(3, 'UTC') DEFAULT now64(3)
) {engine} ORDER BY (generation, schema_version)",
        on_cluster = tables.on_cluster(),
        engine = tables.engine("MergeTree"),
    )
}

fn names(view: &View) -> Vec<&'static str> {
    view.dimensions().iter().map(|d| d.name()).collect()
}

fn deduplication() -> String {
    format!("non_replicated_deduplication_window = {DEDUPLICATION_WINDOW}, replicated_deduplication_window = {DEDUPLICATION_WINDOW}")
}

/// In this order offsets jump to and fro: packed, they take less than their differences. Values that come again are found
/// by ZSTD(3); in ids that do not, it finds what is dearer to say than the bytes themselves.
fn events(rules: &Rules, tables: &Tables) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {table}{on_cluster} (
    partition UInt32 CODEC(T64, ZSTD(1)),
    offset UInt64 CODEC(T64, ZSTD(1)),
    epoch UInt64 ALIAS bitShiftRight(offset, {bits}),
    event_id String CODEC(ZSTD(1)),
    event_type LowCardinality(String),
    timestamp DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    product_id String CODEC(ZSTD(3)),
    user_id String CODEC(ZSTD(3)),
    order_amount Nullable(Decimal(18, 4)) CODEC(ZSTD(1)),
    properties Map(LowCardinality(String), String) CODEC(ZSTD(3)),
    INDEX by_offset (partition, offset) TYPE minmax GRANULARITY 1
) {engine} PARTITION BY toYYYYMM(timestamp) ORDER BY (event_type, timestamp, product_id)
SETTINGS {deduplication}",
        table = events_table(rules),
        on_cluster = tables.on_cluster(),
        engine = tables.engine("MergeTree"),
        bits = rules.epoch_bits.get(),
        deduplication = deduplication(),
    )
}

fn dead_letters(rules: &Rules, tables: &Tables) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS {table}{on_cluster} (
    partition UInt32 CODEC(ZSTD(1)),
    offset UInt64 CODEC(Delta, ZSTD(1)),
    record_timestamp DateTime64(3, 'UTC') CODEC(Delta, ZSTD(1)),
    reason LowCardinality(String),
    payload String CODEC(ZSTD(1))
) {engine} ORDER BY (partition, offset)
SETTINGS {deduplication}",
        table = dead_letters_table(rules),
        on_cluster = tables.on_cluster(),
        engine = tables.engine("MergeTree"),
        deduplication = deduplication(),
    )
}

fn ledger(tables: &Tables) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS ledger{on_cluster} (
    generation UInt32,
    partition UInt32,
    epoch UInt64,
    entry Enum8('closed' = 1, 'repair' = 2, 'begun' = 3),
    events UInt64,
    duplicates UInt64,
    dead_letters UInt64,
    holes UInt64,
    fold UInt64,
    deadline DateTime64(3, 'UTC'),
    at DateTime64(3, 'UTC')
) {engine} ORDER BY (generation, partition, epoch, at)",
        on_cluster = tables.on_cluster(),
        engine = tables.engine("MergeTree"),
    )
}

/// Beside the ledger, not in it: programs of before write the ledger's rows without naming their columns.
fn audits(tables: &Tables) -> String {
    format!(
        "CREATE TABLE IF NOT EXISTS audits{on_cluster} (
    generation UInt32,
    partition UInt32,
    epoch UInt64,
    entry Enum8('closed' = 1, 'checked' = 2, 'raw_damaged' = 3, 'ledger_damaged' = 4, 'rollups_damaged' = 5, 'repaired' = 6, 'loss_accepted' = 7),
    content UInt64,
    first_window DateTime('UTC'),
    last_window DateTime('UTC'),
    what String,
    at DateTime64(3, 'UTC')
) {engine} ORDER BY (generation, entry, partition, epoch, at)",
        on_cluster = tables.on_cluster(),
        engine = tables.engine("MergeTree"),
    )
}

fn column_type(dimension: Dimension) -> &'static str {
    match dimension {
        Dimension::EventType => "LowCardinality(String)",
        Dimension::ProductId | Dimension::UserId => "String",
    }
}

/// Windows come first in the order: nearly every question has a range of time, and reads no other windows. Epochs follow
/// time, so that with the index an epoch's cells are found without reading the whole table. Columns of small numbers
/// are packed, and a fold is as good as random: heavier compression would cost time and save nothing.
fn rollup(rules: &Rules, id: ViewId, level: Level, tables: &Tables) -> String {
    let view = rules.views.get(id);
    let columns: String = view.dimensions().iter().map(|&d| format!("    {d} {},\n", column_type(d))).collect();
    format!(
        "CREATE TABLE IF NOT EXISTS {table}{on_cluster} (
{columns}    window DateTime('UTC') CODEC(T64, LZ4),
    partition UInt32 CODEC(T64, LZ4),
    epoch UInt64 CODEC(T64, LZ4),
    count SimpleAggregateFunction(sum, UInt64) CODEC(T64, LZ4),
    amount_count SimpleAggregateFunction(sum, UInt64) CODEC(T64, LZ4),
    amount_sum SimpleAggregateFunction(sum, Decimal(38, 4)) CODEC(ZSTD(1)),
    amount_min SimpleAggregateFunction(min, Nullable(Decimal(18, 4))) CODEC(ZSTD(1)),
    amount_max SimpleAggregateFunction(max, Nullable(Decimal(18, 4))) CODEC(ZSTD(1)),
    fold SimpleAggregateFunction(sum, UInt64) CODEC(LZ4),
    INDEX by_epoch (epoch) TYPE minmax GRANULARITY 1
) {engine} PARTITION BY toYYYYMM(window) ORDER BY (window, {key}, partition, epoch)
SETTINGS {deduplication}",
        table = rollup_table(rules, id, level),
        on_cluster = tables.on_cluster(),
        engine = tables.engine("AggregatingMergeTree"),
        key = names(view).join(", "),
        deduplication = deduplication(),
    )
}

/// The first of a view's fillers takes raw events, each other the roll-up before. That of an added view leaves to [`fill`] what
/// has been written before.
fn filler(rules: &Rules, view: ViewId, level: Level, tables: &Tables) -> String {
    let table = rollup_table(rules, view, level);
    let place = match &rules.widens {
        Some(widened) if level.finer().is_none() => format!(" WHERE NOT ({})", sql::below_cut(&widened.since, "f.")),
        _ => String::new(),
    };
    let rows = rolled_up(rules, view, level, &place);
    format!("CREATE MATERIALIZED VIEW IF NOT EXISTS {table}_filler{on_cluster} TO {table} AS {rows}", on_cluster = tables.on_cluster())
}

/// The roll-up of raw events at a `place`, by an INSERT: coarser levels follow by their fillers. In an order that is always
/// the same, without which the engine does not heed a token.
pub fn fill(rules: &Rules, view: ViewId, place: &str) -> String {
    let level = Level::FiveMinutes;
    format!("INSERT INTO {} {} ORDER BY ALL", rollup_table(rules, view, level), rolled_up(rules, view, level, &format!(" WHERE {place}")))
}

/// The columns of a roll-up, from what it is filled from. In chained views every source column is qualified: an alias that
/// shadows a column groups wrongly.
fn rolled_up(rules: &Rules, id: ViewId, level: Level, place: &str) -> String {
    let view = rules.views.get(id);
    let dimensions: String = names(view).iter().map(|d| format!("f.{d} AS {d}, ")).collect();
    let (source, window, epoch, measures) = match level.finer() {
        None => (
            events_table(rules),
            format!("toDateTime(intDiv(toUnixTimestamp64Milli(f.timestamp), {ms}) * {s}, 'UTC')", ms = level.ms(), s = level.ms() / 1000),
            format!("bitShiftRight(f.offset, {})", rules.epoch_bits.get()),
            "count() AS count, count(f.order_amount) AS amount_count, sum(ifNull(f.order_amount, toDecimal64(0, 4))) AS amount_sum, \
             min(f.order_amount) AS amount_min, max(f.order_amount) AS amount_max, sum(intHash64(f.offset)) AS fold",
        ),
        Some(finer) => (
            rollup_table(rules, id, finer),
            format!("toDateTime(intDiv(toUnixTimestamp(f.window), {s}) * {s}, 'UTC')", s = level.ms() / 1000),
            "f.epoch".to_owned(),
            "sum(f.count) AS count, sum(f.amount_count) AS amount_count, sum(f.amount_sum) AS amount_sum, \
             min(f.amount_min) AS amount_min, max(f.amount_max) AS amount_max, sum(f.fold) AS fold",
        ),
    };
    let group: String = names(view).iter().map(|d| format!("f.{d}, ")).collect();
    format!(
        "SELECT {dimensions}{window} AS window, f.partition AS partition, {epoch} AS epoch, {measures} FROM {source} AS f{place} \
         GROUP BY {group}{window}, f.partition, {epoch}"
    )
}

/// `SELECT * FROM by_type_1h`: for people who query ClickHouse directly. Includes epochs that are still open.
fn merged(rules: &Rules, id: ViewId, level: Level, tables: &Tables) -> String {
    let view = rules.views.get(id);
    let dimensions = names(view).join(", ");
    format!(
        "CREATE OR REPLACE VIEW {name}_{suffix}{on_cluster} AS SELECT {dimensions}, window, sum(count) AS events, sum(amount_count) AS amounts, \
         sum(amount_sum) AS total, min(amount_min) AS smallest, max(amount_max) AS largest FROM {table} GROUP BY {dimensions}, window",
        name = view.name(),
        on_cluster = tables.on_cluster(),
        suffix = level.suffix(),
        table = rollup_table(rules, id, level),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_core::epoch::EpochBits;
    use tidemark_core::event::Limits;
    use tidemark_core::view::Views;

    fn statements(tables: &Tables) -> Vec<String> {
        let views = Views::declare([("by_type", vec!["event_type"])]).expect("valid");
        let epoch_bits = EpochBits::new(18).expect("valid");
        let rules = Rules { generation: Generation(1), widens: None, epoch_bits, views, limits: Limits::default(), dedup: true };
        let migrations = migrations(&rules, tables).into_iter().flat_map(|(_, statements)| statements);
        migrations.chain(shared(tables)).chain(for_people(&rules, tables)).collect()
    }

    /// Both shapes come from the same declarations: what differs is where tables are made, and their engines.
    #[test]
    fn replicated_tables_are_the_same_ones_made_on_a_cluster() {
        let path = "/clickhouse/tables/{shard}/{database}/{table}".to_owned();
        let replicated = statements(&Tables::Replicated { cluster: Some("main".into()), path });
        let same = |text: &str| {
            text.replace(" ON CLUSTER 'main'", "")
                .replace("Replicated", "")
                .replace("('/clickhouse/tables/{shard}/{database}/{table}', '{replica}')", "")
        };
        assert_eq!(replicated.iter().map(|text| same(text)).collect::<Vec<_>>(), statements(&Tables::Own));
        assert!(replicated.iter().all(|text| text.contains(" ON CLUSTER 'main'")), "{replicated:?}");
        let engines = replicated.iter().filter(|text| text.contains("ENGINE = Replicated")).count();
        assert_eq!(
            engines,
            9 + 3,
            "events and dead letters, staged too, ledger, audits, generations, their states and inputs, and a view's roll-ups"
        );
    }
}
