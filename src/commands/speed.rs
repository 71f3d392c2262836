//! `tidemark speed`: the speed layer alone. Any number of them share the topic's partitions.

use super::Member;
use crate::config::Config;
use crate::http;
use crate::parts::{self, Threads};
use anyhow::Result;
use std::sync::Arc;
use tidemark_access::Access;
use tidemark_metrics::{Process, Registry};

pub fn run(arguments: Member) -> Result<()> {
    super::log();
    let config = arguments.load()?;
    parts::need_servers(&config, "speed", true)?;
    super::runtime()?.block_on(speed(config))
}

async fn speed(config: Config) -> Result<()> {
    let mut stop = std::pin::pin!(super::stop_signal());
    let access = Access::new(config.keys()?);
    let (door, url) = http::listen(&config, &access).await?;
    let mut threads = Threads::default();
    let starting = async {
        let rules = config.rules()?;
        let kafka = config.kafka.connect(&config.kafka.bootstrap);
        let partitions = config.kafka.ensure_topic(&kafka).await?;
        let history = Arc::new(parts::open_history(&config, &config.clickhouse.url, &rules).await?);
        let store = parts::open_snapshots(&config, &rules).await?;
        let reached = parts::follow(kafka.group_positions(&config.kafka.batch_group(&rules))?, partitions);
        let group = config.kafka.speed_group(&rules);
        let instance = |n| config.kafka.instance().map(|name| format!("{name}-{n}"));
        let members = (0..config.speed.threads(partitions).get()).map(|n| config.kafka.membership(&group, instance(n)));
        parts::start_speed(&config, &kafka, members.collect(), store, &history, &reached, &mut threads)
    };
    let speed = tokio::select! {
        started = starting => started?,
        () = &mut stop => return Ok(()),
    };
    let mut registry = Registry::default();
    registry.register_collector(Box::new(Process));
    tidemark_speed_layer::metrics::register(&speed, &mut registry);
    tracing::info!("counting; {url}/readyz and {url}/metrics tell how it goes");
    http::serve_layer(door, &access, registry, "speed", &speed.control, threads, stop).await
}
