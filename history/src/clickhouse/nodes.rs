//! The servers that hold one history: which is asked, and which may answer.
//!
//! Writing, and what is decided by what has been written, goes to one server at a time; when it does not answer, to the
//! next from then on. Questions about closed epochs go to all in turn, but to none before it has been seen to have all
//! that the ledger says is closed: a replica that lags behind would answer with less, and look right. That is seen by
//! what it holds, whatever keeps the servers equal.

use super::exception_code;
use crate::{Error, MAX_ANSWER_BYTES, MAX_ANSWER_ROWS, Marks};
use clickhouse::query::Query;
use clickhouse::{Client, Row};
use hyper_util::client::legacy::Client as HyperClient;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use serde::de::DeserializeOwned;
use std::future::Future;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;
use tidemark_https::admission::{Busy, Gate, Memory, Queue};

/// An answer for people must come sooner than they give up; what takes longer is refused by the engine itself.
pub(super) const QUERY_DEADLINE: Duration = Duration::from_secs(30);

/// The engine's codes for a result beyond its bounds, and for a question that would read too much.
const TOO_MANY_ROWS_OR_BYTES: u32 = 396;
const TOO_MANY_ROWS: u32 = 158;

/// What a byte of an answer's rows, as the engine sends them, comes to in memory.
const BYTES_PER_BYTE: usize = 6;

/// After so many bytes more, memory is taken for them.
const PORTION_BYTES: usize = 64 << 10;

/// What is asked goes before what is only being filled. Of a statement behind, the engine lets each block wait while one that
/// goes first runs, but no longer than so many milliseconds, for somebody always asks; where it may (`CAP_SYS_NICE`), its
/// threads are the nicest to others, too.
const FIRST: [(&str, &str); 1] = [("priority", "1")];
const BEHIND: [(&str, &str); 4] = [
    ("priority", "2"),
    ("low_priority_query_wait_time_ms", "20"),
    ("os_threads_nice_value_query", "19"),
    ("os_threads_nice_value_materialized_view", "19"),
];

/// Where the servers are, and the database that holds this topic's history.
#[derive(Clone)]
pub struct Server {
    /// `http://` or `https://`: one, or all that hold the same history.
    pub urls: Vec<String>,
    pub database: String,
    pub user: Option<String>,
    pub password: Option<String>,
    pub tables: Tables,
    /// Requests to one server at a time; more wait.
    pub connections: usize,
    /// For the rows of answers while they are read.
    pub answer_memory: Memory,
    /// A question that would read more is refused. 0: there is no bound.
    pub max_rows_read: u64,
}

/// Without the password.
impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("urls", &self.urls)
            .field("database", &self.database)
            .field("tables", &self.tables)
            .finish_non_exhaustive()
    }
}

impl Server {
    /// One server with tables of its own, no user and no password.
    pub fn at(url: impl Into<String>, database: impl Into<String>) -> Self {
        let answer_memory = Memory::new(1 << 30, Duration::from_secs(2));
        let (urls, database) = (vec![url.into()], database.into());
        Self { urls, database, user: None, password: None, tables: Tables::Own, connections: 16, answer_memory, max_rows_read: 0 }
    }
}

/// How the servers keep their tables.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Tables {
    /// Each its own, or whatever the server makes of a plain engine.
    #[default]
    Own,
    /// `Replicated…MergeTree`, by way of Keeper.
    Replicated {
        /// Tables are made `ON CLUSTER` this one; if there is none, on the server asked (a replicated database makes them everywhere).
        cluster: Option<String>,
        /// Where in Keeper, with macros such as `{shard}`.
        path: String,
    },
}

/// One of the servers.
pub(super) struct Node {
    client: Client,
    /// Without the user and the password that it may have had: they stay out of messages and metrics.
    url: String,
    requests: Gate,
    answer_memory: Memory,
    max_rows_read: u64,
    /// Below these it has been seen to have everything.
    whole: Mutex<Marks>,
    gentle: AtomicBool,
}

impl std::fmt::Debug for Node {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Node").field("url", &self.url).finish_non_exhaustive()
    }
}

impl Node {
    fn new(server: &Server, url: &str, database: Option<&str>) -> Self {
        let http = HyperClient::builder(TokioExecutor::new()).pool_idle_timeout(Duration::from_secs(2)).build(tidemark_https::connector());
        // An address may name the user and the password of its server.
        let (scheme, rest) = url.split_once("://").unwrap_or(("http", url));
        let (named, place) = rest.rsplit_once('@').map_or((None, rest), |(named, place)| (Some(named), place));
        let (user, password) = match named.map(|named| named.split_once(':').unwrap_or((named, ""))) {
            Some((user, password)) => (Some(user), Some(password)),
            None => (server.user.as_deref(), server.password.as_deref()),
        };
        let mut client =
            Client::with_http_client(http).with_url(format!("{scheme}://{place}")).with_compression(clickhouse::Compression::None);
        if let Some(user) = user {
            client = client.with_user(user);
        }
        if let Some(password) = password {
            client = client.with_password(password);
        }
        if let Some(database) = database {
            client = client.with_database(database);
        }
        Self {
            client,
            url: format!("{scheme}://{place}"),
            requests: Gate::new(server.connections, Queue::UNBOUNDED),
            answer_memory: server.answer_memory.clone(),
            max_rows_read: server.max_rows_read,
            whole: Mutex::default(),
            gentle: AtomicBool::new(false),
        }
    }

    /// Statements by this client say what goes before them.
    pub(super) fn client(&self) -> Client {
        let settings: &[(&str, &str)] = if self.gentle.load(Ordering::Relaxed) { &BEHIND } else { &FIRST };
        settings.iter().fold(self.client.clone(), |client, &(name, value)| client.with_setting(name, value))
    }

    pub(super) async fn execute(&self, statement: &str) -> Result<(), Error> {
        self.within(QUERY_DEADLINE, self.client().query(statement).with_setting("wait_end_of_query", "1").execute()).await
    }

    pub(super) async fn select<R>(&self, query: &str) -> Result<Vec<R>, Error>
    where
        R: for<'a> Row<Value<'a> = R> + DeserializeOwned + Send + 'static,
    {
        self.within(QUERY_DEADLINE, self.reading(query).fetch_all::<R>()).await
    }

    /// [`Node::select`] of an answer for people: what it may read, what it may come to, and the memory of all such answers are
    /// bounded. The server gives a question up if the client that asked it closes the connection.
    pub(super) async fn answer<R>(&self, query: Query) -> Result<Vec<R>, Error>
    where
        R: for<'a> Row<Value<'a> = R> + DeserializeOwned + Send + 'static,
    {
        let bounded = query
            .with_setting("max_rows_to_read", self.max_rows_read.to_string())
            .with_setting("read_overflow_mode", "throw")
            .with_setting("max_result_rows", MAX_ANSWER_ROWS.to_string())
            .with_setting("max_result_bytes", MAX_ANSWER_BYTES.to_string())
            .with_setting("result_overflow_mode", "throw")
            .with_setting("cancel_http_readonly_queries_on_client_close", "1");
        let mut refused = None;
        let reading = async {
            let (mut cursor, mut rows) = (bounded.fetch::<R>()?, Vec::new());
            let (mut counted, mut memory) = (0, Vec::new());
            while let Some(row) = cursor.next().await? {
                rows.push(row);
                let bytes = usize::try_from(cursor.decoded_bytes()).unwrap_or(usize::MAX);
                if bytes - counted < PORTION_BYTES {
                    continue;
                }
                if bytes * BYTES_PER_BYTE > self.answer_memory.limit() {
                    refused = Some(Error::TooLarge);
                    break;
                }
                match self.answer_memory.take((bytes - counted) * BYTES_PER_BYTE).await {
                    Ok(more) => memory.push(more),
                    Err(Busy) => {
                        refused = Some(Error::Busy);
                        break;
                    }
                }
                counted = bytes;
            }
            Ok(rows)
        };
        let rows = self.within(QUERY_DEADLINE, reading).await;
        refused.map_or(rows, Err)
    }

    /// Waits until this server has, of these tables, all that any of its replicas has.
    pub(super) async fn catch_up(&self, kept: &Tables, tables: &[String]) -> Result<(), Error> {
        if *kept != Tables::Own {
            for table in tables {
                self.execute(&format!("SYSTEM SYNC REPLICA {table} LIGHTWEIGHT")).await?;
            }
        }
        Ok(())
    }

    /// Reads are small: a second thread, compiling expressions, and other threads for reading files that are in memory
    /// anyway cost more than they bring.
    pub(super) fn reading(&self, query: &str) -> Query {
        let query = self.client().query(query).with_setting("max_threads", "1").with_setting("local_filesystem_read_method", "pread");
        query.with_setting("compile_expressions", "0").with_setting("compile_aggregate_expressions", "0")
    }

    /// Waits for room, and for the answer.
    pub(super) async fn within<T>(
        &self,
        deadline: Duration,
        answer: impl Future<Output = clickhouse::error::Result<T>> + Send,
    ) -> Result<T, Error> {
        let asked = async {
            let _turn = self.requests.enter().await;
            answer.await
        };
        match tokio::time::timeout(deadline, asked).await {
            Ok(answer) => answer.map_err(|error| self.explain(&error)),
            Err(_) => Err(self.unavailable(format!("no answer within {} s", deadline.as_secs()))),
        }
    }

    pub(super) fn url(&self) -> &str {
        &self.url
    }

    pub(super) fn load(&self) -> Load {
        let (server, requests) = (self.url.clone(), &self.requests);
        Load { server, in_flight: requests.taken(), waiting: requests.waiting(), limit: requests.limit() }
    }

    /// Below these it has been seen to have everything.
    pub(super) fn seen_whole(&self) -> Marks {
        self.whole.lock().clone()
    }

    /// It has been seen to have everything below these, too.
    pub(super) fn is_whole_below(&self, marks: &Marks) {
        let mut whole = self.whole.lock();
        for (&partition, &mark) in marks {
            let known = whole.entry(partition).or_insert(mark);
            *known = (*known).max(mark);
        }
    }

    pub(super) fn unavailable(&self, reason: String) -> Error {
        Error::Unavailable { url: self.url.clone(), reason }
    }

    fn explain(&self, error: &clickhouse::error::Error) -> Error {
        let reason = error.to_string();
        match error {
            clickhouse::error::Error::BadResponse(text) => match exception_code(text) {
                Some(TOO_MANY_ROWS_OR_BYTES) => Error::TooLarge,
                Some(TOO_MANY_ROWS) if self.max_rows_read > 0 => Error::TooDear { rows: self.max_rows_read },
                Some(code) => Error::Refused { code, reason: text.clone() },
                None => self.unavailable(reason),
            },
            clickhouse::error::Error::Network(_) | clickhouse::error::Error::TimedOut => {
                self.unavailable(tidemark_https::with_sources(error))
            }
            _ => Error::Nonsense(reason),
        }
    }
}

/// How busy this process keeps a server, in requests.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Load {
    pub(super) server: String,
    pub(super) in_flight: usize,
    /// For one of those in flight to end.
    pub(super) waiting: usize,
    /// In flight at most.
    pub(super) limit: usize,
}

/// All servers.
#[derive(Debug)]
pub(super) struct Nodes {
    all: Vec<Node>,
    /// The place of the one that is written to.
    primary: AtomicUsize,
    /// Counts the questions.
    turn: AtomicUsize,
}

impl Nodes {
    pub(super) fn new(server: &Server, database: Option<&str>) -> Self {
        let all = server.urls.iter().map(|url| Node::new(server, url, database)).collect();
        Self { all, primary: AtomicUsize::new(0), turn: AtomicUsize::new(0) }
    }

    /// Asks the server that is written to. If it does not answer, the next one is it from here on; what is asked is not
    /// repeated, for it may have been done.
    pub(super) async fn primary<T>(&self, ask: impl AsyncFnOnce(&Node) -> Result<T, Error>) -> Result<T, Error> {
        let at = self.primary.load(Ordering::Relaxed);
        let answer = ask(&self.all[at % self.all.len()]).await;
        if matches!(answer, Err(Error::Unavailable { .. })) {
            self.move_on(at);
        }
        answer
    }

    /// The servers, the one that is written to first, each with its place for [`Nodes::move_on`].
    pub(super) fn primary_first(&self) -> impl Iterator<Item = (usize, &Node)> {
        let first = self.primary.load(Ordering::Relaxed);
        (0..self.all.len()).map(move |n| (first + n, &self.all[(first + n) % self.all.len()]))
    }

    /// The server at this place does not answer: the next one is written to from here on, unless that is so already.
    pub(super) fn move_on(&self, at: usize) {
        let _ = self.primary.compare_exchange(at, at + 1, Ordering::Relaxed, Ordering::Relaxed);
    }

    /// Reads from the server that is written to, after it has caught up on these tables with its replicas. If it does not
    /// answer, both steps are repeated on the next server: that one server is up to date says nothing about another.
    pub(super) async fn select<R>(&self, kept: &Tables, tables: &[String], query: &str) -> Result<Vec<R>, Error>
    where
        R: for<'a> Row<Value<'a> = R> + DeserializeOwned + Send + 'static,
    {
        self.select_two::<R, R>(kept, tables, query, None).await.map(|(rows, _)| rows)
    }

    /// The same with two queries, for one server.
    pub(super) async fn select_two<R, S>(
        &self,
        kept: &Tables,
        tables: &[String],
        one: &str,
        two: Option<&str>,
    ) -> Result<(Vec<R>, Vec<S>), Error>
    where
        R: for<'a> Row<Value<'a> = R> + DeserializeOwned + Send + 'static,
        S: for<'a> Row<Value<'a> = S> + DeserializeOwned + Send + 'static,
    {
        let mut trouble = Error::Nonsense("no server of ClickHouse is named".into());
        for (at, node) in self.primary_first() {
            let read = async {
                node.catch_up(kept, tables).await?;
                let rows = node.select(one).await?;
                Ok((rows, if let Some(two) = two { node.select(two).await? } else { Vec::new() }))
            };
            match read.await {
                Err(error @ Error::Unavailable { .. }) => {
                    self.move_on(at);
                    trouble = error;
                }
                answer => return answer,
            }
        }
        Err(trouble)
    }

    /// All servers, each question beginning with another one.
    pub(super) fn in_turn(&self) -> impl Iterator<Item = &Node> {
        let first = self.turn.fetch_add(1, Ordering::Relaxed);
        (0..self.all.len()).map(move |n| &self.all[first.wrapping_add(n) % self.all.len()])
    }

    /// Lets all others go before what is asked from here on, or not.
    pub(super) fn gently(&self, gentle: bool) {
        self.all.iter().for_each(|node| node.gentle.store(gentle, Ordering::Relaxed));
    }

    pub(super) fn loads(&self) -> Vec<Load> {
        self.all.iter().map(Node::load).collect()
    }

    pub(super) fn len(&self) -> usize {
        self.all.len()
    }
}
