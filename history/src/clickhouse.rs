//! The door to ClickHouse: its HTTP interface, by the official client. The embedded engine speaks the same.

mod archive;
mod audit;
mod disk;
mod evidence;
mod examine;
pub mod metrics;
mod nodes;

pub use archive::{Archive, Filled};
pub use disk::Occupied;
pub use examine::{Disk, Examined, NEEDED, Pace, Setting};
pub use nodes::{Server, Tables};

use crate::answers::{CellRow, CellsRow, CountRow, CountsRow, EpochCellRow, rows_of};
use crate::audit::{Change, Damage, Damaged, EpochSums};
use crate::block::DUPLICATE;
use crate::evidence::{Counted, Origin, Page, Placed, Places, Uncounted};
use crate::ledger::{Entry, LedgerRow};
use crate::raw::Epochs;
use crate::rows::{Found, Month, PartKey, RawEvent, RawKind, RawPayload, RawRecord, RowBlock, RowCount, Table};
use crate::sql::Select;
use crate::{Contents, DeadLetter, DeadLetterQuery, Digest, EpochCells, Error, History, Marks, Tallies, VisitCell, Wiped, schema, sql};
use async_trait::async_trait;
use clickhouse::Row;
use nodes::{Node, Nodes, QUERY_DEADLINE};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidemark_core::amount::Amount;
use tidemark_core::cell::Tally;
use tidemark_core::cut::Cut;
use tidemark_core::epoch::{Epoch, Mark};
use tidemark_core::event::Reject;
use tidemark_core::generation::{Generation, Rules};
use tidemark_core::offset::{Offset, OffsetRange, Partition};
use tidemark_core::question::{Groups, Question, Rows, merge_rows};
use tidemark_core::view::ViewId;
use tidemark_core::window::{Level, TimeRange};

/// How long an insert is waited for.
const INSERT_DEADLINE: Duration = Duration::from_secs(20);

/// How long an insert may run in the engine, which stops it itself, and within which it arrives there: rows by
/// [`tidemark_https::ARRIVES_WITHIN`], a statement by the engine's clock.
const INSERT_RUNS_SECS: &str = "15";
const INSERT_ARRIVES_WITHIN_MS: i64 = 10_000;

/// After that an insert that was sent has ended, whatever became of it. Below the batch group's session timeout, so that an owner that
/// loses its partition has no insert of unknown fate.
pub const INSERT_ENDS_WITHIN: Duration = Duration::from_secs(25);

/// A server that is asked every second and has not answered for so long does not answer.
const SILENT_AFTER: Duration = Duration::from_secs(5);

/// A history in ClickHouse.
#[derive(Clone, Debug)]
pub struct ClickHouse {
    nodes: Arc<Nodes>,
    tables: Tables,
    rules: Arc<Rules>,
    heard: Arc<audit::Heard>,
}

#[derive(Row, Deserialize)]
struct ClockRow {
    now_ms: i64,
}

#[derive(Row, Deserialize)]
struct ExtentRow {
    lo: i64,
    hi: i64,
    n: u64,
}

#[derive(Row, Deserialize)]
struct FoundRow {
    part: u32,
    n: u64,
    fold: u64,
}

#[derive(Row, Deserialize)]
struct TallyRow {
    events: u64,
    duplicates: u64,
    dead_letters: u64,
    holes: u64,
}

/// [`Tallies`], of one partition.
#[derive(Row, Deserialize)]
struct PartitionTallyRow {
    partition: u32,
    events: u64,
    duplicates: u64,
    dead_letters: u64,
    holes: u64,
}

impl PartitionTallyRow {
    fn tally(&self) -> Tally {
        let Self { events, duplicates, dead_letters, holes, .. } = *self;
        Tally { events, duplicates, dead_letters, holes }
    }
}

#[derive(Row, Deserialize)]
struct ContentsRow {
    run: u64,
    n: u64,
    fold: u64,
}

#[derive(Row, Deserialize)]
struct DigestRow {
    cells: u64,
    events: u64,
    hash: u64,
}

#[derive(PartialEq, Row, Deserialize)]
struct SumRow {
    n: u64,
    fold: u64,
}

/// What the ledger says about a range of epochs.
#[derive(Row, Deserialize)]
struct ClosedRow {
    epochs: u64,
    n: u64,
    fold: u64,
}

#[derive(Row, Deserialize)]
struct MarkRow {
    partition: u32,
    mark: u64,
}

#[derive(Row, Deserialize)]
struct EpochRow {
    partition: u32,
    epoch: u64,
}

#[derive(Row, Deserialize)]
struct LedgerTableRow {
    generation: u32,
    entry: i8,
    events: u64,
    duplicates: u64,
    dead_letters: u64,
    holes: u64,
    fold: u64,
    deadline: i64,
    at: i64,
}

#[derive(Row, Deserialize)]
struct DeadLetterRow {
    partition: u32,
    offset: u64,
    at: i64,
    reason: String,
    #[serde(with = "serde_bytes")]
    payload: Vec<u8>,
}

#[derive(Row, Deserialize)]
struct EventRow {
    partition: u32,
    offset: u64,
    event_id: String,
    event_type: String,
    at: i64,
    product_id: String,
    user_id: String,
    order_amount: Option<i64>,
    properties: Vec<(String, String)>,
}

impl EventRow {
    const COLUMNS: &str = "partition, offset, event_id, toString(event_type) AS event_type, toUnixTimestamp64Milli(timestamp) AS at, product_id, user_id, order_amount, CAST(properties, 'Map(String, String)') AS properties";
}

impl ClickHouse {
    /// The history of the first generation, by these rules; what is missing is made.
    pub async fn open(server: &Server, topic: &str, rules: Rules) -> Result<Self, Error> {
        Archive::open(server, topic).await?.history(Arc::new(rules)).await
    }

    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Lets everything else that the servers are asked go before what this history is asked, or not.
    pub fn gently(&self, gentle: bool) {
        self.nodes.gently(gentle);
    }

    async fn execute(&self, statement: &str) -> Result<(), Error> {
        self.nodes.primary(async |node| node.execute(statement).await).await
    }

    async fn select<R>(&self, tables: &[String], query: &str) -> Result<Vec<R>, Error>
    where
        R: for<'a> Row<Value<'a> = R> + DeserializeOwned + Send + 'static,
    {
        self.nodes.select(&self.tables, tables, query).await
    }

    /// Shows the cells of a query, as they come.
    async fn visit_rows(&self, table: &str, query: &str, visit: VisitCell<'_>) -> Result<(), Error> {
        let rows = async |node: &Node| {
            node.catch_up(&self.tables, &[table.to_owned()]).await?;
            let reading = async {
                let mut rows = node.reading(query).fetch::<EpochCellRow<'_>>()?;
                while let Some(row) = rows.next().await? {
                    visit(row.bucket_ms(), row.values(), &row.cell());
                }
                Ok(())
            };
            node.within(QUERY_DEADLINE, reading).await
        };
        self.nodes.primary(rows).await
    }

    async fn select_from_ledger<R>(&self, query: &str) -> Result<Vec<R>, Error>
    where
        R: for<'a> Row<Value<'a> = R> + DeserializeOwned + Send + 'static,
    {
        self.select(&["ledger".to_owned()], query).await
    }

    /// Refuses a server that lacks cells of epochs below the marks. The server's own ledger says what those cells add up to,
    /// and that ledger counts only if it lists every epoch from where counting began up to the marks: a replica that lags
    /// lacks ledger rows and cells alike, so that its sums agree with each other.
    /// Of damaged epochs, `damage` says more.
    async fn must_be_whole(&self, node: &Node, marks: &Marks, damage: &Damage) -> Result<(), Error> {
        let mut known = node.seen_whole();
        if self.nodes.len() == 1 || marks.iter().all(|(partition, mark)| known.get(partition).is_some_and(|known| known >= mark)) {
            return Ok(());
        }
        let begun: Vec<MarkRow> = node.select(&sql::begun(self.rules.generation)).await?;
        for row in begun {
            let mark = known.entry(Partition(row.partition)).or_insert(Mark::START);
            *mark = (*mark).max(Mark::at(Epoch(row.mark)));
        }
        let epochs_between = |(partition, mark): (&Partition, &Mark)| {
            let from = known.get(partition).map_or(0, |known| known.oldest_open().0);
            mark.oldest_open().0.saturating_sub(from)
        };
        let is_between = |of: &&Damaged| {
            let is_below = |marks: &Marks| marks.get(&of.partition).is_some_and(|mark| mark.is_closed(of.epoch));
            is_below(marks) && !is_below(&known)
        };
        let except: Vec<&Damaged> = damage.damaged.iter().filter(is_between).collect();
        let epochs = marks.iter().map(epochs_between).sum::<u64>() - except.len() as u64;
        let closed: Vec<ClosedRow> = node.select(&sql::closed_between(self.rules.generation, &known, marks, &except)).await?;
        let held: Vec<SumRow> = node.select(&sql::held_between(&self.rules, &known, marks, &except)).await?;
        let tables = self.rules.views.len() * Level::ALL.len();
        let is_whole = |closed: &ClosedRow| {
            let cells = SumRow { n: closed.n, fold: closed.fold };
            closed.epochs == epochs && held.len() == tables && held.iter().all(|sums| *sums == cells)
        };
        if !closed.first().is_some_and(is_whole) {
            return Err(node.unavailable("the server lacks epochs that are closed: it lags behind, or has lost rows".into()));
        }
        node.is_whole_below(marks);
        Ok(())
    }

    async fn answer_by(
        &self,
        node: &Node,
        view: ViewId,
        question: &Question,
        groups: &Groups,
        closed: &sql::Closed<'_>,
    ) -> Result<Rows, Error> {
        let extent = || sql::extent(&self.rules, view, closed.marks);
        let Some(starts) = calendar_starts(node, question, extent).await? else { return Ok(Rows::new()) };
        let Some(select) = sql::answer(&self.rules, view, question, groups, closed, &starts) else { return Ok(Rows::new()) };
        Ok(match select {
            Select::Buckets(query) if question.only_counts => rows_of::<CountRow>(node.answer(node.reading(&query)).await?),
            Select::Buckets(query) => rows_of::<CellRow>(node.answer(node.reading(&query)).await?),
            Select::Groups(query) => {
                rows_of(node.answer::<CellsRow>(node.reading(&query)).await?.into_iter().flat_map(Vec::<CellRow>::from))
            }
            Select::Counts { text, first_secs, width_secs } => {
                rows_of(node.answer::<CountsRow>(node.reading(&text)).await?.into_iter().flat_map(|row| row.rows(first_secs, width_secs)))
            }
        })
    }
}

/// A question to raw events, which `events` says for a range of time.
async fn answer_by_raw(node: &Node, question: &Question, events: impl Fn(TimeRange) -> String) -> Result<Rows, Error> {
    let extent = || sql::extent_raw(&events(TimeRange::default()));
    let Some(starts) = calendar_starts(node, question, extent).await? else { return Ok(Rows::new()) };
    let query = node.client().query(&sql::answer_raw(question, &events(question.range), &starts));
    Ok(rows_of(node.answer::<CellRow>(query).await?))
}

/// By the server's clock.
async fn now_ms(node: &Node) -> Result<i64, Error> {
    let rows: Vec<ClockRow> = node.select("SELECT toUnixTimestamp64Milli(now64(3)) AS now_ms").await?;
    rows.first().map(|row| row.now_ms).ok_or_else(|| Error::Nonsense("the server tells no time".into()))
}

async fn extent_of(node: &Node, query: &str) -> Result<Option<(i64, i64)>, Error> {
    let rows: Vec<ExtentRow> = node.select(query).await?;
    Ok(rows.first().filter(|row| row.n > 0).map(|row| (row.lo, row.hi)))
}

/// The calendar buckets that the answer can fall into.
async fn calendar_starts(node: &Node, question: &Question, extent: impl FnOnce() -> String) -> Result<Option<Vec<i64>>, Error> {
    if !question.buckets.is_calendar() {
        return Ok(Some(Vec::new()));
    }
    let (from, to) = match (question.range.from_ms, question.range.to_ms) {
        (Some(from), Some(to)) => (from, to),
        (from, to) => {
            let Some((first, last)) = extent_of(node, &extent()).await? else { return Ok(None) };
            (from.unwrap_or(first), to.unwrap_or(last + Level::FiveMinutes.ms()))
        }
    };
    // An open range that begins after all that is closed, or ends before it, has no buckets here.
    if from >= to {
        return Ok(None);
    }
    question.buckets.starts(from, to).map(Some).map_err(|error| Error::Nonsense(error.to_string()))
}

/// The number in `Code: 60. DB::Exception: …`.
fn exception_code(text: &str) -> Option<u32> {
    let rest = &text[text.find("Code: ")? + "Code: ".len()..];
    rest.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

impl ClickHouse {
    fn events(&self) -> String {
        schema::events_table(&self.rules)
    }

    fn dead_letters_table(&self) -> String {
        schema::dead_letters_table(&self.rules)
    }

    /// All roll-ups.
    fn rollups(&self) -> impl Iterator<Item = String> {
        schema::rollup_tables(&self.rules, self.rules.views.ids())
    }

    /// Where counting began, of partitions of which the topic no longer had its first records then.
    pub async fn begun(&self) -> Result<Marks, Error> {
        self.marks_of("min(epoch)", "entry = 'begun'", &sql::own(&self.rules)).await
    }

    /// What the closed epochs come to.
    pub async fn closed(&self) -> Result<Tally, Error> {
        let generation = self.rules.generation;
        let rows: Vec<TallyRow> = self
            .select_from_ledger(&format!(
                "SELECT sum(e) AS events, sum(d) AS duplicates, sum(l) AS dead_letters, sum(h) AS holes FROM (SELECT argMax(events, at) AS e, argMax(duplicates, at) AS d, argMax(dead_letters, at) AS l, argMax(holes, at) AS h FROM ledger WHERE generation = {generation} AND entry = 'closed' GROUP BY partition, epoch)"
            ))
            .await?;
        let of =
            |row: &TallyRow| Tally { events: row.events, duplicates: row.duplicates, dead_letters: row.dead_letters, holes: row.holes };
        Ok(rows.first().map(of).unwrap_or_default())
    }

    /// The bytes that this generation's tables take, without those that it shares with the one it widens.
    pub async fn bytes_on_disk(&self) -> Result<u64, Error> {
        let raw = if self.rules.widens.is_none() { vec![self.events(), self.dead_letters_table()] } else { vec![] };
        let own: Vec<String> = schema::rollup_tables(&self.rules, self.rules.kept()).chain(raw).collect();
        Ok(self.tables_on_disk().await?.iter().filter(|of| own.contains(&of.name)).map(|of| of.bytes).sum())
    }

    /// A mark of each partition that has such entries of these generations in the ledger.
    async fn marks_of(&self, mark: &str, entries: &str, generations: &str) -> Result<Marks, Error> {
        let query = format!("SELECT partition, {mark} AS mark FROM ledger WHERE {generations} AND {entries} GROUP BY partition");
        let rows: Vec<MarkRow> = self.select_from_ledger(&query).await?;
        Ok(rows.into_iter().map(|row| (Partition(row.partition), Mark::at(Epoch(row.mark)))).collect())
    }
}

/// Where raw rows are.
struct RawTables {
    events: String,
    dead_letters: String,
}

/// Raw rows: in their own tables, or staged.
impl ClickHouse {
    fn raw_tables(&self) -> RawTables {
        RawTables { events: self.events(), dead_letters: self.dead_letters_table() }
    }

    fn staging_tables(&self) -> RawTables {
        let rules = &self.rules;
        RawTables { events: schema::staged_events_table(rules), dead_letters: schema::staged_dead_letters_table(rules) }
    }

    /// What every insert of rows asks for: once however often it is sent, in all its partitions, and acknowledged when done.
    fn insert_settings<'a>(&self, token: &'a str) -> impl Iterator<Item = (&'static str, &'a str)> {
        let everywhere = [
            ("max_execution_time", INSERT_RUNS_SECS),
            ("insert_deduplication_token", token),
            ("insert_deduplicate", "1"),
            ("deduplicate_blocks_in_dependent_materialized_views", "1"),
            ("max_partitions_per_insert_block", "0"),
            ("wait_end_of_query", "1"),
        ];
        // What is acknowledged is on most servers.
        let replicated = (self.tables != Tables::Own).then_some(("insert_quorum", "auto"));
        everywhere.into_iter().chain(replicated)
    }

    async fn insert_into(&self, tables: &RawTables, block: &RowBlock, token: &str) -> Result<(), Error> {
        let (table, columns) = match block.table {
            Table::Events => (&tables.events, schema::EVENT_COLUMNS),
            Table::DeadLetters => (&tables.dead_letters, schema::DEAD_LETTER_COLUMNS),
        };
        let insert = async |node: &Node| {
            let sending = async {
                let mut insert = node
                    .client()
                    .insert_formatted_with(format!("INSERT INTO {table} ({columns}) FORMAT RowBinary"))
                    .with_setting("async_insert", "0")
                    // A view's rows are grouped already.
                    .with_setting("optimize_on_insert", "0");
                for (name, value) in self.insert_settings(token) {
                    insert = insert.with_setting(name, value);
                }
                for piece in &block.pieces {
                    insert.send(piece.clone()).await?;
                }
                insert.end().await
            };
            node.within(INSERT_DEADLINE, sending).await
        };
        self.nodes.primary(insert).await
    }

    /// An `INSERT … SELECT` from a table of history.
    async fn insert_from(&self, statement: impl Fn(&str) -> String, source: &String, token: &str) -> Result<(), Error> {
        let insert = async |node: &Node| {
            node.catch_up(&self.tables, std::slice::from_ref(source)).await?;
            let statement = statement(&sql::refuse_after(now_ms(node).await? + INSERT_ARRIVES_WITHIN_MS));
            let insert =
                self.insert_settings(token).fold(node.reading(&statement), |insert, (name, value)| insert.with_setting(name, value));
            node.within(INSERT_DEADLINE, insert.execute()).await
        };
        self.nodes.primary(insert).await
    }

    async fn found_in(&self, tables: &RawTables, rollups: Vec<String>, partition: Partition, range: OffsetRange) -> Result<Found, Error> {
        let RawTables { events, dead_letters } = tables;
        let read: Vec<String> = [events.clone(), dead_letters.clone()].into_iter().chain(rollups).collect();
        let place = sql::in_range(partition, range.from().get(), range.to().get());
        let events = format!(
            "SELECT toYYYYMM(timestamp) AS part, count() AS n, sum(intHash64(offset)) AS fold FROM {events} WHERE {place} GROUP BY part"
        );
        let dead = format!("SELECT toUInt32(0) AS part, count() AS n, sum(intHash64(offset)) AS fold FROM {dead_letters} WHERE {place}");
        let rows: Vec<FoundRow> = self.select(&read, &format!("{events} UNION ALL {dead}")).await?;
        let part = |part| if part == 0 { PartKey::DeadLetters } else { PartKey::Events(Month(part)) };
        Ok(rows.into_iter().filter(|row| row.n > 0).map(|row| (part(row.part), RowCount { rows: row.n, fold: row.fold })).collect())
    }

    async fn raw_in(&self, tables: &RawTables, partition: Partition, range: OffsetRange) -> Result<Vec<RawRecord>, Error> {
        let RawTables { events, dead_letters } = tables;
        let place = sql::in_range(partition, range.from().get(), range.to().get());
        let event_rows = format!("SELECT {} FROM {events} WHERE {place} ORDER BY offset", EventRow::COLUMNS);
        let dead_rows = format!(
            "SELECT partition, offset, toUnixTimestamp64Milli(record_timestamp) AS at, toString(reason) AS reason, payload FROM {dead_letters} WHERE {place} ORDER BY offset"
        );
        let tables = [events.clone(), dead_letters.clone()];
        let (events, dead) = self.nodes.select_two::<EventRow, DeadLetterRow>(&self.tables, &tables, &event_rows, Some(&dead_rows)).await?;
        let mut records: Vec<RawRecord> = events.into_iter().map(event_record).collect();
        for row in dead {
            records.push(dead_record(row)?);
        }
        records.sort_by_key(|record| record.offset);
        Ok(records)
    }
}

#[async_trait]
impl History for ClickHouse {
    async fn insert(&self, block: &RowBlock, token: &str) -> Result<(), Error> {
        self.insert_into(&self.raw_tables(), block, token).await
    }

    async fn found(&self, partition: Partition, range: OffsetRange) -> Result<Found, Error> {
        // What is found missing is written again: it must not be there, only not here yet.
        self.found_in(&self.raw_tables(), self.rollups().collect(), partition, range).await
    }

    async fn stage(&self, block: &RowBlock, token: &str) -> Result<(), Error> {
        self.insert_into(&self.staging_tables(), block, token).await
    }

    async fn staged(&self, partition: Partition, range: OffsetRange) -> Result<Found, Error> {
        self.found_in(&self.staging_tables(), Vec::new(), partition, range).await
    }

    async fn staged_raw(&self, partition: Partition, range: OffsetRange) -> Result<Vec<RawRecord>, Error> {
        self.raw_in(&self.staging_tables(), partition, range).await
    }

    async fn insert_staged(&self, partition: Partition, range: OffsetRange, token: &str) -> Result<(), Error> {
        let (from, to) = (self.staging_tables(), self.raw_tables());
        let place = sql::in_range(partition, range.from().get(), range.to().get());
        let columns = [schema::EVENT_COLUMNS, schema::DEAD_LETTER_COLUMNS];
        for ((from, to), columns) in [(&from.events, &to.events), (&from.dead_letters, &to.dead_letters)].into_iter().zip(columns) {
            let statement = |in_time: &str| {
                format!("INSERT INTO {to} ({columns}) SELECT {columns} FROM {from} WHERE {place} AND {in_time} ORDER BY offset")
            };
            self.insert_from(statement, from, token).await?;
        }
        Ok(())
    }

    async fn unstage(&self, partition: Partition, range: OffsetRange) -> Result<(), Error> {
        let place = sql::in_range(partition, range.from().get(), range.to().get());
        let RawTables { events, dead_letters } = self.staging_tables();
        for table in [events, dead_letters] {
            self.execute(&format!("DELETE FROM {table} WHERE {place}")).await?;
        }
        Ok(())
    }

    async fn visit_cells(&self, of: EpochCells, visit: VisitCell<'_>) -> Result<(), Error> {
        self.visit_rows(&schema::rollup_table(&self.rules, of.view, of.level), &sql::cells(&self.rules, of), visit).await
    }

    async fn visit_counted_cells(&self, of: EpochCells, visit: VisitCell<'_>) -> Result<(), Error> {
        self.visit_rows(&schema::events_table(&self.rules), &sql::counted_cells(&self.rules, of), visit).await
    }

    async fn wipe(&self, partition: Partition, epoch: Epoch, what: Wiped, deadline_secs: u32) -> Result<(), Error> {
        // One end for all statements: none may outlive what the repair has announced, even if it arrives late. By the engine's own
        // clock, for another one may be ahead of it or behind.
        let until = Instant::now() + Duration::from_secs(deadline_secs.into());
        let now_ms_there = self.nodes.primary(now_ms).await?;
        let until_ms = now_ms_there + i64::try_from(until.saturating_duration_since(Instant::now()).as_millis()).unwrap_or_default();
        for statement in sql::wipe(&self.rules, partition, epoch, what, until_ms) {
            let left = Duration::from_secs(until.saturating_duration_since(Instant::now()).as_secs());
            let delete = async |node: &Node| {
                if left.is_zero() {
                    return Err(node.unavailable("the time for deleting an epoch was over".into()));
                }
                let delete = node.client().query(&statement).with_setting("max_execution_time", left.as_secs().to_string());
                // Here and now; the others follow, and answer nothing before they have.
                let delete = delete.with_setting("lightweight_deletes_sync", "1").with_setting("wait_end_of_query", "1");
                // The server that takes the statement looks at its clock, once for all replicas.
                let delete = delete.with_setting("mutations_execute_nondeterministic_on_initiator", "1");
                node.within(left, delete.execute()).await?;
                // What came late has deleted nothing, and not said so.
                if now_ms(node).await? >= until_ms {
                    return Err(node.unavailable("the time for deleting an epoch was over".into()));
                }
                Ok(())
            };
            self.nodes.primary(delete).await?;
        }
        Ok(())
    }

    async fn fill(&self, view: ViewId, partition: Partition, epoch: Epoch, token: &str) -> Result<(), Error> {
        let place = sql::in_epoch(self.rules.epoch_bits, partition, epoch);
        let statement = |in_time: &str| schema::fill(&self.rules, view, &format!("{place} AND {in_time}"));
        self.insert_from(statement, &self.events(), token).await
    }

    async fn answer(&self, view: ViewId, question: &Question, groups: &Groups, marks: &Marks) -> Result<Rows, Error> {
        let nothing_closed = marks.values().all(|mark| mark.oldest_open() == Epoch(0));
        if nothing_closed {
            return Ok(Rows::new());
        }
        let damage = self.known_damage().await?;
        let is_closed = |of: &&Damaged| marks.get(&of.partition).is_some_and(|mark| mark.is_closed(of.epoch));
        damage.must_be_sound(question.range, |of| is_closed(&of))?;
        // What has been altered may stand in any window by now.
        let closed = sql::Closed { marks, except: damage.damaged.iter().filter(is_closed).collect() };
        let sound: Vec<&Damaged> = closed.except.iter().copied().filter(|of| of.is_raw_sound()).collect();
        // The largest groups of the rest may be others than those of all.
        let groups = if closed.except.is_empty() { groups } else { &Groups::All };
        let mut trouble = Error::Nonsense("no server of ClickHouse is named".into());
        for node in self.nodes.in_turn() {
            let answer = async {
                self.must_be_whole(node, marks, &damage).await?;
                let mut rows = self.answer_by(node, view, question, groups, &closed).await?;
                if !sound.is_empty() {
                    node.catch_up(&self.tables, &[self.events()]).await?;
                    let of = |range| sql::events_of(&self.rules, range, &sound);
                    merge_rows(&mut rows, answer_by_raw(node, question, of).await?);
                }
                Ok(rows)
            };
            match answer.await {
                Err(error @ Error::Unavailable { .. }) => trouble = error,
                answer => return answer,
            }
        }
        Err(trouble)
    }

    async fn marks(&self) -> Result<Marks, Error> {
        self.marks_of("max(if(entry = 'closed', epoch + 1, epoch))", "entry IN ('closed', 'begun')", &sql::own(&self.rules)).await
    }

    async fn closed_by_any(&self) -> Result<Marks, Error> {
        self.marks_of("max(epoch + 1)", "entry = 'closed'", &sql::family(&self.rules)).await
    }

    async fn repairing(&self) -> Result<Vec<(Partition, Epoch)>, Error> {
        let family = sql::family(&self.rules);
        let rows: Vec<EpochRow> = self
            .select_from_ledger(&format!(
                "SELECT partition, epoch FROM ledger WHERE {family} GROUP BY partition, epoch HAVING countIf(entry = 'repair') > 0 AND countIf(entry = 'closed') = 0"
            ))
            .await?;
        Ok(rows.into_iter().map(|row| (Partition(row.partition), Epoch(row.epoch))).collect())
    }

    async fn tallies(&self, known: &Marks, marks: &Marks) -> Result<Tallies, Error> {
        let begun = self.begun().await?;
        let rows: Vec<PartitionTallyRow> = self.select_from_ledger(&sql::tallies_between(self.rules.generation, known, marks)).await?;
        let closed = rows.into_iter().map(|row| (Partition(row.partition), row.tally()));
        Ok(Tallies { begun, closed: closed.collect() })
    }

    async fn answer_raw(&self, question: &Question, epochs: Epochs, marks: &Marks, cut: &Cut) -> Result<Rows, Error> {
        let damage = self.known_damage().await?;
        let is_open = |of: &Damaged| !marks.get(&of.partition).is_some_and(|mark| mark.is_closed(of.epoch));
        damage.must_be_sound(question.range, |of| of.begins_below(self.rules.epoch_bits, cut) && (epochs == Epochs::All || is_open(of)))?;
        let except: Vec<&Damaged> = damage.damaged.iter().filter(|of| !of.is_raw_sound()).collect();
        let (events, mut trouble) = (self.events(), Error::Nonsense("no server of ClickHouse is named".into()));
        for (at, node) in self.nodes.primary_first() {
            let answer = async {
                node.catch_up(&self.tables, std::slice::from_ref(&events)).await?;
                self.must_be_whole(node, marks, &damage).await?;
                answer_by_raw(node, question, |range| sql::events_below(&self.rules, range, (epochs, marks, cut), &except)).await
            };
            match answer.await {
                Err(error @ Error::Unavailable { .. }) => {
                    self.nodes.move_on(at);
                    trouble = error;
                }
                answer => return answer,
            }
        }
        Err(trouble)
    }

    async fn record(&self, row: &LedgerRow, until_ms: Option<i64>) -> Result<(), Error> {
        let (entry, deadline_ms) = match row.entry {
            Entry::Closed => ("closed", 0),
            Entry::Repair { deadline_ms } => ("repair", deadline_ms),
            Entry::Begun => ("begun", 0),
        };
        let LedgerRow { generation, partition, epoch, tally, fold, at_ms, .. } = row;
        let Tally { events, duplicates, dead_letters, holes } = tally;
        let in_time = sql::recorded_in_time(*at_ms, until_ms);
        self.execute(&format!(
            "INSERT INTO ledger (generation, partition, epoch, entry, events, duplicates, dead_letters, holes, fold, deadline, at) \
             SELECT {generation}, {partition}, {epoch}, '{entry}', {events}, {duplicates}, {dead_letters}, {holes}, {fold}, \
             fromUnixTimestamp64Milli(toInt64({deadline_ms}), 'UTC'), fromUnixTimestamp64Milli(toInt64({at_ms}), 'UTC'){in_time}"
        ))
        .await
    }

    async fn ledger(&self, partition: Partition, epoch: Epoch) -> Result<Vec<LedgerRow>, Error> {
        let family = sql::family(&self.rules);
        let query = format!(
            "SELECT generation, toInt8(entry) AS entry, events, duplicates, dead_letters, holes, fold, toUnixTimestamp64Milli(deadline) AS deadline, toUnixTimestamp64Milli(at) AS at FROM ledger WHERE {family} AND partition = {partition} AND epoch = {epoch} ORDER BY at"
        );
        let rows: Vec<LedgerTableRow> = self.select_from_ledger(&query).await?;
        let entry = |row: &LedgerTableRow| match row.entry {
            1 => Entry::Closed,
            2 => Entry::Repair { deadline_ms: row.deadline },
            _ => Entry::Begun,
        };
        let of = |row: LedgerTableRow| LedgerRow {
            generation: Generation(row.generation),
            partition,
            epoch,
            entry: entry(&row),
            tally: Tally { events: row.events, duplicates: row.duplicates, dead_letters: row.dead_letters, holes: row.holes },
            fold: row.fold,
            at_ms: row.at,
        };
        Ok(rows.into_iter().map(of).collect())
    }

    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetter>, Error> {
        let table = self.dead_letters_table();
        let mut place = String::from("1");
        if let Some(partition) = query.partition {
            place += &format!(" AND partition = {partition}");
        }
        if let Some(reason) = &query.reason {
            place += &format!(" AND reason = {}", sql::literal(reason));
        }
        if let Some((at, partition, offset)) = query.before {
            place += &format!(" AND (toUnixTimestamp64Milli(record_timestamp), partition, offset) < ({at}, {partition}, {offset})");
        }
        let text = format!(
            "SELECT partition, offset, toUnixTimestamp64Milli(record_timestamp) AS at, toString(reason) AS reason, payload FROM {table} WHERE {place} ORDER BY at DESC, partition DESC, offset DESC LIMIT {}",
            query.limit
        );
        let rows: Vec<DeadLetterRow> = self.select(std::slice::from_ref(&table), &text).await?;
        let letter = |row: DeadLetterRow| DeadLetter {
            partition: Partition(row.partition),
            offset: Offset::new(row.offset),
            record_timestamp_ms: row.at,
            reason: row.reason,
            payload: row.payload,
        };
        Ok(rows.into_iter().map(letter).collect())
    }

    async fn contents(&self, partition: Partition, range: OffsetRange, bits: u8) -> Result<Contents, Error> {
        let tables = [self.events(), self.dead_letters_table()];
        let place = sql::in_range(partition, range.from().get(), range.to().get());
        let rows: Vec<ContentsRow> = self.select(&tables, &sql::contents(&self.rules, &place, bits)).await?;
        Ok(rows.into_iter().map(|row| (row.run, RowCount { rows: row.n, fold: row.fold })).collect())
    }

    async fn sums(&self, partition: Partition, epochs: Range<Epoch>) -> Result<Vec<EpochSums>, Error> {
        self.select_sums(partition, epochs).await
    }

    async fn staged_content(&self, partition: Partition, range: OffsetRange) -> Result<u64, Error> {
        self.select_content(&self.staging_tables(), partition, range).await
    }

    async fn note_content(&self, partition: Partition, epoch: Epoch, is_closed: bool) -> Result<(), Error> {
        self.insert_noted(partition, epoch, is_closed).await
    }

    fn is_heard(&self) -> bool {
        self.heard.lock().as_ref().is_some_and(|(at, _)| at.elapsed() < SILENT_AFTER)
    }

    fn revision(&self) -> u64 {
        self.heard.lock().as_ref().map_or(0, |(_, damage)| damage.revision())
    }

    async fn damage(&self) -> Result<Arc<Damage>, Error> {
        self.known_damage().await
    }

    async fn damage_now(&self) -> Result<Arc<Damage>, Error> {
        self.look_for_damage().await
    }

    async fn record_change(&self, change: &Change, until_ms: Option<i64>) -> Result<(), Error> {
        self.insert_change(change, until_ms).await
    }

    async fn checked(&self, partition: Partition) -> Result<Option<Epoch>, Error> {
        self.select_checked(partition).await
    }

    async fn record_checked(&self, partition: Partition, up_to: Epoch) -> Result<(), Error> {
        self.insert_checked(partition, up_to).await
    }

    async fn digest(&self, view: ViewId, range: TimeRange, marks: &Marks) -> Result<Digest, Error> {
        let table = schema::rollup_table(&self.rules, view, Level::FiveMinutes);
        let rows: Vec<DigestRow> = self.select(&[table], &sql::digest(&self.rules, view, range, marks)).await?;
        Ok(rows.first().map(|&DigestRow { cells, events, hash }| Digest { cells, events, hash }).unwrap_or_default())
    }

    async fn raw(&self, partition: Partition, range: OffsetRange) -> Result<Vec<RawRecord>, Error> {
        self.raw_in(&self.raw_tables(), partition, range).await
    }

    async fn origins(&self, of: Counted<'_>, behind: &Places, limit: u32) -> Result<Vec<Origin>, Error> {
        self.select_origins(of, behind, limit).await
    }

    async fn reached(&self, at_ms: i64, cut: &Cut) -> Result<Places, Error> {
        self.select_reached(at_ms, cut).await
    }

    async fn events_of(&self, of: Counted<'_>, page: Page) -> Result<Vec<Placed>, Error> {
        self.select_events(of, page).await
    }

    async fn uncounted(&self, ranges: &[(Partition, OffsetRange)]) -> Result<Vec<Uncounted>, Error> {
        self.select_uncounted(ranges).await
    }
}

fn event_record(row: EventRow) -> RawRecord {
    RawRecord { offset: Offset::new(row.offset), kind: RawKind::Event(event_of(row)) }
}

fn event_of(row: EventRow) -> RawEvent {
    RawEvent {
        event_id: row.event_id,
        event_type: row.event_type,
        timestamp_ms: row.at,
        product_id: row.product_id,
        user_id: row.user_id,
        order_amount: row.order_amount.map(Amount::from_ten_thousandths),
        properties: row.properties,
    }
}

fn dead_record(row: DeadLetterRow) -> Result<RawRecord, Error> {
    let payload = RawPayload { payload: row.payload, record_timestamp_ms: row.at };
    let kind = match Reject::of_reason(&row.reason) {
        Some(reject) => RawKind::DeadLetter(reject, payload),
        None if row.reason == DUPLICATE => RawKind::Duplicate(payload),
        None => return Err(Error::Nonsense(format!("a dead letter for the reason `{}`", row.reason))),
    };
    Ok(RawRecord { offset: Offset::new(row.offset), kind })
}

/// For `tests/fuzz`.
#[cfg(fuzzing)]
pub mod fuzzing {
    pub fn read(text: &str) {
        let _ = super::exception_code(text);
        super::archive::fuzz(text);
    }
}
