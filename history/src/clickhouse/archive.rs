//! All generations of a topic's history in one database.

use super::ClickHouse;
use super::nodes::{Nodes, Server};
use crate::generations::{Filling, Generations, Input, State};
use crate::{Error, schema, sql};
use clickhouse::Row;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::sync::Arc;
use tidemark_core::generation::{Generation, Rules, RulesError, Widening};

/// A topic's history, whichever generation.
#[derive(Clone, Debug)]
pub struct Archive {
    pub(super) server: Server,
    pub(super) nodes: Arc<Nodes>,
    pub(super) topic: String,
}

#[derive(Row, Deserialize)]
struct GenerationRow {
    generation: u32,
    topic: String,
    rules: String,
}

/// What filling a generation came to.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Row, Deserialize)]
pub struct Filled {
    pub records: u64,
    pub took_ms: u64,
}

#[derive(Row, Deserialize)]
struct StateRow {
    generation: u32,
    state: i8,
    max_per_second: u64,
    max_lag: u64,
    raw_alone: bool,
}

#[derive(Row, Deserialize)]
struct InputRow {
    cluster_id: String,
    topic_id: String,
    batch_group: String,
}

#[derive(Row, Deserialize)]
struct CountRow {
    n: u64,
}

impl Archive {
    /// Connects, and makes what all generations share.
    pub async fn open(server: &Server, topic: &str) -> Result<Self, Error> {
        let database = &server.database;
        if !database.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') || database.is_empty() {
            return Err(Error::OtherRules(format!("`{database}` cannot be a database name; use letters, digits and _")));
        }
        if server.urls.is_empty() {
            return Err(Error::OtherRules("no server of ClickHouse is named".into()));
        }
        let create = format!("CREATE DATABASE IF NOT EXISTS {database}{}", server.tables.on_cluster());
        Nodes::new(server, None).primary(async |node| node.execute(&create).await).await?;
        let archive = Self { server: server.clone(), nodes: Arc::new(Nodes::new(server, Some(database))), topic: topic.to_owned() };
        archive.execute_all(schema::shared(&server.tables)).await?;
        Ok(archive)
    }

    /// `None` before the first one has been declared.
    pub async fn generations(&self) -> Result<Option<Generations>, Error> {
        let known = "SELECT generation, argMin(topic, at) AS topic, argMin(rules, at) AS rules FROM generations GROUP BY generation ORDER BY generation";
        let states =
            "SELECT generation, toInt8(state) AS state, max_per_second, max_lag, raw_alone FROM generation_states ORDER BY at, state";
        let tables = ["generations", "generation_states"].map(str::to_owned);
        let both = self.nodes.select_two::<GenerationRow, StateRow>(&self.server.tables, &tables, known, Some(states));
        let (known, states) = both.await?;
        let mut rules: BTreeMap<Generation, Arc<Rules>> = BTreeMap::new();
        for row in known {
            self.must_be_ours(&row.topic)?;
            let read = read(Generation(row.generation), &row.rules, &rules);
            let read = read.ok_or_else(|| Error::OtherRules(format!("generation {}: {}", row.generation, RulesError(row.rules))))?;
            rules.insert(read.generation, Arc::new(read));
        }
        let said = |row: StateRow| {
            let state = match row.state {
                1 => State::Building(Filling { max_per_second: row.max_per_second, max_lag: row.max_lag, raw_alone: row.raw_alone }),
                2 => State::Ready,
                3 => State::Live,
                _ => State::Dropped,
            };
            (Generation(row.generation), state)
        };
        Ok(Generations::new(rules.into_values(), states.into_iter().map(said)))
    }

    /// How long it took to fill the last generation that has become ready, and how many records its closed epochs had then.
    pub async fn last_filled(&self) -> Result<Option<Filled>, Error> {
        let last = "SELECT generation AS g, minIf(at, state = 'building') AS begun, minIf(at, state = 'ready') AS ready FROM generation_states \
                    GROUP BY g HAVING countIf(state = 'building') > 0 AND countIf(state = 'ready') > 0 ORDER BY g DESC LIMIT 1";
        let query = format!(
            "SELECT sum(n) AS records, toUInt64(max(ms)) AS took_ms FROM (SELECT any(events + duplicates + dead_letters) AS n, \
                 any(dateDiff('millisecond', begun, ready)) AS ms FROM ledger, ({last}) AS last \
                 WHERE generation = g AND entry = 'closed' AND ledger.at <= ready GROUP BY partition, epoch)"
        );
        let rows: Vec<Filled> = self.select(&["generation_states", "ledger"], &query).await?;
        Ok(rows.into_iter().find(|filled| filled.records > 0))
    }

    /// Where the records of these raw events come from; `None` for a history that was written before that was kept.
    pub async fn input(&self, raw: Generation) -> Result<Option<Input>, Error> {
        let query =
            format!("SELECT cluster_id, topic_id, batch_group FROM generation_inputs WHERE generation = {raw} ORDER BY at DESC LIMIT 1");
        let rows: Vec<InputRow> = self.select(&["generation_inputs"], &query).await?;
        Ok(rows.into_iter().next().map(|InputRow { cluster_id, topic_id, batch_group }| Input { cluster_id, topic_id, batch_group }))
    }

    /// From here on they come from there.
    pub async fn set_input(&self, raw: Generation, input: &Input) -> Result<(), Error> {
        let [cluster_id, topic_id, batch_group] = [&input.cluster_id, &input.topic_id, &input.batch_group].map(|text| sql::literal(text));
        self.execute(&format!(
            "INSERT INTO generation_inputs (generation, cluster_id, topic_id, batch_group) VALUES ({raw}, {cluster_id}, {topic_id}, {batch_group})"
        ))
        .await
    }

    /// True once some generation has closed an epoch, or has noted where its counting began.
    pub async fn has_ledger(&self) -> Result<bool, Error> {
        let rows: Vec<CountRow> = self.select(&["ledger"], "SELECT count() AS n FROM ledger").await?;
        Ok(rows.first().is_some_and(|row| row.n > 0))
    }

    fn must_be_ours(&self, topic: &str) -> Result<(), Error> {
        if topic == self.topic {
            return Ok(());
        }
        Err(Error::OtherRules(format!(
            "this history belongs to topic `{topic}`, not `{}`; use another database (clickhouse.database)",
            self.topic
        )))
    }

    /// Says what becomes of a generation from here on.
    pub async fn say(&self, generation: Generation, state: State) -> Result<(), Error> {
        let filling = if let State::Building(filling) = state { filling } else { Filling::default() };
        let (state, Filling { max_per_second, max_lag, raw_alone }) = (state.name(), filling);
        self.execute(&format!(
            "INSERT INTO generation_states (generation, state, max_per_second, max_lag, raw_alone) VALUES ({generation}, '{state}', {max_per_second}, {max_lag}, {raw_alone})"
        ))
        .await
    }

    /// Notes that there is a generation, by these rules, unless it is known. What was noted first stands.
    pub async fn declare(&self, rules: &Rules) -> Result<(), Error> {
        self.note(rules, 0).await?;
        self.must_count_by(rules).await
    }

    async fn must_count_by(&self, rules: &Rules) -> Result<(), Error> {
        let (ours, generation) = (written(rules), rules.generation);
        let query = format!("SELECT generation, topic, rules FROM generations WHERE generation = {generation} ORDER BY at, rules");
        let known: Vec<GenerationRow> = self.select(&["generations"], &query).await?;
        for row in &known {
            self.must_be_ours(&row.topic)?;
            if row.rules != ours {
                return Err(Error::OtherRules(format!(
                    "generation {generation} of this history was counted by other rules, and counts of two kinds must not be mixed.\n  history: {}\n  here:    {ours}",
                    row.rules
                )));
            }
        }
        Ok(())
    }

    async fn note(&self, rules: &Rules, version: u32) -> Result<(), Error> {
        let (generation, topic, text) = (rules.generation, sql::literal(&self.topic), sql::literal(&written(rules)));
        let unless = format!("(SELECT count() FROM generations WHERE generation = {generation} AND schema_version = {version}) = 0");
        self.execute(&format!(
            "INSERT INTO generations (generation, schema_version, topic, rules) SELECT {generation}, {version}, {topic}, {text} WHERE {unless}"
        ))
        .await
    }

    /// One generation's history; what is missing of its tables is made. Refuses one that was written under other rules.
    pub async fn history(&self, rules: Arc<Rules>) -> Result<ClickHouse, Error> {
        self.must_count_by(&rules).await?;
        let tables = &self.server.tables;
        for (version, statements) in schema::migrations(&rules, tables) {
            self.execute_all(statements).await?;
            self.note(&rules, version).await?;
        }
        Ok(ClickHouse {
            nodes: Arc::new(Nodes::new(&self.server, Some(&self.server.database))),
            tables: tables.clone(),
            rules,
            heard: Arc::default(),
        })
    }

    /// Shows this generation to people who query ClickHouse directly.
    pub async fn show(&self, rules: &Rules) -> Result<(), Error> {
        self.execute_all(schema::for_people(rules, &self.server.tables)).await
    }

    /// Deletes a generation's tables, but for those that one that stands shares.
    pub async fn drop(&self, rules: &Rules, generations: &Generations) -> Result<(), Error> {
        let others = generations.standing().map(|known| &*known.rules).filter(|other| other.generation != rules.generation);
        let statements = schema::drop(rules, generations.live(), &others.collect::<Vec<_>>(), &self.server.tables);
        self.execute_all(statements).await
    }

    async fn execute(&self, statement: &str) -> Result<(), Error> {
        self.nodes.primary(async |node| node.execute(statement).await).await
    }

    async fn execute_all(&self, statements: Vec<String>) -> Result<(), Error> {
        for statement in statements {
            self.execute(&statement).await?;
        }
        Ok(())
    }

    pub(super) async fn select<R>(&self, tables: &[&str], query: &str) -> Result<Vec<R>, Error>
    where
        R: for<'a> Row<Value<'a> = R> + DeserializeOwned + Send + 'static,
    {
        let tables: Vec<String> = tables.iter().map(|table| (*table).to_owned()).collect();
        self.nodes.select(&self.server.tables, &tables, query).await
    }
}

/// A generation's rules, and what it widens: earlier versions, which could not share, do not understand that, and say so.
fn written(rules: &Rules) -> String {
    match &rules.widens {
        None => rules.text(),
        Some(Widening { rules: widened, since }) => {
            format!("{} raw={} widens={} since={since}", rules.text(), rules.raw(), widened.generation)
        }
    }
}

#[cfg(fuzzing)]
pub(super) fn fuzz(text: &str) {
    if let Some(rules) = read(Generation(2), text, &BTreeMap::new()) {
        assert_eq!(read(Generation(2), &written(&rules), &BTreeMap::new()), Some(rules));
    }
}

/// Reads back what [`written`] has written, given the generations before.
fn read(generation: Generation, text: &str, before: &BTreeMap<Generation, Arc<Rules>>) -> Option<Rules> {
    let Some((head, shared)) = text.split_once(" raw=") else { return Rules::read(generation, text).ok() };
    let (_, widened) = shared.split_once(" widens=")?;
    let (widened, since) = widened.split_once(" since=")?;
    let widening = Widening { rules: Arc::clone(before.get(&Generation(widened.parse().ok()?))?), since: since.parse().ok()? };
    let rules = Rules { widens: Some(widening), ..Rules::read(generation, head).ok()? };
    (written(&rules) == text).then_some(rules)
}
