//! What an operator wants to know of the servers, and of how history gets on. Nothing is made, and nothing is decided here.

use super::nodes::{Node, Nodes, Server};
use super::{Archive, ClickHouse};
use crate::declared::{self, Shape};
use crate::{Error, sql};
use clickhouse::Row;
use serde::Deserialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};
use tidemark_core::generation::Rules;
use tidemark_core::skew::Skew;

/// Settings of a query that ours come with: they must be allowed to. By name, with the value that is needed.
pub const NEEDED: [(&str, &str); 4] = [
    ("insert_deduplicate", "1"),
    ("deduplicate_blocks_in_dependent_materialized_views", "1"),
    ("async_insert", "0"),
    ("max_partitions_per_insert_block", "0"),
];

/// Settings of the tables' storage that bring what is acknowledged to disk at once.
const FSYNC: [&str; 2] = ["fsync_after_insert", "fsync_part_directory"];

/// One server, as it describes itself.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Examined {
    pub version: String,
    pub clock: Skew,
    pub settings: Vec<Setting>,
    /// What is acknowledged outlives a loss of power.
    pub syncs: bool,
    pub disks: Vec<Disk>,
    /// Those of the database, by name; none if it is not there.
    pub tables: BTreeMap<String, Shape>,
}

/// A setting as it is for this user, unless a query says otherwise.
#[derive(Clone, PartialEq, Eq, Debug, Row, Deserialize)]
pub struct Setting {
    pub name: String,
    pub value: String,
    /// No query may say otherwise.
    pub fixed: bool,
}

#[derive(Clone, PartialEq, Eq, Debug, Row, Deserialize)]
pub struct Disk {
    pub name: String,
    pub free: u64,
    pub total: u64,
}

/// How history gets on.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Row, Deserialize)]
pub struct Pace {
    /// Epochs that are closed, and when the last one was, in milliseconds since 1970; 0 if none is.
    pub closed: u64,
    pub last_closed_ms: i64,
    /// Events in closed epochs, and in those that have been closed within a day.
    pub events: u64,
    pub events_of_a_day: u64,
    /// The bytes of this database on disk.
    pub bytes: u64,
}

#[derive(Row, Deserialize)]
struct About {
    version: String,
    now_ms: i64,
    synced: u64,
}

#[derive(Row, Deserialize)]
struct TableRow {
    name: String,
    engine: String,
    partition_key: String,
    sorting_key: String,
    engine_full: String,
}

#[derive(Row, Deserialize)]
struct ColumnRow {
    table: String,
    name: String,
    kind: String,
}

impl Server {
    /// Looks at every server, in the order of the addresses, for no longer than `patience`: the address, without the password
    /// it may hold, and what is there.
    pub async fn examine(&self, patience: Duration) -> Vec<(String, Result<Examined, Error>)> {
        let nodes = Nodes::new(self, None);
        let look = async |node: &Node| {
            let late = |_| node.unavailable(format!("no answer within {} s", patience.as_secs()));
            tokio::time::timeout(patience, examine(node, &self.database)).await.map_err(late).flatten()
        };
        futures_util::future::join_all(nodes.in_turn().map(async |node| (node.url().to_owned(), look(node).await))).await
    }
}

async fn examine(node: &Node, database: &str) -> Result<Examined, Error> {
    let (database, names, fsync) = (sql::literal(database), list(&NEEDED.map(|(name, _)| name)), list(&FSYNC));
    let asked = now_ms();
    let about: Vec<About> = node
        .select(&format!(
            "SELECT version() AS version, toUnixTimestamp64Milli(now64(3)) AS now_ms, \
             toUInt64(ifNull((SELECT countIf(value = '1') FROM system.merge_tree_settings WHERE name IN ({fsync})), 0)) AS synced"
        ))
        .await?;
    let about = about.into_iter().next().ok_or_else(|| Error::Nonsense("it does not say its version".into()))?;
    let clock = Skew::seen(asked, about.now_ms, now_ms());
    let settings = format!("SELECT name, value, toBool(readonly) AS fixed FROM system.settings WHERE name IN ({names}) ORDER BY name");
    let tables: Vec<TableRow> = node
        .select(&format!("SELECT name, engine, partition_key, sorting_key, engine_full FROM system.tables WHERE database = {database}"))
        .await?;
    let shape = |row: TableRow| {
        let TableRow { name, engine, partition_key, sorting_key, engine_full } = row;
        (name, Shape { engine, columns: BTreeMap::new(), partition_key, sorting_key, settings: declared::settings(&engine_full) })
    };
    let mut tables: BTreeMap<String, Shape> = tables.into_iter().map(shape).collect();
    let columns: Vec<ColumnRow> =
        node.select(&format!("SELECT table, name, type AS kind FROM system.columns WHERE database = {database}")).await?;
    for ColumnRow { table, name, kind } in columns {
        tables.entry(table).or_default().columns.insert(name, kind);
    }
    Ok(Examined {
        version: about.version,
        clock,
        settings: node.select(&settings).await?,
        syncs: usize::try_from(about.synced).is_ok_and(|synced| synced == FSYNC.len()),
        disks: node.select("SELECT name, free_space AS free, total_space AS total FROM system.disks ORDER BY name").await?,
        tables,
    })
}

fn now_ms() -> i64 {
    SystemTime::UNIX_EPOCH.elapsed().map_or(0, |elapsed| i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX))
}

fn list(names: &[&str]) -> String {
    names.iter().map(|name| sql::literal(name)).collect::<Vec<_>>().join(", ")
}

impl Archive {
    /// As [`Archive::open`], but for looking alone: nothing is made, and what is not there is an error when it is asked for.
    pub fn existing(server: &Server, topic: &str) -> Self {
        Self { server: server.clone(), nodes: Arc::new(Nodes::new(server, Some(&server.database))), topic: topic.to_owned() }
    }

    /// As [`Archive::history`], likewise.
    pub fn existing_history(&self, rules: Arc<Rules>) -> ClickHouse {
        ClickHouse { nodes: Arc::clone(&self.nodes), tables: self.server.tables.clone(), rules, heard: Arc::default() }
    }

    /// How the history of a generation gets on.
    pub async fn pace(&self, rules: &Rules) -> Result<Pace, Error> {
        let generation = rules.generation;
        let query = format!(
            "SELECT count() AS closed, toUnixTimestamp64Milli(max(l)) AS last_closed_ms, sum(n) AS events, \
                 sumIf(n, l > now64(3) - INTERVAL 1 DAY) AS events_of_a_day, \
                 toUInt64(ifNull((SELECT sum(bytes_on_disk) FROM system.parts WHERE active AND database = currentDatabase()), 0)) AS bytes \
                 FROM (SELECT max(ledger.at) AS l, any(ledger.events) AS n FROM ledger \
                 WHERE generation = {generation} AND entry = 'closed' GROUP BY partition, epoch)"
        );
        let rows: Vec<Pace> = self.select(&["ledger"], &query).await?;
        Ok(rows.into_iter().next().unwrap_or_default())
    }
}
