//! The recount: the whole topic, one record after the other, by another parser and without windows, views or cells.

use anyhow::Result;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tidemark_core::offset::{NextOffset, Partition};
use tidemark_topic::kafka::{ConsumerOptions, Kafka};
use tidemark_topic::{Consumer as _, Happened, Membership};

/// Sorted lines of `event_type,window_start_ms,count`. Ids are taken to be unique, as the generator makes them.
pub async fn by_type_and_window(kafka: &Kafka) -> Result<Vec<String>> {
    let kafka = kafka.clone();
    tokio::task::spawn_blocking(move || recounted(&kafka)).await?
}

/// The events of such lines.
pub fn events(lines: &[String]) -> u64 {
    lines.iter().filter_map(|line| line.rsplit(',').next()?.parse::<u64>().ok()).sum()
}

fn recounted(kafka: &Kafka) -> Result<Vec<String>> {
    let mut consumer = kafka.consumer(Membership::all(), ConsumerOptions::default())?;
    let mut counts: BTreeMap<(String, i64), u64> = BTreeMap::new();
    let (mut reading, mut bad) = (BTreeSet::new(), 0u64);
    let mut started = false;
    while !started || !reading.is_empty() {
        let mut assigned = Vec::new();
        consumer.poll(Duration::from_millis(200), |happened| match happened {
            Happened::Records { records, .. } => {
                for record in records {
                    match counted(record.payload.unwrap_or_default()) {
                        Some(key) => *counts.entry(key).or_default() += 1,
                        None => bad += 1,
                    }
                }
            }
            Happened::End { partition, .. } => drop(reading.remove(&partition)),
            Happened::Assigned(partitions) => assigned.extend(partitions),
            Happened::Traced { .. } | Happened::Revoked(_) | Happened::Lost(_) => {}
        })?;
        for partition in assigned {
            start(&mut consumer, partition, &mut reading)?;
            started = true;
        }
    }
    anyhow::ensure!(bad == 0, "{bad} records of the topic are not events");
    let mut lines: Vec<String> = counts.iter().map(|((event_type, window), count)| format!("{event_type},{window},{count}")).collect();
    lines.sort();
    Ok(lines)
}

fn start(consumer: &mut impl tidemark_topic::Consumer, partition: Partition, reading: &mut BTreeSet<Partition>) -> Result<()> {
    let extent = consumer.extent(partition)?;
    if extent.end > NextOffset::ZERO {
        reading.insert(partition);
    }
    Ok(consumer.start(partition, extent.start)?)
}

fn counted(payload: &[u8]) -> Option<(String, i64)> {
    let event: serde_json::Value = serde_json::from_slice(payload).ok()?;
    let at = match &event["timestamp"] {
        serde_json::Value::String(text) => text.parse::<jiff::Timestamp>().ok()?.as_millisecond(),
        number => number.as_i64()?,
    };
    Some((event["event_type"].as_str()?.to_owned(), at.div_euclid(300_000) * 300_000))
}
