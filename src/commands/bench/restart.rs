//! `tidemark bench restart`: how soon answers are exact again after SIGKILL, with all epochs open and nearly full. Kafka
//! and ClickHouse go on running, as they would elsewhere.

use super::report::{Figure, Run};
use super::system::System;
use super::topic::Bench;
use super::{Topic, recount};
use anyhow::{Context as _, Result, ensure};
use std::time::{Duration, Instant};

/// Between two looks for the answer.
const LOOK: Duration = Duration::from_millis(5);
/// All windows by type.
const ALL: &str = "/v1/query?step=5m&group_by=event_type";

pub async fn run(topic: &Topic) -> Result<Run> {
    let bench = Bench::generated(topic, true).await?;
    let fullest = bench.kafka.admin()?.extents().await?.values().map(|extent| extent.end.get()).max().context("a partition")?;
    // An epoch that the fullest partition does not end, so that nothing is closed and all is read again.
    let epoch_bits = u64::BITS - fullest.leading_zeros();
    let Topic { topic, partitions, .. } = topic;
    let config = format!("[kafka]\ntopic = \"{topic}\"\npartitions = {partitions}\n[counting]\nepoch_bits = {epoch_bits}\n");
    let mut system = System::start(&config, &["--kafka", &bench.kafka.bootstrap, "--clickhouse", bench.clickhouse()]).await?;
    let client = system.ready().await?;
    client.wait_until_read().await?;
    let recounted = recount::by_type_and_window(&bench.kafka).await?;
    ensure!(client.counts(ALL).await? == recounted, "the answer differs from the recount");
    ensure!(client.closed().await? == 0, "epochs have been closed: there would be less to read again");

    let began = Instant::now();
    system.restart().await?;
    let client = system.ready().await?;
    let ready = began.elapsed();
    while client.counts(ALL).await? != recounted {
        ensure!(began.elapsed() < Duration::from_secs(300), "the answers have not become what they were");
        tokio::time::sleep(LOOK).await;
    }
    let exact = began.elapsed();
    let figures = vec![
        Figure::new("kill -9 to ready", "s", ready.as_secs_f64()),
        Figure::new("kill -9 to the answer of all events", "s", exact.as_secs_f64()),
        Figure::new("events in open epochs", "", recount::events(&recounted) as f64),
        Figure::new("peak resident memory", "MiB", system.usage()?.peak_mib as f64),
    ];
    drop(system);
    bench.stop().await;
    Ok(Run { figures, result: None })
}
