//! What can be asked of Redis: claim a partition, write, read, and load all of it.

use crate::cells::{WindowCells, cell, values};
use crate::connection::{Link, Server};
use crate::{Error, Head};
use futures_util::future::try_join_all;
use redis::{RedisResult, Script, Value, cmd, pipe};
use std::sync::LazyLock;
use tidemark_core::cell::Cell;
use tidemark_core::epoch::Epoch;
use tidemark_core::generation::Generation;
use tidemark_core::offset::Partition;
use tidemark_core::view::{ViewId, Views};
use tidemark_core::window::{TimeRange, WindowStart};

static CLAIM: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("claim.lua")));
static WRITE: LazyLock<Script> = LazyLock::new(|| Script::new(concat!(include_str!("remove.lua"), include_str!("write.lua"))));
static FORGET: LazyLock<Script> = LazyLock::new(|| Script::new(concat!(include_str!("remove.lua"), include_str!("forget.lua"))));
static READ: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("read.lua")));

/// Windows that are loaded at a time.
const LOADED_AT_ONCE: usize = 64;

/// The snapshots of one deployment's topic. One for the process; all calls share a connection.
#[derive(Debug)]
pub struct Store {
    link: Link,
    /// What the partitions' keys begin with.
    prefix: String,
    views: Views,
}

/// The right to write a partition's snapshot, until somebody else claims it.
#[derive(Clone, Debug)]
pub struct Claim {
    pub owner: String,
    pub found: Option<Found>,
}

/// A snapshot that is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Found {
    /// Names the cells.
    pub name: String,
    /// The last write of these.
    pub number: u64,
    pub head: Head,
}

/// A write; sent again it is the same one.
#[derive(Clone, Debug)]
pub struct Write {
    pub owner: String,
    /// Names the cells.
    pub name: String,
    /// From 1 on for each name.
    pub number: u64,
    pub cells: Vec<WindowCells>,
    /// `None` while cells are still missing: then readers see those of the name before.
    pub head: Option<Head>,
    /// Removes what neither this head nor a later one needs: cells of closed epochs and of other names.
    pub sweep: bool,
}

/// What became of a write.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Written {
    Done,
    /// Somebody else owns the partition.
    Fenced,
    /// It does not follow what is there: Redis has lost writes.
    Lost,
}

/// Called with each cell: its window, its dimension values in the view's order, itself.
type Visit<'v> = &'v mut (dyn FnMut(WindowStart, &[&str], &Cell) + Send);

impl Store {
    /// Nothing is asked yet. `deployment` is the name that all its processes have.
    pub fn new(server: &Server, deployment: &str, topic: &str, generation: Generation, views: Views) -> Result<Self, Error> {
        // Braces would end the hash tag early.
        let plain = |text: &str| text.replace(['{', '}'], "_");
        let prefix = format!("{}/g{generation}/{}", plain(deployment), plain(topic));
        Ok(Self { link: Link::new(server)?, prefix, views })
    }

    /// Connects, and refuses a Redis that would not do.
    pub async fn check(&self) -> Result<(), Error> {
        self.link.ask(async |redis| cmd("PING").query_async::<()>(redis).await).await
    }

    fn tag(&self, partition: Partition) -> String {
        format!("{{{}/{partition}}}", self.prefix)
    }

    /// Takes the partition over. Writes of former owners do not count from here on.
    pub async fn claim(&self, partition: Partition) -> Result<Claim, Error> {
        let (tag, owner) = (self.tag(partition), format!("{:016x}", rand::random::<u64>()));
        let answer: Vec<Vec<u8>> = self.link.ask(async |redis| CLAIM.key(&*tag).arg(&*owner).invoke_async(redis).await).await?;
        let malformed = |reason: String| Error::Malformed { partition, reason };
        let found = match &answer[..] {
            [] => None,
            [name, number, head] => {
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let number = text(number).parse().map_err(|_| malformed("the number of its last write".into()))?;
                Some(Found { name: text(name), number, head: Head::from_json(head).map_err(malformed)? })
            }
            _ => return Err(malformed("a claim has another answer".into())),
        };
        Ok(Claim { owner, found })
    }

    /// Writes, or finds that it has been written.
    pub async fn write(&self, partition: Partition, write: &Write) -> Result<Written, Error> {
        let tag = self.tag(partition);
        let (first, last) = write.head.as_ref().map_or((Epoch(0), Epoch(0)), Head::open);
        let mut script = WRITE.key(&*tag);
        script.arg(&*write.owner).arg(&*write.name).arg(write.number - 1).arg(write.number);
        script.arg(write.head.as_ref().map(Head::to_json).unwrap_or_default()).arg(first.0).arg(last.0);
        script.arg(if write.sweep { self.views.len() } else { 0 });
        for of in write.cells.iter().filter(|of| !of.is_empty()) {
            script.arg(of.epoch.0).arg(of.view.0).arg(of.window.ms()).arg(of.cells.len());
            for (field, value) in &of.cells {
                script.arg(&**field).arg(&**value);
            }
        }
        let answer: String = self.link.ask(async |redis| script.invoke_async(redis).await).await?;
        match answer.as_str() {
            "done" => Ok(Written::Done),
            "fenced" => Ok(Written::Fenced),
            "lost" => Ok(Written::Lost),
            other => Err(Error::Malformed { partition, reason: format!("a write was answered with `{other}`") }),
        }
    }

    /// Removes the partition's snapshot; who owned it owns it no more.
    pub async fn forget(&self, partition: Partition) -> Result<(), Error> {
        let (tag, views) = (self.tag(partition), self.views.len());
        self.link.ask(async |redis| FORGET.key(&*tag).arg(views).invoke_async(redis).await).await
    }

    /// The heads of partitions `0..partitions`; `None` where there is no snapshot.
    pub async fn heads(&self, partitions: u32) -> Result<Vec<Option<Head>>, Error> {
        let head = async |partition: u32| {
            let tag = self.tag(Partition(partition));
            let head: Option<Vec<u8>> = self.link.ask(async |redis| cmd("HGET").arg(&*tag).arg("head").query_async(redis).await).await?;
            let malformed = |reason| Error::Malformed { partition: Partition(partition), reason };
            head.map(|head| Head::from_json(&head).map_err(malformed)).transpose()
        };
        // All are on their way at once; of a cluster's nodes each has some.
        try_join_all((0..partitions).map(head)).await
    }

    /// Visits the cells of a view in a range of time, of the open epochs; the head that they are right at, or `None` if
    /// there is no snapshot.
    pub async fn read(&self, partition: Partition, view: ViewId, range: TimeRange, visit: Visit<'_>) -> Result<Option<Head>, Error> {
        let tag = self.tag(partition);
        let from = range.from_ms.map_or("-inf".to_owned(), |from| from.to_string());
        let to = range.to_ms.map_or("+inf".to_owned(), |to| format!("({to}"));
        let answer: Vec<Value> =
            self.link.ask(async |redis| READ.key(&*tag).arg(view.0).arg(&*from).arg(&*to).invoke_async(redis).await).await?;
        let malformed = |reason: &str| Error::Malformed { partition, reason: reason.to_owned() };
        let Some((head, windows)) = answer.split_first() else { return Ok(None) };
        let Value::BulkString(head) = head else { return Err(malformed("its head is no text")) };
        let head = Head::from_json(head).map_err(|reason| malformed(&reason))?;
        for pair in windows.chunks(2) {
            let [window, cells] = pair else { return Err(malformed("a window without cells")) };
            let window = window_of(window).ok_or_else(|| malformed("a window that is no time"))?;
            self.visit_cells(view, window, cells, visit).ok_or_else(|| malformed("a cell that is none"))?;
        }
        Ok(Some(head))
    }

    /// Visits all cells of what a claim has found, in pieces: nobody else writes any more.
    pub async fn load(
        &self,
        partition: Partition,
        found: &Found,
        mut visit: impl FnMut(Epoch, ViewId, WindowStart, &[&str], &Cell) + Send,
    ) -> Result<(), Error> {
        let malformed = |reason: &str| Error::Malformed { partition, reason: reason.to_owned() };
        let (first, last) = found.head.open();
        for (epoch, view) in (first.0..=last.0).flat_map(|epoch| self.views.ids().map(move |view| (Epoch(epoch), view))) {
            let of = format!("{}:{}:{epoch}:{}", self.tag(partition), found.name, view.0);
            let windows: Vec<Value> = self.link.ask(async |redis| cmd("ZRANGE").arg(&*of).arg(0).arg(-1).query_async(redis).await).await?;
            let windows: Option<Vec<WindowStart>> = windows.iter().map(window_of).collect();
            for windows in windows.ok_or_else(|| malformed("a window that is no time"))?.chunks(LOADED_AT_ONCE) {
                let mut pipeline = pipe();
                for window in windows {
                    pipeline.cmd("HGETALL").arg(format!("{of}:{}", window.ms()));
                }
                let tables: Vec<Value> = self.link.ask(async |redis| -> RedisResult<_> { pipeline.query_async(redis).await }).await?;
                for (window, cells) in windows.iter().zip(&tables) {
                    let mut visit = |window, values: &[&str], cell: &Cell| visit(epoch, view, window, values, cell);
                    self.visit_cells(view, *window, cells, &mut visit).ok_or_else(|| malformed("a cell that is none"))?;
                }
            }
        }
        Ok(())
    }

    /// `None` if something is no cell of the view.
    fn visit_cells(&self, view: ViewId, window: WindowStart, cells: &Value, visit: Visit<'_>) -> Option<()> {
        let width = self.views.get(view).dimensions().len();
        let mut visit = |field: &Value, value: &Value| {
            let (Value::BulkString(field), Value::BulkString(value)) = (field, value) else { return None };
            visit(window, &values(field, width)?, &cell(value)?);
            Some(())
        };
        match cells {
            Value::Array(flat) => flat.chunks(2).try_for_each(|pair| visit(pair.first()?, pair.get(1)?)),
            Value::Map(pairs) => pairs.iter().try_for_each(|(field, value)| visit(field, value)),
            _ => None,
        }
    }
}

fn window_of(value: &Value) -> Option<WindowStart> {
    let Value::BulkString(text) = value else { return None };
    std::str::from_utf8(text).ok()?.parse().ok().map(WindowStart::containing)
}
