//! What a fault is, and those that are the same for every shape: they are done to Kafka and ClickHouse, wherever these run.

use crate::asker::Asker;
use crate::load::Load;
use crate::report::Report;
use std::time::Duration;
use tidemark_tests::admin::Admin;
use tidemark_tests::chance::Chance;
use tidemark_tests::client::Client;
use tidemark_tests::{retention, wait};

/// A deployment that can be disturbed.
pub trait Deployment: Sized {
    /// Where events are posted.
    fn doors(&self) -> Vec<Client>;
    /// Where questions are asked.
    fn nodes(&self) -> Vec<Client>;
    /// Kafka, by a way that no fault touches.
    fn kafka(&self) -> String;
    fn sql(&self, statement: &str) -> Result<Vec<Vec<String>>, String>;
    /// Runs `tidemark audit` on it; whether it found damage.
    fn audit(&self) -> bool;
    /// Starts every process again that may write history.
    fn restart_writers(&mut self);
    /// Starts processes again that have ended by themselves, as a supervisor does.
    fn supervise(&mut self) {}
    /// All of it ends by SIGTERM, and well.
    fn stop(self);
}

/// What a fault may use besides the deployment.
#[derive(Debug)]
pub struct Context<'c> {
    pub chance: Chance,
    pub report: &'c Report,
    pub asker: &'c Asker,
    pub load: &'c Load,
}

/// What ends a fault.
pub type Undo<D> = Box<dyn FnOnce(&mut D, &mut Context<'_>)>;

/// Something that happens to deployments.
pub struct Fault<D> {
    pub name: &'static str,
    /// How long it lasts, between its beginning and its end. Nothing if it is over once it has been done.
    pub lasts: Duration,
    pub kind: Kind,
    /// Whether it can begin while nothing else answers, so that it may come on top of another fault.
    pub is_blind: bool,
    pub begin: fn(&mut D, &mut Context<'_>) -> Undo<D>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    /// A process is killed: how soon answers are exact again is a figure.
    Kill,
    /// It ends by itself when its cause does.
    Passing,
    /// As above, but it takes a minute or more until all is well.
    Long,
    /// Once in a run.
    Once,
}

impl<D> Fault<D> {
    pub const fn kill(name: &'static str, begin: fn(&mut D, &mut Context<'_>) -> Undo<D>) -> Self {
        Self { name, lasts: Duration::ZERO, kind: Kind::Kill, is_blind: false, begin }
    }

    pub const fn passing(name: &'static str, seconds: u64, begin: fn(&mut D, &mut Context<'_>) -> Undo<D>) -> Self {
        Self { name, lasts: Duration::from_secs(seconds), kind: Kind::Passing, is_blind: false, begin }
    }

    /// One that can begin while nothing else answers.
    pub const fn blind(name: &'static str, seconds: u64, begin: fn(&mut D, &mut Context<'_>) -> Undo<D>) -> Self {
        Self { is_blind: true, ..Self::passing(name, seconds, begin) }
    }

    pub const fn long(name: &'static str, begin: fn(&mut D, &mut Context<'_>) -> Undo<D>) -> Self {
        Self { name, lasts: Duration::ZERO, kind: Kind::Long, is_blind: false, begin }
    }

    pub const fn once(name: &'static str, begin: fn(&mut D, &mut Context<'_>) -> Undo<D>) -> Self {
        Self { name, lasts: Duration::ZERO, kind: Kind::Once, is_blind: false, begin }
    }
}

/// For a fault that needs no end.
pub fn nothing<D>() -> Undo<D> {
    Box::new(|_, _| {})
}

const DEADLINE: Duration = Duration::from_secs(60);
const RECOVERY_DEADLINE: Duration = Duration::from_secs(120);
const WRITTEN_DEADLINE: Duration = Duration::from_secs(300);

/// Tables that the batch layer inserts into.
const RAW_TABLE: &str = "events";
/// A view that fills a roll-up while rows are inserted.
const FILLER: &str = "by_type_1h_g1_filler";

fn insist<D: Deployment>(deployment: &D, statement: &str) {
    wait::until(statement, DEADLINE, || deployment.sql(statement).ok());
}

fn with_setting<D: Deployment>(deployment: &D, name: &'static str, value: &str) -> Undo<D> {
    insist(deployment, &format!("ALTER TABLE {RAW_TABLE} MODIFY SETTING {name} = {value}"));
    Box::new(move |deployment, _| insist(deployment, &format!("ALTER TABLE {RAW_TABLE} RESET SETTING {name}")))
}

pub fn too_many_parts<D: Deployment>(deployment: &mut D, _: &mut Context<'_>) -> Undo<D> {
    with_setting(deployment, "parts_to_throw_insert", "1")
}

pub fn read_only_table<D: Deployment>(deployment: &mut D, _: &mut Context<'_>) -> Undo<D> {
    insist(deployment, &format!("ALTER TABLE {RAW_TABLE} MODIFY SETTING table_readonly = 1"));
    Box::new(|deployment, _| insist(deployment, &format!("ALTER TABLE {RAW_TABLE} MODIFY SETTING table_readonly = 0")))
}

/// Rows that are inserted meanwhile do not reach a roll-up. A start creates the view again.
pub fn view_dropped<D: Deployment>(deployment: &mut D, _: &mut Context<'_>) -> Undo<D> {
    insist(deployment, &format!("DROP VIEW {FILLER}"));
    Box::new(|deployment, _| deployment.restart_writers())
}

/// The topic gets another partition.
pub fn partition_added<D: Deployment>(deployment: &mut D, _: &mut Context<'_>) -> Undo<D> {
    let partitions = marks(deployment).len();
    Admin::of(&deployment.kafka()).grow_topic(TOPIC, partitions + 1);
    wait::until("every node counts the new partition", DEADLINE, || {
        deployment.nodes().iter().all(|node| marks_at(node).is_some_and(|marks| marks.len() > partitions)).then_some(())
    });
    nothing()
}

/// The topic forgets what history has: all records below the marks.
pub fn retention<D: Deployment>(deployment: &mut D, _: &mut Context<'_>) -> Undo<D> {
    let number = |(partition, mark): (u32, u64)| (i32::try_from(partition).expect("an i32"), i64::try_from(mark).expect("an offset"));
    retention::remove_before(&deployment.kafka(), TOPIC, &marks(deployment).into_iter().map(number).collect::<Vec<_>>());
    nothing()
}

pub const TOPIC: &str = "events";

/// The marks of all partitions, as any node has them.
pub fn marks<D: Deployment>(deployment: &D) -> Vec<(u32, u64)> {
    wait::until("a node says where the marks are", DEADLINE, || deployment.nodes().iter().find_map(marks_at))
}

/// Waits until history has what is in the topic now.
pub fn wait_written<D: Deployment>(deployment: &D) {
    let at = |position| deployment.nodes().iter().find_map(|node| positions_at(node, position));
    let ends = wait::until("a node says where the log ends", DEADLINE, || at("end"));
    wait::until("history has what the topic had", WRITTEN_DEADLINE, || {
        let written = at("history")?;
        ends.iter().zip(&written).all(|(end, written)| written >= end).then_some(())
    });
}

fn marks_at(node: &Client) -> Option<Vec<(u32, u64)>> {
    positions_at(node, "mark")
}

/// A position of each partition, as the node's status has it.
fn positions_at(node: &Client, position: &str) -> Option<Vec<(u32, u64)>> {
    let status = node.try_get("/v1/status").ok().filter(|reply| reply.status == 200)?.json();
    let partitions = status["partitions"].as_array()?.iter();
    let number = |at: &serde_json::Value| Some((u32::try_from(at["partition"].as_u64()?).ok()?, at[position].as_u64()?));
    partitions.map(number).collect()
}

/// Waits until an event is acknowledged and each node's answer counts it and all that was before it.
pub fn wait_exact<D: Deployment>(deployment: &mut D, load: &Load) {
    load.post(&deployment.doors(), &[crate::events::probe()]);
    let position = load.position();
    let path = tidemark_tests::question::Question::total().path(Some(&position)).replace("timeout_ms=60000", "timeout_ms=2000");
    for node in deployment.nodes() {
        wait::until("a node's answer has all that was acknowledged", RECOVERY_DEADLINE, || {
            deployment.supervise();
            node.try_get(&path).ok().filter(|reply| reply.status == 200)
        });
    }
}
