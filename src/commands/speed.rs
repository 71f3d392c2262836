//! `tidemark speed`: the speed layer alone. Any number of them share the topic's partitions.

use super::Member;
use crate::config::Config;
use crate::crew::{Crew, Part};
use crate::http;
use crate::parts::{self, Ground, Servers, Threads};
use anyhow::Result;
use std::sync::Arc;
use tidemark_access::Access;
use tidemark_batch_layer::Batch;
use tidemark_history::clickhouse::ClickHouse;
use tidemark_metrics::Registry;
use tidemark_speed_layer::Speed;

pub fn run(arguments: Member) -> Result<()> {
    super::log("speed")?;
    let config = arguments.load()?;
    parts::need_servers(&config, "speed", true)?;
    super::runtime()?.block_on(speed(config))
}

async fn speed(config: Config) -> Result<()> {
    let mut stop = std::pin::pin!(super::stop_signal());
    let access = Access::new(config.keys()?, config.open);
    let (door, url) = http::listen(&config, &access).await?;
    let starting = async { Crew::<Counting>::start(config.clone(), Servers::elsewhere(&config).await?).await };
    let crew = tokio::select! {
        started = starting => started?,
        () = &mut stop => return Ok(()),
    };
    tracing::info!("counting; {url}/readyz and {url}/metrics tell how it goes");
    http::serve_layer(door, &access, "speed", |part: &Counting| &part.speed.control, crew, stop).await
}

/// One generation's counts.
struct Counting {
    speed: Arc<Speed>,
    history: Arc<ClickHouse>,
}

impl Part for Counting {
    async fn start(config: &Config, ground: &Ground, _: &Batch, threads: &mut Threads) -> Result<Self> {
        let store = parts::open_snapshots(config, &ground.rules).await?;
        let reached = ground.follow(config, threads)?;
        let group = config.kafka.speed_group(&ground.rules);
        let instance = |n| config.kafka.instance().map(|name| format!("{name}-{n}"));
        let members = (0..config.speed.threads(ground.partitions.get()).get()).map(|n| config.kafka.membership(&group, instance(n)));
        let speed = parts::start_speed(config, ground, members.collect(), store, &reached, threads)?;
        Ok(Self { speed, history: Arc::clone(&ground.history) })
    }

    fn is_ready(&self) -> bool {
        self.speed.control.current_trouble().is_none()
    }

    fn lag(&self) -> u64 {
        self.speed.lag()
    }

    fn register(&self, registry: &mut Registry) {
        tidemark_speed_layer::metrics::register(&self.speed, registry);
        tidemark_history::clickhouse::metrics::register(&self.history, registry);
    }

    fn gently(&self, gentle: bool) {
        self.speed.control.gently(gentle);
    }

    fn stop(&self) {
        self.speed.control.stop();
    }
}
