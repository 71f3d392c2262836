//! The text of the history's queries. Pure: a question in, SQL out. Values that came from outside are always escaped by
//! [`literal`]; names are the schema's own.

use crate::Marks;
use crate::schema::rollup_table;
use std::fmt::Write as _;
use tidemark_core::cut::Cut;
use tidemark_core::epoch::{Epoch, EpochBits};
use tidemark_core::generation::Rules;
use tidemark_core::offset::Partition;
use tidemark_core::question::{Groups, Question};
use tidemark_core::view::{Dimension, View, ViewId};
use tidemark_core::window::{Level, TimeRange};

const COUNT: &str = "sum(count) AS c";
const CELL: &str =
    "sum(count) AS c, sum(amount_count) AS ac, sum(amount_sum) AS s, min(amount_min) AS lo, max(amount_max) AS hi, sum(fold) AS f";

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

fn within(range: TimeRange) -> String {
    let mut text = String::new();
    // Windows are seconds in ClickHouse and never before 1970: the rules refuse earlier events.
    if let Some(from) = range.from_ms {
        let _ = write!(text, " AND window >= toDateTime({}, 'UTC')", from.max(0) / 1000);
    }
    if let Some(to) = range.to_ms {
        let _ = write!(text, " AND window < toDateTime({}, 'UTC')", to.max(0) / 1000);
    }
    text
}

fn matching(question: &Question) -> String {
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

/// The bucket of `window`, in milliseconds, where windows are of `level`; `starts` are the calendar buckets, in order.
fn bucket(question: &Question, level: Level, starts: &[i64]) -> String {
    match question.buckets.even() {
        Some((width, _)) if width == level.ms() => "toInt64(toUnixTimestamp(window)) * 1000".to_owned(),
        Some((width, origin)) => {
            let (width, origin) = (width / 1000, origin / 1000);
            format!("(toInt64(toUnixTimestamp(window)) - positiveModulo(toInt64(toUnixTimestamp(window)) - ({origin}), {width})) * 1000")
        }
        None if question.buckets.is_calendar() => {
            let list: Vec<String> = starts.iter().map(|ms| (ms / 1000).to_string()).collect();
            format!("toInt64(roundDown(toInt64(toUnixTimestamp(window)), CAST([{}], 'Array(Int64)'))) * 1000", list.join(", "))
        }
        None => "toInt64(0)".to_owned(),
    }
}

/// `table WHERE …`: the closed cells of one piece of the question's range.
fn closed_cells(rules: &Rules, view: &View, question: &Question, level: Level, piece: TimeRange, marks: &Marks) -> String {
    let table = rollup_table(view, level, rules.generation);
    format!("{table} WHERE {}{}{}", below(marks), within(piece), matching(question))
}

/// ` AND (…)`: the groups that are needed.
fn in_groups(rules: &Rules, view: &View, question: &Question, groups: &Groups, marks: &Marks) -> String {
    let Groups::Largest { n, and } = groups else { return String::new() };
    let dimensions = question.group_by.iter().map(|d| d.name()).collect::<Vec<_>>().join(", ");
    if dimensions.is_empty() {
        return String::new();
    }
    // Over the whole range, so from roll-ups as coarse as its edges allow.
    let counts: Vec<String> = question
        .range
        .pieces(Level::Day)
        .into_iter()
        .map(|(level, piece)| {
            format!(
                "SELECT {dimensions}, sum(count) AS n FROM {cells} GROUP BY {dimensions}",
                cells = closed_cells(rules, view, question, level, piece, marks),
            )
        })
        .collect();
    let largest = match counts.as_slice() {
        [one] => format!("SELECT {dimensions} FROM ({one}) ORDER BY n DESC, {dimensions} LIMIT {n}"),
        several => format!(
            "SELECT {dimensions} FROM ({}) GROUP BY {dimensions} ORDER BY sum(n) DESC, {dimensions} LIMIT {n}",
            several.join(" UNION ALL ")
        ),
    };
    let named: Vec<String> =
        and.iter().map(|values| format!("({})", values.iter().map(|value| literal(value)).collect::<Vec<_>>().join(", "))).collect();
    let named = if named.is_empty() { String::new() } else { format!(" OR ({dimensions}) IN ({})", named.join(", ")) };
    format!(" AND (({dimensions}) IN ({largest}){named})")
}

/// One SELECT for each piece of the range, each from the coarsest roll-up that fits.
pub fn answer(rules: &Rules, view: ViewId, question: &Question, groups: &Groups, marks: &Marks, starts: &[i64]) -> Option<String> {
    let view = rules.views.get(view);
    let in_groups = in_groups(rules, view, question, groups, marks);
    let coarsest = question.buckets.coarsest_level(starts);
    let selects: Vec<String> = question
        .range
        .pieces(coarsest)
        .into_iter()
        .map(|(level, piece)| {
            format!(
                "SELECT {bucket} AS b, {values} AS v, {measures} FROM {cells}{in_groups} GROUP BY b{group}",
                measures = if question.only_counts { COUNT } else { CELL },
                group = group(&question.group_by),
                bucket = bucket(question, level, starts),
                values = array_of(&question.group_by),
                cells = closed_cells(rules, view, question, level, piece, marks),
            )
        })
        .collect();
    (!selects.is_empty()).then(|| selects.join(" UNION ALL "))
}

/// `offset < [c0, c1, …][partition + 1]`: below the cut of its partition.
fn below_cut(cut: &Cut) -> String {
    let last = cut.iter().last().map_or(0, |(p, _)| p.0);
    let list: Vec<String> = (0..=last).map(|p| cut.get(Partition(p)).to_string()).collect();
    format!("offset < [{}][partition + 1]", list.join(", "))
}

/// Events, with what a roll-up would call their window; in open epochs one for each offset.
fn windows(range: TimeRange, marks: &Marks, cut: &Cut) -> String {
    let s = Level::FiveMinutes.ms() / 1000;
    let mut place = below_cut(cut);
    // A range's edges are windows' edges, so that it is the same range of events.
    if let Some(from) = range.from_ms {
        let _ = write!(place, " AND timestamp >= fromUnixTimestamp64Milli({from}, 'UTC')");
    }
    if let Some(to) = range.to_ms {
        let _ = write!(place, " AND timestamp < fromUnixTimestamp64Milli({to}, 'UTC')");
    }
    let columns = format!(
        "partition, offset, event_type, product_id, user_id, order_amount, toDateTime(intDiv(toUnixTimestamp64Milli(timestamp), {ms}) * {s}, 'UTC') AS window",
        ms = Level::FiveMinutes.ms()
    );
    let closed = below(marks);
    format!(
        "(SELECT {columns} FROM events WHERE {place} AND {closed} \
         UNION ALL SELECT {columns} FROM events WHERE {place} AND NOT ({closed}) LIMIT 1 BY partition, offset)"
    )
}

/// A question to raw events.
pub fn answer_raw(question: &Question, marks: &Marks, cut: &Cut, starts: &[i64]) -> String {
    format!(
        "SELECT {bucket} AS b, {values} AS v, count() AS c, count(order_amount) AS ac, \
         sum(ifNull(order_amount, toDecimal64(0, 4))) AS s, min(order_amount) AS lo, max(order_amount) AS hi, sum(intHash64(offset)) AS f \
         FROM {events} WHERE 1{matching} GROUP BY b{group}",
        bucket = bucket(question, Level::FiveMinutes, starts),
        values = array_of(&question.group_by),
        events = windows(question.range, marks, cut),
        matching = matching(question),
        group = group(&question.group_by),
    )
}

pub fn extent_raw(marks: &Marks, cut: &Cut) -> String {
    format!(
        "SELECT toInt64(toUnixTimestamp(min(window))) * 1000 AS lo, toInt64(toUnixTimestamp(max(window))) * 1000 AS hi, count() AS n FROM {}",
        windows(TimeRange::default(), marks, cut)
    )
}

/// An epoch's cells at one level, as reconciliation compares them.
pub fn cells(rules: &Rules, view: &View, level: Level, partition: Partition, epoch: Epoch) -> String {
    format!(
        "SELECT toInt64(toUnixTimestamp(window)) * 1000 AS b, {values} AS v, {CELL} FROM {table} WHERE partition = {partition} AND epoch = {epoch} GROUP BY b{group}",
        group = group(view.dimensions()),
        values = array_of(view.dimensions()),
        table = rollup_table(view, level, rules.generation),
    )
}

pub fn extent(rules: &Rules, view: ViewId, marks: &Marks) -> String {
    let table = rollup_table(rules.views.get(view), Level::FiveMinutes, rules.generation);
    format!(
        "SELECT toInt64(toUnixTimestamp(min(window))) * 1000 AS lo, toInt64(toUnixTimestamp(max(window))) * 1000 AS hi, count() AS n FROM {table} WHERE {}",
        below(marks)
    )
}

/// The DELETEs of a repair: roll-ups first, so that what is left over is never more than raw has.
pub fn wipe(rules: &Rules, partition: Partition, epoch: Epoch) -> Vec<String> {
    let rollups = rules.views.iter().flat_map(|view| Level::ALL.map(|level| rollup_table(view, level, rules.generation)));
    let mut statements: Vec<String> =
        rollups.map(|table| format!("DELETE FROM {table} WHERE partition = {partition} AND epoch = {epoch}")).collect();
    let range = in_epoch(rules.epoch_bits, partition, epoch);
    statements.extend(["events", "dead_letters"].map(|table| format!("DELETE FROM {table} WHERE {range}")));
    statements
}

fn in_epoch(bits: EpochBits, partition: Partition, epoch: Epoch) -> String {
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
        use tidemark_core::epoch::Mark;
        let marks = Marks::from([(Partition(2), Mark::at(Epoch(7)))]);
        assert_eq!(below(&marks), "epoch < [0, 0, 7][partition + 1]");
    }
}
