//! Rows of history that are changed behind Tidemark's back.
//!
//! From the change to its finding an answer may be wrong. So no question is asked from just before the change until an audit, which
//! is run immediately, has found it and every node knows. From then on answers are judged as always.

use crate::fault::{Context, Deployment, TOPIC, Undo, marks};
use crate::run::EPOCH_BITS;
use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use std::sync::atomic::Ordering;
use std::time::Duration;
use tidemark_tests::client::Client;
use tidemark_tests::wait;

const DEADLINE: Duration = Duration::from_secs(60);
/// An epoch is repaired half a minute after every server knows of its damage.
const REPAIR_DEADLINE: Duration = Duration::from_secs(240);

/// Damage to raw rows: `{row}` is a condition for one of them.
const RAW: [&str; 3] = [
    "ALTER TABLE events DELETE WHERE {row} SETTINGS mutations_sync = 1",
    "INSERT INTO events SELECT * FROM events WHERE {row}",
    "ALTER TABLE events UPDATE order_amount = ifNull(order_amount, 0) + 1 WHERE {row} SETTINGS mutations_sync = 1",
];
/// Damage to roll-ups of a closed epoch, which `{epoch}` is a condition for.
const ROLLUPS: [&str; 3] = [
    "ALTER TABLE by_type_5m_g1 DELETE WHERE {epoch} SETTINGS mutations_sync = 1",
    "INSERT INTO by_type_1h_g1 SELECT * FROM by_type_1h_g1 WHERE {epoch}",
    "ALTER TABLE by_type_1d_g1 UPDATE amount_sum = amount_sum + 1 WHERE {epoch} SETTINGS mutations_sync = 1",
];

fn log_start<D: Deployment>(deployment: &D, partition: u32) -> u64 {
    let consumer: BaseConsumer = ClientConfig::new().set("bootstrap.servers", deployment.kafka()).create().expect("a Kafka consumer");
    let partition = i32::try_from(partition).expect("an i32");
    wait::until("Kafka says where the log begins", DEADLINE, || {
        let (start, _) = consumer.fetch_watermarks(TOPIC, partition, Duration::from_secs(5)).ok()?;
        u64::try_from(start).ok()
    })
}

/// Rows of a closed epoch are deleted, duplicated or altered: an audit finds it, and it is repaired.
pub fn below_the_mark<D: Deployment>(deployment: &mut D, context: &mut Context<'_>) -> Undo<D> {
    let closed: Vec<(u32, u64)> = wait::until("an epoch is closed", DEADLINE, || {
        let closed: Vec<_> = marks(deployment).into_iter().filter(|(_, mark)| *mark > 0).collect();
        (!closed.is_empty()).then_some(closed)
    });
    let (partition, mark) = *context.chance.pick(&closed);
    let epoch = context.chance.below(usize::try_from(mark >> EPOCH_BITS).expect("few epochs")) as u64;
    let span = 1 << EPOCH_BITS;
    // What the topic has forgotten can only be repaired from raw rows.
    let is_told_again = log_start(deployment, partition) <= epoch.saturating_sub(1) * span;
    let kind = *context.chance.pick(if is_told_again && context.chance.clone().once_in(2) { &RAW } else { &ROLLUPS });
    let (from, to) = (epoch * span, (epoch + 1) * span);
    let first = format!("SELECT min(offset) FROM events WHERE partition = {partition} AND offset >= {from} AND offset < {to}");
    let row = wait::until("history says where its rows are", DEADLINE, || deployment.sql(&first).ok())[0][0].clone();
    let statement = kind
        .replace("{row}", &format!("partition = {partition} AND offset = {row}"))
        .replace("{epoch}", &format!("partition = {partition} AND epoch = {epoch}"));
    context.report.say(&statement);
    let held = context.asker.hold();
    wait::until(&statement, DEADLINE, || deployment.sql(&statement).ok());
    assert!(deployment.audit(), "an audit has not found: {statement}");
    wait::until("every node has heard of the damage", DEADLINE, || {
        deployment.nodes().iter().all(|node| damaged(node).is_some_and(|n| n > 0)).then_some(())
    });
    drop(held);
    Box::new(|deployment, _| {
        wait::until("the damage is repaired, and every node knows", REPAIR_DEADLINE, || {
            deployment.nodes().iter().all(|node| damaged(node) == Some(0)).then_some(())
        });
    })
}

fn damaged(node: &Client) -> Option<usize> {
    let status = node.try_get("/v1/status").ok().filter(|reply| reply.status == 200)?.json();
    status["ledger"]["damaged"].as_array().map(Vec::len)
}

/// A raw row of an open epoch is deleted, duplicated or altered: the two layers do not agree when the epoch closes, and it is repaired.
pub fn above_the_mark<D: Deployment>(deployment: &mut D, context: &mut Context<'_>) -> Undo<D> {
    // Answers from raw events at history's end have no second computation until the epoch closes.
    context.asker.without_raw.store(true, Ordering::Relaxed);
    drop(context.asker.hold());
    let (partition, offset) = wait::until("an open epoch has rows", DEADLINE, || {
        marks(deployment).into_iter().find_map(|(partition, mark)| {
            let query =
                format!("SELECT toString(offset) FROM events WHERE partition = {partition} AND offset >= {mark} ORDER BY offset LIMIT 1");
            let rows = deployment.sql(&query).ok()?;
            Some((partition, rows.first()?.first()?.parse::<u64>().ok()?))
        })
    });
    let statement = context.chance.pick(&RAW).replace("{row}", &format!("partition = {partition} AND offset = {offset}"));
    context.report.say(&statement);
    wait::until(&statement, DEADLINE, || deployment.sql(&statement).ok());
    Box::new(move |deployment, context| {
        wait::until("the epoch closes", REPAIR_DEADLINE, || {
            let marks = marks(deployment);
            marks.iter().any(|(of, mark)| *of == partition && *mark > offset).then_some(())
        });
        context.asker.without_raw.store(false, Ordering::Relaxed);
    })
}
