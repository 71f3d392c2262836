//! `tidemark batch`: the batch layer alone. Any number of them share the topic's partitions.

use super::Member;
use crate::config::Config;
use crate::http;
use crate::parts::{self, Servers, Threads};
use anyhow::Result;
use tidemark_access::Access;
use tidemark_batch_layer::Batch;
use tidemark_metrics::Registry;

pub fn run(arguments: Member) -> Result<()> {
    super::log("batch")?;
    let config = arguments.load()?;
    parts::need_servers(&config, "batch", false)?;
    super::runtime()?.block_on(batch(config))
}

async fn batch(config: Config) -> Result<()> {
    let mut stop = std::pin::pin!(super::stop_signal());
    let access = Access::new(config.keys()?);
    let (door, url) = http::listen(&config, &access).await?;
    let (batch, mut threads) = (Batch::default(), Threads::default());
    let starting = async {
        let servers = Servers::elsewhere(&config).await?;
        parts::start_batch(&config, &servers, config.kafka.instance(), false, batch.clone(), &mut threads)?;
        anyhow::Ok(servers.history)
    };
    let history = tokio::select! {
        started = starting => started?,
        () = &mut stop => return Ok(()),
    };
    let mut registry = Registry::default();
    tidemark_batch_layer::metrics::register(&batch, &mut registry);
    tidemark_history::clickhouse::metrics::register(&history, &mut registry);
    tracing::info!("writing history; {url}/readyz and {url}/metrics tell how it goes");
    http::serve_layer(door, &access, registry, "batch", &batch.control, threads, stop).await
}
