//! The text of the history's queries. Pure: a question in, SQL out. Values that came from outside are always escaped by
//! [`literal`]; names are the schema's own.

use crate::audit::Damaged;
use crate::ledger::CLOCK_AHEAD_MS;
use crate::raw::Epochs;
use crate::schema::{dead_letters_table, events_table, rollup_table, rollup_tables};
use crate::{EpochCells, Marks, Wiped};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use tidemark_core::cut::Cut;
use tidemark_core::epoch::{Epoch, EpochBits, Mark};
use tidemark_core::generation::{Generation, Rules};
use tidemark_core::offset::Partition;
use tidemark_core::question::{Groups, Question};
use tidemark_core::view::{Dimension, ViewId};
use tidemark_core::window::{Level, Step, TimeRange};

const COUNT: &str = "sum(count) AS c";
pub const CELL: &str =
    "sum(count) AS c, sum(amount_count) AS ac, sum(amount_sum) AS s, min(amount_min) AS lo, max(amount_max) AS hi, sum(fold) AS f";

/// The same of raw rows.
pub const CELL_OF_RAW: &str = "count() AS c, count(order_amount) AS ac, sum(ifNull(order_amount, toDecimal64(0, 4))) AS s, \
     min(order_amount) AS lo, max(order_amount) AS hi, sum(intHash64(offset)) AS f";
/// All that such a cell says but its place, as arguments of a hash.
pub const CELL_SAYS: &str = "c, ac, s, isNull(lo), ifNull(lo, toDecimal64(0, 4)), isNull(hi), ifNull(hi, toDecimal64(0, 4)), f";

/// All that a raw row says, as arguments of a hash. Hashes are kept: another text would make every epoch look damaged.
pub const EVENT_SAYS: &str = "offset, event_id, toString(event_type), timestamp, product_id, user_id, isNull(order_amount), \
     ifNull(order_amount, toDecimal64(0, 4)), toString(properties)";
pub const DEAD_LETTER_SAYS: &str = "offset, toString(reason), payload";

/// A string literal that ClickHouse reads back as `text`, whatever it contains.
pub fn literal(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    out.push('\'');
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\\\"),
            '\'' => out.push_str("\\'"),
            // The client takes a question mark for a placeholder, even inside a literal.
            '?' => out.push_str("\\x3F"),
            '\0' => out.push_str("\\0"),
            c => out.push(c),
        }
    }
    out.push('\'');
    out
}

/// `epoch < [m0, m1, …][partition + 1]`: below the mark of its partition. A partition without a mark has nothing closed.
fn below(marks: &Marks) -> String {
    let last = marks.keys().next_back().map_or(0, |p| p.0);
    let closed = |p: u32| marks.get(&Partition(p)).map_or(0, |mark| mark.oldest_open().0);
    let list: Vec<String> = (0..=last).map(|p| closed(p).to_string()).collect();
    format!("epoch < [{}][partition + 1]", list.join(", "))
}

/// `generation = …`: this one alone.
pub fn own(rules: &Rules) -> String {
    format!("generation = {}", rules.generation)
}

/// `generation IN …`: the generations that share these raw events, whichever there are when it is asked.
pub fn family(rules: &Rules) -> String {
    let raw = rules.raw();
    format!("generation IN (SELECT {raw} UNION ALL SELECT generation FROM generations WHERE position(rules, ' raw={raw} ') > 0)")
}

/// Between two marks of each partition, but for some epochs.
fn between(known: &Marks, marks: &Marks, except: &[&Damaged]) -> String {
    format!("NOT ({}) AND {}{}", below(known), below(marks), but_for(except))
}

/// ` AND …`: not of these epochs.
fn but_for(except: &[&Damaged]) -> String {
    let places: Vec<String> = except.iter().map(|of| format!("({}, {})", of.partition, of.epoch)).collect();
    if places.is_empty() { String::new() } else { format!(" AND (partition, epoch) NOT IN ({})", places.join(", ")) }
}

/// Where counting began, of each partition where that was not the first epoch.
pub fn begun(generation: Generation) -> String {
    format!("SELECT partition, min(epoch) AS mark FROM ledger WHERE generation = {generation} AND entry = 'begun' GROUP BY partition")
}

/// Closed epochs as the ledger has them, in one row: how many, their events and their fold. Of two rows about an epoch the later one counts.
pub fn closed_between(generation: Generation, known: &Marks, marks: &Marks, except: &[&Damaged]) -> String {
    format!(
        "SELECT count() AS epochs, sum(e) AS n, sum(f) AS fold FROM (SELECT argMax(events, at) AS e, argMax(fold, at) AS f FROM ledger \
         WHERE generation = {generation} AND entry = 'closed' AND {between} GROUP BY partition, epoch)",
        between = between(known, marks, except)
    )
}

/// What became of the records of closed epochs, as the ledger has it: in a row for each partition. Of two rows about an epoch the later one counts.
pub fn tallies_between(generation: Generation, known: &Marks, marks: &Marks) -> String {
    format!(
        "SELECT partition, sum(e) AS events, sum(d) AS duplicates, sum(l) AS dead_letters, sum(h) AS holes FROM \
         (SELECT partition, argMax(events, at) AS e, argMax(duplicates, at) AS d, argMax(dead_letters, at) AS l, argMax(holes, at) AS h FROM ledger \
         WHERE generation = {generation} AND entry = 'closed' AND {between} GROUP BY partition, epoch) GROUP BY partition",
        between = between(known, marks, &[])
    )
}

/// The same as the roll-ups have them: in a row for each view and level.
pub fn held_between(rules: &Rules, known: &Marks, marks: &Marks, except: &[&Damaged]) -> String {
    let sums = rollup_tables(rules, rules.views.ids())
        .map(|table| format!("SELECT sum(count) AS n, sum(fold) AS fold FROM {table} WHERE {}", between(known, marks, except)));
    sums.collect::<Vec<_>>().join(" UNION ALL ")
}

fn within(range: TimeRange) -> String {
    let mut text = String::new();
    // Windows are seconds in ClickHouse and never before 1970: the rules refuse earlier events.
    if let Some(from) = range.from_ms {
        let _ = write!(text, " AND window >= {}", from.max(0) / 1000);
    }
    if let Some(to) = range.to_ms {
        let _ = write!(text, " AND window < {}", to.max(0) / 1000);
    }
    text
}

pub fn matching(question: &Question) -> String {
    let mut text = String::new();
    for (dimension, values) in &question.filters {
        let values: Vec<String> = values.iter().map(|v| literal(v)).collect();
        let _ = write!(text, " AND {dimension} IN ({})", values.join(", "));
    }
    text
}

fn array_of(dimensions: &[Dimension]) -> String {
    if dimensions.is_empty() {
        return "emptyArrayString()".to_owned();
    }
    let names: Vec<String> = dimensions.iter().map(|d| format!("toString({d})")).collect();
    format!("[{}]", names.join(", "))
}

/// By columns, not by the array that the rows carry: the engine is made for columns.
fn group(dimensions: &[Dimension]) -> String {
    dimensions.iter().map(|dimension| format!(", {dimension}")).collect()
}

/// The bucket of `window`, in seconds, where windows are of `level`; `starts` are the calendar buckets, in order.
fn bucket(question: &Question, level: Level, starts: &[i64]) -> String {
    match question.buckets.even() {
        Some((width, _)) if width == level.ms() => "toInt64(window)".to_owned(),
        Some((width, origin)) => {
            let (width, origin) = (width / 1000, origin / 1000);
            format!("toInt64(window) - positiveModulo(toInt64(window) - ({origin}), {width})")
        }
        None if question.buckets.is_calendar() => {
            let list: Vec<String> = starts.iter().map(|ms| (ms / 1000).to_string()).collect();
            format!("toInt64(roundDown(toInt64(window), CAST([{}], 'Array(Int64)')))", list.join(", "))
        }
        None => "toInt64(0)".to_owned(),
    }
}

/// `table WHERE …`: the closed cells of one piece of the question's range.
fn closed_cells(rules: &Rules, view: ViewId, question: &Question, level: Level, piece: TimeRange, closed: &Closed<'_>) -> String {
    let table = rollup_table(rules, view, level);
    format!("{table} WHERE {}{}{}{}", below(closed.marks), but_for(&closed.except), within(piece), matching(question))
}

/// Epochs that roll-ups answer for.
pub struct Closed<'a> {
    pub marks: &'a Marks,
    pub except: Vec<&'a Damaged>,
}

/// A question's text, and what a row of its answer is.
#[derive(Debug)]
pub enum Select {
    /// A bucket of a group.
    Buckets(String),
    /// A group, with all of its buckets.
    Groups(String),
    /// A group, with a count for each of the buckets from `first_secs` on.
    Counts { text: String, first_secs: i64, width_secs: i64 },
}

/// Up to so many buckets a top list is read at once: a day by the hour, a month by the day. Beyond it the engine ranks
/// first, and then reads the rows of those groups alone: all buckets of all groups would be too many to hold.
const MOST_AT_ONCE: i64 = 32;

fn has_few_buckets(question: &Question) -> bool {
    let width = question.buckets.even().map_or(Level::Day.ms(), |(width, _)| width);
    let few = |(from, to): (i64, i64)| (to - from) / width <= MOST_AT_ONCE;
    question.buckets.step() == Step::Total || question.range.from_ms.zip(question.range.to_ms).is_some_and(few)
}

/// The groups that a top list needs.
struct Largest<'q> {
    groups: &'q [Dimension],
    dimensions: String,
    /// Groups that must be there come first, and have room of their own.
    named_first: String,
    limit: usize,
}

impl<'q> Largest<'q> {
    fn new(groups: &'q [Dimension], n: usize, and: &BTreeSet<Vec<Box<str>>>) -> Self {
        let dimensions = groups.iter().map(|d| d.name()).collect::<Vec<_>>().join(", ");
        let named: Vec<String> =
            and.iter().map(|values| format!("({})", values.iter().map(|value| literal(value)).collect::<Vec<_>>().join(", "))).collect();
        let named_first = if named.is_empty() { String::new() } else { format!("({dimensions}) IN ({}) DESC, ", named.join(", ")) };
        Self { groups, dimensions, named_first, limit: n + and.len() }
    }

    fn ranked_by(&self, count: &str) -> String {
        let Self { dimensions, named_first, limit, .. } = self;
        format!("GROUP BY {dimensions} ORDER BY {named_first}sum({count}) DESC, {dimensions} LIMIT {limit}")
    }

    /// `cells` of several pieces as those of one, with `columns` beside their dimensions.
    fn one_of(&self, cells: &[String], columns: &str) -> String {
        match cells {
            [one] => one.clone(),
            several => {
                let selects: Vec<String> = several.iter().map(|of| format!("SELECT {}, {columns} FROM {of}", self.dimensions)).collect();
                format!("({})", selects.join(" UNION ALL "))
            }
        }
    }

    /// From `rows`, SELECTs of cells by bucket and dimensions.
    fn groups(&self, rows: &str) -> Select {
        Select::Groups(format!(
            "SELECT {values} AS v, groupArray((b, c, ac, s, lo, hi, f)) AS of_group FROM ({rows}) {ranked}",
            values = array_of(self.groups),
            ranked = self.ranked_by("c"),
        ))
    }

    /// One count for each group.
    fn totals(&self, cells: &[String]) -> Select {
        let (values, cells, ranked) = (array_of(self.groups), self.one_of(cells, "count"), self.ranked_by("count"));
        let text = format!("SELECT {values} AS v, [sum(count)] AS counts FROM {cells} {ranked}");
        Select::Counts { text, first_secs: 0, width_secs: 0 }
    }

    /// Counts of the buckets that begin between `first_ms` and `to_ms`. A group's counts stand in a row as they are added
    /// up, and become an array only if the group is among the largest.
    fn counts(&self, cells: &[String], first_ms: i64, to_ms: i64, width_ms: i64) -> Select {
        let (first_secs, width_secs) = (first_ms / 1000, width_ms / 1000);
        let buckets = (to_ms - first_ms + width_ms - 1) / width_ms;
        let text = format!(
            "SELECT v, finalizeAggregation(states) AS counts FROM (SELECT {values} AS v, \
             sumResampleState(0, {buckets}, 1)(count, intDiv(toInt64(window) - ({first_secs}), {width_secs})) AS states FROM {cells} {ranked})",
            values = array_of(self.groups),
            cells = self.one_of(cells, "window, count"),
            ranked = self.ranked_by("count"),
        );
        Select::Counts { text, first_secs, width_secs }
    }

    /// ` AND …`: that a cell belongs to one of these groups, given the cells that they are ranked by.
    fn condition(&self, cells: &[String]) -> String {
        let (dimensions, cells, ranked) = (&self.dimensions, self.one_of(cells, "count"), self.ranked_by("count"));
        format!(" AND ({dimensions}) IN (SELECT {dimensions} FROM {cells} {ranked})")
    }
}

/// Each piece of the range from the coarsest roll-up that fits.
pub fn answer(rules: &Rules, view: ViewId, question: &Question, groups: &Groups, closed: &Closed<'_>, starts: &[i64]) -> Option<Select> {
    let cells = |&(level, piece): &(Level, TimeRange)| closed_cells(rules, view, question, level, piece, closed);
    let pieces = question.range.pieces(question.buckets.coarsest_level(starts));
    if pieces.is_empty() {
        return None;
    }
    let rows = |columns: &str, measures: &str, condition: &str| {
        let group = group(&question.group_by);
        let select = |piece: &(Level, TimeRange)| {
            let (bucket, cells) = (bucket(question, piece.0, starts), cells(piece));
            format!("SELECT {bucket} AS b{columns}, {measures} FROM {cells}{condition} GROUP BY b{group}")
        };
        pieces.iter().map(select).collect::<Vec<_>>().join(" UNION ALL ")
    };
    let (values, measures) = (format!(", {} AS v", array_of(&question.group_by)), if question.only_counts { COUNT } else { CELL });
    let largest = match groups {
        Groups::Largest { n, and } if !question.group_by.is_empty() => Largest::new(&question.group_by, *n, and),
        _ => return Some(Select::Buckets(rows(&values, measures, ""))),
    };
    if !has_few_buckets(question) {
        let coarse: Vec<String> = question.range.pieces(Level::Day).iter().map(cells).collect();
        return Some(Select::Buckets(rows(&values, measures, &largest.condition(&coarse))));
    }
    let at_once: Vec<String> = pieces.iter().map(cells).collect();
    Some(match (question.buckets.even(), question.range) {
        (Some((width, origin)), TimeRange { from_ms: Some(from), to_ms: Some(to) }) if question.only_counts => {
            largest.counts(&at_once, from - (from - origin).rem_euclid(width), to, width)
        }
        (None, _) if question.only_counts && !question.buckets.is_calendar() => largest.totals(&at_once),
        _ => largest.groups(&rows(&group(&question.group_by), CELL, "")),
    })
}

/// `offset < [c0, c1, …][partition + 1]`: below the cut of its partition.
pub fn below_cut(cut: &Cut, table: &str) -> String {
    let last = cut.iter().last().map_or(0, |(p, _)| p.0);
    let list: Vec<String> = (0..=last).map(|p| cut.get(Partition(p)).to_string()).collect();
    format!("{table}offset < [{}][{table}partition + 1]", list.join(", "))
}

/// From its mark up to the cut, of each partition: ranges, for which the index by offset is good.
fn above(bits: EpochBits, marks: &Marks, cut: &Cut) -> String {
    let from = |partition| marks.get(&partition).copied().unwrap_or(Mark::START).position(bits);
    let open = cut.iter().filter(|(partition, to)| from(*partition) < *to);
    let ranges: Vec<String> = open.map(|(p, to)| format!("({})", in_range(p, from(p).get(), to.get()))).collect();
    if ranges.is_empty() { "0".to_owned() } else { ranges.join(" OR ") }
}

/// Events of a range of time below a cut.
pub fn within_cut(range: TimeRange, cut: &Cut) -> String {
    below_cut(cut, "") + &within_time(range)
}

/// ` AND …`: events of a range of time.
fn within_time(range: TimeRange) -> String {
    let mut place = String::new();
    // A range's edges are windows' edges, so that it is the same range of events.
    if let Some(from) = range.from_ms {
        let _ = write!(place, " AND timestamp >= fromUnixTimestamp64Milli({from}, 'UTC')");
    }
    if let Some(to) = range.to_ms {
        let _ = write!(place, " AND timestamp < fromUnixTimestamp64Milli({to}, 'UTC')");
    }
    place
}

/// Columns of events, with what a roll-up would call their window.
fn event_columns() -> String {
    format!(
        "partition, offset, event_type, product_id, user_id, order_amount, toDateTime(intDiv(toUnixTimestamp64Milli(timestamp), {ms}) * {s}, 'UTC') AS window",
        ms = Level::FiveMinutes.ms(),
        s = Level::FiveMinutes.ms() / 1000,
    )
}

/// Events below a cut, but for some epochs; in open epochs one for each offset. As a FROM.
pub fn events_below(rules: &Rules, range: TimeRange, (epochs, marks, cut): (Epochs, &Marks, &Cut), except: &[&Damaged]) -> String {
    let (table, place, columns) = (events_table(rules), within_cut(range, cut) + &but_for(except), event_columns());
    let (closed, open) = (below(marks), above(rules.epoch_bits, marks, cut));
    let open = format!("SELECT {columns} FROM {table} WHERE {place} AND ({open}) LIMIT 1 BY partition, offset");
    match epochs {
        Epochs::Open => format!("({open})"),
        Epochs::All => format!("(SELECT {columns} FROM {table} WHERE {place} AND {closed} UNION ALL {open})"),
    }
}

/// Events of these epochs. As a FROM.
pub fn events_of(rules: &Rules, range: TimeRange, epochs: &[&Damaged]) -> String {
    let place = |of: &&Damaged| format!("({})", in_epoch(rules.epoch_bits, of.partition, of.epoch));
    let places = epochs.iter().map(place).collect::<Vec<_>>().join(" OR ");
    format!("(SELECT {} FROM {} WHERE ({places}){})", event_columns(), events_table(rules), within_time(range))
}

/// A question to raw events, which `events` says.
pub fn answer_raw(question: &Question, events: &str, starts: &[i64]) -> String {
    format!(
        "SELECT {bucket} AS b, {values} AS v, {CELL_OF_RAW} FROM {events} WHERE 1{matching} GROUP BY b{group}",
        bucket = bucket(question, Level::FiveMinutes, starts),
        values = array_of(&question.group_by),
        matching = matching(question),
        group = group(&question.group_by),
    )
}

/// The first and the last window of raw events.
pub fn extent_raw(events: &str) -> String {
    format!(
        "SELECT toInt64(toUnixTimestamp(min(window))) * 1000 AS lo, toInt64(toUnixTimestamp(max(window))) * 1000 AS hi, count() AS n FROM {events}"
    )
}

/// An epoch's cells at one level, as reconciliation compares them: in pieces, for who compares them adds them up faster.
pub fn cells(rules: &Rules, EpochCells { view, level, partition, epoch }: EpochCells) -> String {
    format!(
        "SELECT toInt64(window) AS b, {values} AS v, count AS c, amount_count AS ac, amount_sum AS s, amount_min AS lo, amount_max AS hi, fold AS f \
         FROM {table} WHERE partition = {partition} AND epoch = {epoch}",
        values = array_of(rules.views.get(view).dimensions()),
        table = rollup_table(rules, view, level),
    )
}

/// The same cells at the finest level, as raw rows have them.
pub fn counted_cells(rules: &Rules, EpochCells { view, partition, epoch, .. }: EpochCells) -> String {
    let range = rules.epoch_bits.range_of(epoch);
    format!(
        "SELECT toInt64(intDiv(toUnixTimestamp64Milli(timestamp), {ms}) * {s}) AS b, {values} AS v, {CELL_OF_RAW} \
         FROM {table} WHERE {place} GROUP BY b, v",
        ms = Level::FiveMinutes.ms(),
        s = Level::FiveMinutes.ms() / 1000,
        values = array_of(rules.views.get(view).dimensions()),
        table = events_table(rules),
        place = in_range(partition, range.from().get(), range.to().get()),
    )
}

/// The content of raw rows by runs of offsets: how many there are, and a sum of hashes of all that they say.
pub fn contents(rules: &Rules, place: &str, bits: u8) -> String {
    let of = |table: &str, said: &str| {
        format!(
            "SELECT bitShiftRight(offset, {bits}) AS run, cityHash64({said}) AS hash FROM {table} WHERE {place} LIMIT 1 BY partition, offset"
        )
    };
    let (events, dead_letters) = (of(&events_table(rules), EVENT_SAYS), of(&dead_letters_table(rules), DEAD_LETTER_SAYS));
    format!("SELECT run, count() AS n, sum(hash) AS fold FROM ({events} UNION ALL {dead_letters}) GROUP BY run")
}

/// The closed cells of a range, whole, in one row.
pub fn digest(rules: &Rules, view: ViewId, range: TimeRange, marks: &Marks) -> String {
    let (table, group) = (rollup_table(rules, view, Level::FiveMinutes), group(rules.views.get(view).dimensions()));
    format!(
        "SELECT count() AS cells, sum(c) AS events, sum(cityHash64(window{group}, {CELL_SAYS})) AS hash FROM \
         (SELECT window{group}, {CELL} FROM {table} WHERE {}{} GROUP BY window{group})",
        below(marks),
        within(range),
    )
}

pub fn extent(rules: &Rules, view: ViewId, marks: &Marks) -> String {
    let table = rollup_table(rules, view, Level::FiveMinutes);
    format!(
        "SELECT toInt64(toUnixTimestamp(min(window))) * 1000 AS lo, toInt64(toUnixTimestamp(max(window))) * 1000 AS hi, count() AS n FROM {table} WHERE {}",
        below(marks)
    )
}

/// The DELETEs of a repair: roll-ups first, so that what is left over is never more than raw has.
/// Each deletes nothing any more at `until_ms`.
pub fn wipe(rules: &Rules, partition: Partition, epoch: Epoch, what: Wiped, until_ms: i64) -> Vec<String> {
    let in_time = before(until_ms);
    let rollups = |views: &mut dyn Iterator<Item = ViewId>| {
        let delete = |table| format!("DELETE FROM {table} WHERE partition = {partition} AND epoch = {epoch} AND {in_time}");
        rollup_tables(rules, views).map(delete).collect::<Vec<_>>()
    };
    match what {
        Wiped::Rollups => rollups(&mut rules.views.ids()),
        Wiped::AddedSince(generation) => rollups(&mut rules.added_since(generation)),
        Wiped::Everything => {
            let mut statements = rollups(&mut rules.views.ids());
            let range = in_epoch(rules.epoch_bits, partition, epoch);
            statements.extend(
                [events_table(rules), dead_letters_table(rules)].map(|table| format!("DELETE FROM {table} WHERE {range} AND {in_time}")),
            );
            statements
        }
    }
}

/// ` WHERE …`: by the engine's clock it is not that late yet.
pub fn in_time(until_ms: Option<i64>) -> String {
    until_ms.map(|until_ms| format!(" WHERE {}", before(until_ms))).unwrap_or_default()
}

/// The same, of what was recorded at `at_ms` by a process's clock; and an error if that is ahead of the engine's.
pub fn recorded_in_time(at_ms: i64, until_ms: Option<i64>) -> String {
    let until = until_ms.map(|until_ms| format!(" AND {}", before(until_ms))).unwrap_or_default();
    format!(
        " WHERE throwIf({}, 'the clock of this process is ahead of the clock of ClickHouse by more than {} s') = 0{until}",
        before(at_ms - CLOCK_AHEAD_MS),
        CLOCK_AHEAD_MS / 1000
    )
}

/// By the engine's clock it is not that late yet. The engine looks when it begins with the statement, which may have been on its way
/// for long.
pub fn before(until_ms: i64) -> String {
    format!("now64(3) < fromUnixTimestamp64Milli(toInt64({until_ms}))")
}

/// The same, and an error if it is too late: for statements whose success would pass for done.
pub fn refuse_after(until_ms: i64) -> String {
    format!("throwIf(NOT {}, 'the statement has come too late') = 0", before(until_ms))
}

pub fn in_epoch(bits: EpochBits, partition: Partition, epoch: Epoch) -> String {
    let range = bits.range_of(epoch);
    in_range(partition, range.from().get(), range.to().get())
}

pub fn in_range(partition: Partition, from: u64, to: u64) -> String {
    format!("partition = {partition} AND offset >= {from} AND offset < {to}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_literal_cannot_be_left_from_inside() {
        for (text, sql) in [
            ("UA", "'UA'"),
            ("it's", r"'it\'s'"),
            (r"a\", r"'a\\'"),
            ("why?", r"'why\x3F'"),
            ("'; DROP TABLE events--", r"'\'; DROP TABLE events--'"),
        ] {
            assert_eq!(literal(text), sql);
        }
    }

    #[test]
    fn a_partition_without_a_mark_has_nothing_below_it() {
        let marks = Marks::from([(Partition(2), Mark::at(Epoch(7)))]);
        assert_eq!(below(&marks), "epoch < [0, 0, 7][partition + 1]");
    }
}
