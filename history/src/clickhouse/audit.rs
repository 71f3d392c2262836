//! Audits: what closed epochs hold now, what has been noted about them, and what has been found.

use super::{ClickHouse, RawTables};
use crate::audit::{Change, Damage, Entry, EpochSums, Finding, HEARD_FOR_MS, Part, RollupSums, Sums};
use crate::sql::{CELL, CELL_OF_RAW, CELL_SAYS};
use crate::{Error, schema, sql};
use clickhouse::Row;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;
use tidemark_core::cell::Tally;
use tidemark_core::epoch::{Epoch, EpochBits};
use tidemark_core::generation::Rules;
use tidemark_core::offset::{OffsetRange, Partition};
use tidemark_core::view::ViewId;
use tidemark_core::window::{Level, TimeRange};

/// What was last heard of damage, and when.
pub(super) type Heard = parking_lot::Mutex<Option<(Instant, Arc<Damage>)>>;

#[derive(Row, Deserialize)]
struct ClosedRow {
    epoch: u64,
    events: u64,
    duplicates: u64,
    dead_letters: u64,
    holes: u64,
    fold: u64,
}

#[derive(Row, Deserialize)]
struct NotedRow {
    epoch: u64,
    content: u64,
}

#[derive(Row, Deserialize)]
struct RawRow {
    epoch: u64,
    events: u64,
    fold: u64,
    dead_letters: u64,
    hash: u64,
}

#[derive(Row, Deserialize)]
struct RollupRow {
    level: u32,
    epoch: u64,
    held: u8,
    events: u64,
    fold: u64,
    hash: u64,
}

#[derive(Row, Deserialize)]
struct ChangeRow {
    partition: u32,
    epoch: u64,
    entry: String,
    what: String,
    at: i64,
    covers: u64,
}

#[derive(Row, Deserialize)]
struct WindowsRow {
    partition: u32,
    epoch: u64,
    from_ms: i64,
    to_ms: i64,
}

#[derive(Row, Deserialize)]
struct HashRow {
    hash: u64,
}

#[derive(Row, Deserialize)]
struct EpochRow {
    epoch: u64,
}

/// How `audits` names what it says about an epoch: what it held when it was closed, up to where its partition has been checked, and
/// changes.
const CLOSED: &str = "closed";
const CHECKED: &str = "checked";
const DAMAGED: [(&str, Part); 3] = [("raw_damaged", Part::Raw), ("ledger_damaged", Part::Ledger), ("rollups_damaged", Part::Rollups)];
const REPAIRED: &str = "repaired";
const LOSS_ACCEPTED: &str = "loss_accepted";

/// Raw rows at a place: one SELECT of their offsets, kinds, times and hashes of all that they say.
fn raw_hashes(tables: &RawTables, place: &str) -> String {
    let RawTables { events, dead_letters } = tables;
    format!(
        "SELECT offset, 1 AS is_event, timestamp, cityHash64({event}) AS h FROM {events} WHERE {place} \
         UNION ALL SELECT offset, 0, record_timestamp, cityHash64({dead}) FROM {dead_letters} WHERE {place}",
        event = sql::EVENT_SAYS,
        dead = sql::DEAD_LETTER_SAYS,
    )
}

/// A view's cells of some epochs, in one row for each level and epoch: as its tables have them (`held`), and as raw rows have them.
fn rollup_sums(rules: &Rules, view: ViewId, partition: Partition, epochs: &Range<Epoch>) -> String {
    let dimensions: Vec<&str> = rules.views.get(view).dimensions().iter().map(|d| d.name()).collect();
    let dims: String = dimensions.iter().map(|d| format!(", toString({d}) AS d_{d}")).collect();
    let names: String = dimensions.iter().map(|d| format!(", d_{d}")).collect();
    let hash = format!("sum(cityHash64(w{names}, {CELL_SAYS})) AS hash");
    let summed = |level: &str, held: u8, cells: &str| {
        format!(
            "SELECT {level} AS level, e AS epoch, {held} AS held, sum(c) AS events, sum(f) AS fold, {hash} FROM ({cells}) GROUP BY level, e"
        )
    };
    let Range { start, end } = epochs;
    let held = Level::ALL.map(|level| {
        let cells = format!(
            "SELECT epoch AS e, toUInt32(window) AS w{dims}, {CELL} FROM {table} \
             WHERE partition = {partition} AND epoch >= {start} AND epoch < {end} GROUP BY e, w{names}",
            table = schema::rollup_table(rules, view, level),
        );
        summed(&format!("toUInt32({})", level.ms() / 1000), 1, &cells)
    });
    // Raw rows are grouped once, and what that gives by each level.
    let finest = format!(
        "SELECT bitShiftRight(offset, {bits}) AS e, toUInt32(intDiv(toUnixTimestamp64Milli(timestamp), {ms}) * {s}) AS w5{dims}, {CELL_OF_RAW} \
         FROM {events} WHERE {place} GROUP BY e, w5{names}",
        bits = rules.epoch_bits.get(),
        ms = Level::FiveMinutes.ms(),
        s = Level::FiveMinutes.ms() / 1000,
        events = schema::events_table(rules),
        place = in_epochs(rules.epoch_bits, partition, epochs),
    );
    let levels = Level::ALL.map(|level| format!("toUInt32({})", level.ms() / 1000)).join(", ");
    let by_level = format!(
        "SELECT level, e, intDiv(w5, level) * level AS w{names}, sum(c) AS c, sum(ac) AS ac, sum(s) AS s, min(lo) AS lo, max(hi) AS hi, sum(f) AS f \
         FROM (SELECT e, w5{names}, c, ac, s, lo, hi, f, arrayJoin([{levels}]) AS level FROM ({finest})) GROUP BY level, e, w{names}"
    );
    held.into_iter().chain([summed("level", 0, &by_level)]).collect::<Vec<_>>().join(" UNION ALL ")
}

fn in_epochs(bits: EpochBits, partition: Partition, epochs: &Range<Epoch>) -> String {
    sql::in_range(partition, bits.start_of(epochs.start).get(), bits.start_of(epochs.end).get())
}

impl ClickHouse {
    /// What is known of damage, asked for if it was last heard too long ago.
    pub(super) async fn known_damage(&self) -> Result<Arc<Damage>, Error> {
        let heard = self
            .heard
            .lock()
            .as_ref()
            .filter(|(at, _)| at.elapsed().as_millis() < u128::from(HEARD_FOR_MS.unsigned_abs()))
            .map(|(_, damage)| Arc::clone(damage));
        match heard {
            Some(damage) => Ok(damage),
            None => self.look_for_damage().await,
        }
    }

    /// Asks what audits have found. Called every second, so that no answer has to.
    pub async fn look_for_damage(&self) -> Result<Arc<Damage>, Error> {
        let (at, raw) = (Instant::now(), self.rules.raw());
        let rows: Vec<ChangeRow> = self
            .select(
                &["audits".to_owned()],
                &format!(
                    "SELECT partition, epoch, toString(audits.entry) AS entry, what, toUnixTimestamp64Milli(audits.at) AS at, content AS covers FROM audits \
                     WHERE generation = {raw} AND audits.entry NOT IN ('{CLOSED}', '{CHECKED}') ORDER BY audits.at, partition, epoch, entry"
                ),
            )
            .await?;
        let mut windows = BTreeMap::new();
        let damaged = |entry: &str| DAMAGED.into_iter().find(|(name, _)| *name == entry);
        if rows.iter().any(|row| damaged(&row.entry).is_some()) {
            let places: BTreeSet<String> = rows.iter().map(|row| format!("({}, {})", row.partition, row.epoch)).collect();
            let places = places.into_iter().collect::<Vec<_>>().join(", ");
            let query = format!(
                "SELECT partition, epoch, toInt64(toUnixTimestamp(min(first_window))) * 1000 AS from_ms, \
                 (toInt64(toUnixTimestamp(max(last_window))) + {s}) * 1000 AS to_ms FROM audits \
                 WHERE generation = {raw} AND entry = '{CLOSED}' AND (partition, epoch) IN ({places}) GROUP BY partition, epoch",
                s = Level::FiveMinutes.ms() / 1000,
            );
            for row in self.select::<WindowsRow>(&["audits".to_owned()], &query).await? {
                let range = TimeRange { from_ms: Some(row.from_ms), to_ms: Some(row.to_ms) };
                windows.insert((Partition(row.partition), Epoch(row.epoch)), range);
            }
        }
        let change = |row: ChangeRow| {
            let entry = match damaged(&row.entry) {
                Some((_, part)) => Entry::Damaged(Finding { part, what: row.what }),
                None if row.entry == REPAIRED => Entry::Repaired(row.what),
                None => Entry::LossAccepted(row.what),
            };
            Change {
                partition: Partition(row.partition),
                epoch: Epoch(row.epoch),
                entry,
                at_ms: row.at,
                covers_ms: i64::try_from(row.covers).unwrap_or(i64::MAX),
            }
        };
        let changes = rows.into_iter().map(change).collect();
        let damage = Arc::new(Damage::new(changes, |partition, epoch| windows.get(&(partition, epoch)).copied().unwrap_or_default()));
        *self.heard.lock() = Some((at, Arc::clone(&damage)));
        Ok(damage)
    }

    pub(super) async fn insert_change(&self, change: &Change, until_ms: Option<i64>) -> Result<(), Error> {
        let entry = match &change.entry {
            Entry::Damaged(finding) => DAMAGED.into_iter().find(|(_, part)| *part == finding.part).map_or(CLOSED, |(name, _)| name),
            Entry::Repaired(_) => REPAIRED,
            Entry::LossAccepted(_) => LOSS_ACCEPTED,
        };
        let (raw, what) = (self.rules.raw(), sql::literal(change.entry.what()));
        let Change { partition, epoch, at_ms, covers_ms, .. } = change;
        // Repairs use the column of notes for it.
        let covers = u64::try_from(*covers_ms).unwrap_or_default();
        self.execute(&format!(
            "INSERT INTO audits (generation, partition, epoch, entry, content, what, at) \
             SELECT {raw}, {partition}, {epoch}, '{entry}', {covers}, {what}, fromUnixTimestamp64Milli(toInt64({at_ms}), 'UTC'){in_time}",
            in_time = sql::in_time(until_ms),
        ))
        .await?;
        self.look_for_damage().await.map(drop)
    }

    pub(super) async fn insert_checked(&self, partition: Partition, up_to: Epoch) -> Result<(), Error> {
        let generation = self.rules.generation;
        self.execute(&format!(
            "INSERT INTO audits (generation, partition, epoch, entry, at) SELECT {generation}, {partition}, {up_to}, '{CHECKED}', now64(3)"
        ))
        .await
    }

    pub(super) async fn select_checked(&self, partition: Partition) -> Result<Option<Epoch>, Error> {
        let generation = self.rules.generation;
        let query = format!(
            "SELECT epoch FROM audits WHERE generation = {generation} AND entry = '{CHECKED}' AND partition = {partition} ORDER BY at DESC LIMIT 1"
        );
        let rows: Vec<EpochRow> = self.select(&["audits".to_owned()], &query).await?;
        Ok(rows.first().map(|row| Epoch(row.epoch)))
    }

    /// The engine takes the hash itself, from the rows that were compared.
    pub(super) async fn insert_noted(&self, partition: Partition, epoch: Epoch, is_closed: bool) -> Result<(), Error> {
        let place = sql::in_epoch(self.rules.epoch_bits, partition, epoch);
        let (raw, tables) = (self.rules.raw(), self.raw_tables());
        let window = |edge: &str| {
            format!(
                "toDateTime(intDiv(toUnixTimestamp({edge}If(timestamp, is_event)), {s}) * {s}, 'UTC')",
                s = Level::FiveMinutes.ms() / 1000
            )
        };
        let family = sql::family(&self.rules);
        let condition = if is_closed {
            String::new()
        } else {
            format!(
                " HAVING (SELECT count() FROM ledger WHERE {family} AND entry = 'closed' AND partition = {partition} AND epoch = {epoch}) = 0"
            )
        };
        let statement = |in_time: &str| {
            format!(
                "INSERT INTO audits (generation, partition, epoch, entry, content, first_window, last_window, at) \
                 SELECT {raw}, {partition}, {epoch}, '{CLOSED}', sum(h), {first}, {last}, now64(3) FROM ({rows}){condition}",
                first = window("min"),
                last = window("max"),
                rows = raw_hashes(&tables, &format!("{place} AND {in_time}")),
            )
        };
        // The table remembers no tokens: of two rows about an epoch the later one counts.
        self.insert_from(statement, &tables.events, "noted").await
    }

    pub(super) async fn select_content(&self, tables: &RawTables, partition: Partition, range: OffsetRange) -> Result<u64, Error> {
        let place = sql::in_range(partition, range.from().get(), range.to().get());
        let names = [tables.events.clone(), tables.dead_letters.clone()];
        let rows: Vec<HashRow> = self.select(&names, &format!("SELECT sum(h) AS hash FROM ({})", raw_hashes(tables, &place))).await?;
        Ok(rows.first().map(|row| row.hash).unwrap_or_default())
    }

    /// What closed epochs of a partition hold now. Behind everything else that the engine is asked.
    pub(super) async fn select_sums(&self, partition: Partition, epochs: Range<Epoch>) -> Result<Vec<EpochSums>, Error> {
        let (rules, tables) = (&self.rules, self.raw_tables());
        let Range { start, end } = &epochs;
        let place = format!("partition = {partition} AND epoch >= {start} AND epoch < {end}");
        let closed: Vec<ClosedRow> = self
            .select_from_ledger(&format!(
                "SELECT epoch, {latest}, argMax(ledger.fold, at) AS fold FROM ledger WHERE {own} AND entry = 'closed' AND {place} GROUP BY epoch",
                latest = ["events", "duplicates", "dead_letters", "holes"].map(|name| format!("argMax(ledger.{name}, at) AS {name}")).join(", "),
                own = sql::own(rules),
            ))
            .await?;
        let noted: Vec<NotedRow> = self
            .select(
                &["audits".to_owned()],
                &format!(
                    "SELECT epoch, argMax(audits.content, at) AS content FROM audits WHERE generation = {} AND entry = '{CLOSED}' AND {place} GROUP BY epoch",
                    rules.raw()
                ),
            )
            .await?;
        let raw: Vec<RawRow> = self
            .select(
                &[tables.events.clone(), tables.dead_letters.clone()],
                &format!(
                    "SELECT bitShiftRight(offset, {bits}) AS epoch, countIf(is_event) AS events, sumIf(intHash64(offset), is_event) AS fold, \
                     countIf(NOT is_event) AS dead_letters, sum(h) AS hash FROM ({rows}) GROUP BY epoch",
                    bits = rules.epoch_bits.get(),
                    rows = raw_hashes(&tables, &in_epochs(rules.epoch_bits, partition, &epochs)),
                ),
            )
            .await?;
        let mut found: BTreeMap<u64, EpochSums> = BTreeMap::new();
        for epoch in start.0..end.0 {
            let (raw, rollups) = (Sums::default(), Vec::new());
            found.insert(epoch, EpochSums { epoch: Epoch(epoch), closed: None, noted: None, raw, dead_letters: 0, rollups });
        }
        for row in closed {
            let tally = Tally { events: row.events, duplicates: row.duplicates, dead_letters: row.dead_letters, holes: row.holes };
            found.entry(row.epoch).and_modify(|of| of.closed = Some((tally, row.fold)));
        }
        for row in noted {
            found.entry(row.epoch).and_modify(|of| of.noted = Some(row.content));
        }
        for row in raw {
            let sums = Sums { events: row.events, fold: row.fold, hash: row.hash };
            found.entry(row.epoch).and_modify(|of| (of.raw, of.dead_letters) = (sums, row.dead_letters));
        }
        for view in rules.views.ids() {
            let names: Vec<String> = schema::rollup_tables(rules, std::iter::once(view)).chain([tables.events.clone()]).collect();
            let rows: Vec<RollupRow> = self.select(&names, &rollup_sums(rules, view, partition, &epochs)).await?;
            let mut sums: BTreeMap<(u64, u32, bool), Sums> = BTreeMap::new();
            for RollupRow { level, epoch, held, events, fold, hash } in rows {
                sums.insert((epoch, level, held == 1), Sums { events, fold, hash });
            }
            for (epoch, of) in &mut found {
                for level in Level::ALL {
                    let seconds = u32::try_from(level.ms() / 1000).unwrap_or_default();
                    let side = |held| sums.get(&(*epoch, seconds, held)).copied().unwrap_or_default();
                    of.rollups.push(RollupSums { view, level, held: side(true), counted: side(false) });
                }
            }
        }
        Ok(found.into_values().collect())
    }
}
