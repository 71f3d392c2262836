//! `tidemark speed`: the speed layer alone. Any number of them share the topic's partitions.

use super::Member;
use crate::config::Config;
use crate::http;
use crate::parts::{self, Servers, Threads};
use anyhow::Result;
use tidemark_access::Access;
use tidemark_metrics::Registry;

pub fn run(arguments: Member) -> Result<()> {
    super::log("speed")?;
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
        let servers = Servers::elsewhere(&config).await?;
        let store = parts::open_snapshots(&config, &servers.rules).await?;
        let reached = servers.follow(&config)?;
        let group = config.kafka.speed_group(&servers.rules);
        let instance = |n| config.kafka.instance().map(|name| format!("{name}-{n}"));
        let members = (0..config.speed.threads(servers.partitions).get()).map(|n| config.kafka.membership(&group, instance(n)));
        let speed = parts::start_speed(&config, &servers, members.collect(), store, &reached, &mut threads)?;
        anyhow::Ok((speed, servers.history))
    };
    let (speed, history) = tokio::select! {
        started = starting => started?,
        () = &mut stop => return Ok(()),
    };
    let mut registry = Registry::default();
    tidemark_speed_layer::metrics::register(&speed, &mut registry);
    tidemark_history::clickhouse::metrics::register(&history, &mut registry);
    tracing::info!("counting; {url}/readyz and {url}/metrics tell how it goes");
    http::serve_layer(door, &access, registry, "speed", &speed.control, threads, stop).await
}
