//! What a number is made of, asked of raw rows. One that is there twice counts once.

use super::{ClickHouse, EventRow, event_of};
use crate::answers::cell_of;
use crate::evidence::{Counted, Origin, Page, Placed, Places, Uncounted};
use crate::sql::CELL_OF_RAW;
use crate::{Error, sql};
use clickhouse::Row;
use serde::Deserialize;
use std::fmt::Write as _;
use tidemark_core::cut::Cut;
use tidemark_core::epoch::Epoch;
use tidemark_core::offset::{Offset, OffsetRange, Partition};
use tidemark_core::window::TimeRange;

/// After an instant, so long an event is looked for before it is looked for in all of history.
const SOON_MS: i64 = 7 * 24 * 60 * 60 * 1000;

#[derive(Row, Deserialize)]
struct OriginRow {
    partition: u32,
    epoch: u64,
    first: u64,
    last: u64,
    behind: u64,
    c: u64,
    ac: u64,
    s: i128,
    lo: Option<i64>,
    hi: Option<i64>,
    f: u64,
}

#[derive(Row, Deserialize)]
struct PlaceRow {
    partition: u32,
    first: u64,
}

#[derive(Row, Deserialize)]
struct UncountedRow {
    partition: u32,
    why: String,
    n: u64,
}

impl ClickHouse {
    pub(super) async fn select_origins(
        &self,
        Counted { question, cut }: Counted<'_>,
        places: &Places,
        limit: u32,
    ) -> Result<Vec<Origin>, Error> {
        self.known_damage().await?.must_be_sound(question.range, |of| of.begins_below(self.rules.epoch_bits, cut))?;
        let events = self.events();
        let last = cut.iter().last().map_or(0, |(p, _)| p.0);
        let places: Vec<String> = (0..=last).map(|p| places.get(&Partition(p)).map_or(u64::MAX, |at| at.get()).to_string()).collect();
        let query = format!(
            "SELECT partition, bitShiftRight(offset, {bits}) AS epoch, min(offset) AS first, max(offset) AS last, \
                 countIf(offset > CAST([{places}], 'Array(UInt64)')[partition + 1]) AS behind, \
                 {CELL_OF_RAW} FROM (SELECT partition, offset, order_amount FROM {events} WHERE {place}{matching} LIMIT 1 BY partition, offset) \
                 GROUP BY partition, epoch ORDER BY partition, epoch LIMIT {limit}",
            bits = self.rules.epoch_bits.get(),
            places = places.join(", "),
            place = sql::within_cut(question.range, cut),
            matching = sql::matching(question),
        );
        let rows: Vec<OriginRow> = self.select(std::slice::from_ref(&events), &query).await?;
        let origin = |row: OriginRow| Origin {
            partition: Partition(row.partition),
            epoch: Epoch(row.epoch),
            first: Offset::new(row.first),
            last: Offset::new(row.last),
            cell: cell_of(row.c, row.ac, row.s, row.lo, row.hi, row.f),
            behind: row.behind,
        };
        Ok(rows.into_iter().map(origin).collect())
    }

    pub(super) async fn select_reached(&self, at_ms: i64, cut: &Cut) -> Result<Places, Error> {
        let events = self.events();
        let partitions = cut.iter().filter(|(_, position)| position.get() > 0).count();
        let mut places = Places::new();
        for to_ms in [Some(at_ms.saturating_add(SOON_MS)), None] {
            let range = TimeRange { from_ms: Some(at_ms), to_ms };
            let place = sql::within_cut(range, cut);
            let query = format!("SELECT partition, min(offset) AS first FROM {events} WHERE {place} GROUP BY partition");
            let rows: Vec<PlaceRow> = self.select(std::slice::from_ref(&events), &query).await?;
            places = rows.into_iter().map(|row| (Partition(row.partition), Offset::new(row.first))).collect();
            if places.len() == partitions {
                break;
            }
        }
        Ok(places)
    }

    pub(super) async fn select_events(&self, Counted { question, cut }: Counted<'_>, page: Page) -> Result<Vec<Placed>, Error> {
        let events = self.events();
        let mut place = sql::within_cut(question.range, cut);
        if let Some((partition, offset)) = page.after {
            let _ = write!(place, " AND (partition, offset) > ({partition}, {offset})");
        }
        let query = format!(
            "SELECT {columns} FROM {events} WHERE {place}{matching} ORDER BY partition, offset LIMIT 1 BY partition, offset LIMIT {limit}",
            columns = EventRow::COLUMNS,
            matching = sql::matching(question),
            limit = page.limit,
        );
        let rows: Vec<EventRow> = self.select(std::slice::from_ref(&events), &query).await?;
        Ok(rows.into_iter().map(|row| (Partition(row.partition), Offset::new(row.offset), event_of(row))).collect())
    }

    pub(super) async fn select_uncounted(&self, ranges: &[(Partition, OffsetRange)]) -> Result<Vec<Uncounted>, Error> {
        if ranges.is_empty() {
            return Ok(Vec::new());
        }
        let table = self.dead_letters_table();
        let place = |(partition, range): &(Partition, OffsetRange)| {
            format!("({})", sql::in_range(*partition, range.from().get(), range.to().get()))
        };
        let query = format!(
            "SELECT partition, toString(reason) AS why, uniqExact(offset) AS n FROM {table} WHERE {places} GROUP BY partition, why ORDER BY partition, why",
            places = ranges.iter().map(place).collect::<Vec<_>>().join(" OR "),
        );
        let rows: Vec<UncountedRow> = self.select(std::slice::from_ref(&table), &query).await?;
        let uncounted = |row: UncountedRow| Uncounted { partition: Partition(row.partition), reason: row.why, records: row.n };
        Ok(rows.into_iter().map(uncounted).collect())
    }
}
