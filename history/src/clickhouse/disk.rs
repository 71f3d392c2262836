//! What history takes on disk, as the engine tells it. For measuring: nothing is decided by it.

use super::ClickHouse;
use crate::Error;
use crate::sql;
use clickhouse::Row;
use serde::Deserialize;

/// A part of history, and its bytes in active parts.
#[derive(Clone, PartialEq, Eq, Debug, Row, Deserialize)]
pub struct Occupied {
    pub name: String,
    pub bytes: u64,
}

#[derive(Row, Deserialize)]
struct TotalRow {
    n: u64,
}

impl ClickHouse {
    /// The bytes of each table, indexes and all; tables without rows are absent.
    pub async fn tables_on_disk(&self) -> Result<Vec<Occupied>, Error> {
        let active = "SELECT table AS name, sum(bytes_on_disk) AS bytes FROM system.parts WHERE active AND database = currentDatabase()";
        self.select(&[], &format!("{active} GROUP BY name ORDER BY name")).await
    }

    /// The bytes of each column of a table, the largest first. Parts so small that their columns share a file are left out.
    pub async fn columns_on_disk(&self, table: &str) -> Result<Vec<Occupied>, Error> {
        let table = sql::literal(table);
        let query = format!(
            "SELECT column AS name, sum(column_bytes_on_disk) AS bytes FROM system.parts_columns \
             WHERE active AND database = currentDatabase() AND table = {table} GROUP BY name HAVING bytes > 0 ORDER BY bytes DESC, name"
        );
        self.select(&[], &query).await
    }

    /// How many merges are going on, and how many active parts there are.
    pub async fn merging(&self) -> Result<(u64, u64), Error> {
        let (merges, parts) = ("system.merges WHERE true", "system.parts WHERE active");
        Ok((self.count(merges).await?, self.count(parts).await?))
    }

    /// The rows of a system table that are of this database.
    async fn count(&self, which: &str) -> Result<u64, Error> {
        let rows: Vec<TotalRow> = self.select(&[], &format!("SELECT count() AS n FROM {which} AND database = currentDatabase()")).await?;
        Ok(rows.first().map_or(0, |row| row.n))
    }
}
