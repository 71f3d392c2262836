//! What the tables must look like: read from the statements that make them, so that it is declared once, and compared with
//! what an engine has.

use crate::clickhouse::Tables;
use crate::schema;
use std::collections::{BTreeMap, BTreeSet};
use tidemark_core::generation::Rules;

/// A table, as a statement makes it or as an engine describes it. Of a materialized view the engine alone counts.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Shape {
    pub engine: String,
    /// Type by name.
    pub columns: BTreeMap<String, String>,
    pub partition_key: String,
    pub sorting_key: String,
    /// `name = value`, as far as they are set.
    pub settings: BTreeSet<String>,
}

/// All tables of a generation, and those that all generations share, by name.
pub fn shapes(rules: &Rules, tables: &Tables) -> BTreeMap<String, Shape> {
    let own = schema::migrations(rules, tables).into_iter().flat_map(|(_, statements)| statements);
    own.chain(schema::shared(tables)).filter_map(|statement| declared(&statement)).collect()
}

/// What is not as it is declared, each as a sentence. What is there besides, and settings besides, are the operator's own.
pub fn differences(declared: &BTreeMap<String, Shape>, found: &BTreeMap<String, Shape>) -> Vec<String> {
    let each = declared.iter().flat_map(|(name, wanted)| match found.get(name) {
        None => vec![format!("`{name}` is missing")],
        Some(found) => unlike(name, wanted, found),
    });
    each.collect()
}

fn unlike(name: &str, wanted: &Shape, found: &Shape) -> Vec<String> {
    let mut said = Vec::new();
    let mut compare = |what: &str, wanted: &str, found: &str| {
        if wanted != found {
            said.push(format!("`{name}`: {what} is `{found}`, not `{wanted}`"));
        }
    };
    compare("its engine", family(&wanted.engine), family(&found.engine));
    if wanted.columns.is_empty() {
        return said;
    }
    if wanted.engine.starts_with("Replicated") && !is_replicated(&found.engine) {
        compare("its engine", &wanted.engine, &found.engine);
    }
    compare("its partition key", &wanted.partition_key, &found.partition_key);
    compare("its sorting key", &wanted.sorting_key, &found.sorting_key);
    for (column, kind) in &wanted.columns {
        match found.columns.get(column) {
            Some(found) => compare(&format!("column `{column}`"), kind, found),
            None => compare(&format!("column `{column}`"), kind, "missing"),
        }
    }
    let unset = wanted.settings.difference(&found.settings);
    said.extend(unset.map(|setting| format!("`{name}`: the setting {setting} is not there")));
    said
}

/// The engine, however its copies are kept.
fn family(engine: &str) -> &str {
    ["Replicated", "Shared"].iter().find_map(|kept| engine.strip_prefix(kept)).unwrap_or(engine)
}

fn is_replicated(engine: &str) -> bool {
    engine != family(engine)
}

/// Reads a statement of [`schema`]; `None` if it makes no table.
fn declared(statement: &str) -> Option<(String, Shape)> {
    if let Some(view) = statement.strip_prefix("CREATE MATERIALIZED VIEW IF NOT EXISTS ") {
        let name = view.split_whitespace().next()?;
        return Some((name.to_owned(), Shape { engine: "MaterializedView".into(), ..Shape::default() }));
    }
    let table = statement.strip_prefix("CREATE TABLE IF NOT EXISTS ")?;
    let (head, rest) = table.split_once(" (\n")?;
    let (columns, tail) = rest.split_once("\n) ENGINE = ")?;
    let columns = columns.lines().map(|line| line.trim().trim_end_matches(',')).filter(|line| !line.starts_with("INDEX "));
    let engine = tail.split(|c: char| !c.is_ascii_alphanumeric()).next()?;
    Some((
        head.split_whitespace().next()?.to_owned(),
        Shape {
            engine: engine.to_owned(),
            columns: columns.filter_map(column).collect(),
            partition_key: key(tail, "PARTITION BY "),
            sorting_key: key(tail, "ORDER BY "),
            settings: settings(tail),
        },
    ))
}

fn column(line: &str) -> Option<(String, String)> {
    let (name, rest) = line.split_once(' ')?;
    let end = [" CODEC(", " ALIAS ", " DEFAULT "].iter().filter_map(|word| rest.find(word)).min().unwrap_or(rest.len());
    Some((name.to_owned(), rest[..end].to_owned()))
}

/// An expression behind a word, without the brackets around a list.
fn key(tail: &str, word: &str) -> String {
    let Some((_, rest)) = tail.split_once(word) else { return String::new() };
    let end = [" ORDER BY ", "\n", " SETTINGS "].iter().filter_map(|word| rest.find(word)).min().unwrap_or(rest.len());
    let text = rest[..end].trim();
    text.strip_prefix('(').and_then(|text| text.strip_suffix(')')).unwrap_or(text).to_owned()
}

/// Also of what an engine tells of a table's engine.
pub(crate) fn settings(text: &str) -> BTreeSet<String> {
    let Some((_, settings)) = text.split_once("SETTINGS ") else { return BTreeSet::new() };
    settings.split(", ").map(|setting| setting.trim().to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_core::epoch::EpochBits;
    use tidemark_core::event::Limits;
    use tidemark_core::generation::Generation;
    use tidemark_core::view::Views;

    fn rules() -> Rules {
        let views = Views::declare([("by_product", vec!["event_type", "product_id"])]).expect("valid");
        let epoch_bits = EpochBits::new(18).expect("valid");
        Rules { generation: Generation(1), widens: None, epoch_bits, views, limits: Limits::default(), dedup: true }
    }

    #[test]
    fn every_table_is_read_from_its_statement() {
        let shapes = shapes(&rules(), &Tables::Own);
        let names: Vec<&str> = shapes.keys().map(String::as_str).collect();
        let rollups = ["audits", "by_product_1d_g1", "by_product_1d_g1_filler", "by_product_1h_g1", "by_product_1h_g1_filler"];
        let others = ["by_product_5m_g1", "by_product_5m_g1_filler", "dead_letters", "events"];
        let shared = ["generation_inputs", "generation_states", "generations", "ledger", "staged_dead_letters", "staged_events"];
        assert_eq!(names, [&rollups[..], &others[..], &shared[..]].concat());
        let events = &shapes["events"];
        assert_eq!((&*events.engine, &*events.partition_key), ("MergeTree", "toYYYYMM(timestamp)"));
        assert_eq!(events.sorting_key, "event_type, timestamp, product_id");
        assert_eq!((&*events.columns["epoch"], &*events.columns["order_amount"]), ("UInt64", "Nullable(Decimal(18, 4))"));
        assert!(events.settings.contains("replicated_deduplication_window = 10000"), "{:?}", events.settings);
        assert_eq!(shapes["by_product_1h_g1"].columns["amount_sum"], "SimpleAggregateFunction(sum, Decimal(38, 4))");
        assert_eq!(shapes["by_product_1h_g1"].sorting_key, "window, event_type, product_id, partition, epoch");
        assert_eq!((&*shapes["ledger"].sorting_key, shapes["ledger"].columns.len()), ("generation, partition, epoch, at", 11));
    }

    #[test]
    fn what_differs_is_said_and_what_is_added_is_not() {
        let declared = shapes(&rules(), &Tables::Own);
        let mut found = declared.clone();
        found.insert("somebody_elses".into(), Shape::default());
        let events = found.get_mut("events").expect("it is there");
        events.engine = "SharedMergeTree".into();
        events.columns.insert("note".into(), "String".into());
        assert_eq!(differences(&declared, &found), Vec::<String>::new());
        events_of(&mut found).columns.insert("user_id".into(), "UInt64".into());
        events_of(&mut found).settings.clear();
        found.remove("ledger");
        let said = differences(&declared, &found).join("\n");
        for what in
            ["`events`: column `user_id` is `UInt64`, not `String`", "deduplication_window = 10000 is not there", "`ledger` is missing"]
        {
            assert!(said.contains(what), "{said}");
        }
        let path = "/clickhouse/{shard}".to_owned();
        let replicated = shapes(&rules(), &Tables::Replicated { cluster: None, path });
        assert!(differences(&replicated, &declared).iter().any(|said| said.contains("not `ReplicatedMergeTree`")));
        assert_eq!(differences(&declared, &replicated), Vec::<String>::new());
    }

    fn events_of(shapes: &mut BTreeMap<String, Shape>) -> &mut Shape {
        shapes.get_mut("events").expect("it is there")
    }
}
