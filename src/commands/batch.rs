//! `tidemark batch`: the batch layer alone. Any number of them share the topic's partitions.

use super::Member;
use crate::config::Config;
use crate::crew::{Crew, Part, Writer};
use crate::http;
use crate::parts::{self, Ground, Servers, Threads};
use anyhow::Result;
use std::sync::Arc;
use tidemark_access::Access;
use tidemark_batch_layer::Batch;
use tidemark_history::clickhouse::ClickHouse;
use tidemark_metrics::Registry;

pub fn run(arguments: Member) -> Result<()> {
    super::log("batch")?;
    let config = arguments.load()?;
    parts::need_servers(&config, "batch", false)?;
    super::runtime()?.block_on(batch(config))
}

async fn batch(config: Config) -> Result<()> {
    let mut stop = std::pin::pin!(super::stop_signal());
    let access = Access::new(config.keys()?, config.open);
    let (door, url) = http::listen(&config, &access).await?;
    let starting = async { Crew::<Writing>::start(config.clone(), Servers::elsewhere(&config).await?).await };
    let crew = tokio::select! {
        started = starting => started?,
        () = &mut stop => return Ok(()),
    };
    tracing::info!("writing history; {url}/readyz and {url}/metrics tell how it goes");
    http::serve_layer(door, &access, "batch", |part: &Writing| &part.batch.control, crew, stop).await
}

/// One generation's history.
struct Writing {
    batch: Batch,
    history: Arc<ClickHouse>,
}

impl Part for Writing {
    fn writer(config: &Config) -> Option<Writer> {
        Some(Writer { instance: config.kafka.instance(), alone: false })
    }

    /// The work is the batch layer's, which may write for others too.
    async fn start(_: &Config, ground: &Ground, batch: &Batch, _: &mut Threads) -> Result<Self> {
        Ok(Self { batch: batch.clone(), history: Arc::clone(&ground.history) })
    }

    fn is_ready(&self) -> bool {
        self.batch.control.current_trouble().is_none()
    }

    fn lag(&self) -> u64 {
        self.batch.lag()
    }

    fn register(&self, registry: &mut Registry) {
        tidemark_batch_layer::metrics::register(&self.batch, registry);
        tidemark_history::clickhouse::metrics::register(&self.history, registry);
    }

    fn gently(&self, _: bool) {}

    fn stop(&self) {}
}
