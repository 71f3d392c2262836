//! `tidemark plan`

use super::Place;
use crate::parts;
use anyhow::{Context as _, Result};
use std::sync::Arc;
use tidemark_replay::plan::Plan;

pub fn run(place: Place) -> Result<()> {
    super::log("plan")?;
    super::runtime()?.block_on(plan(place))
}

async fn plan(place: Place) -> Result<()> {
    let (config, _, json) = place.find("plan")?;
    let archive = parts::open_archive(&config, &config.clickhouse.url).await?;
    let generations = archive.generations().await?.context("there is no history here yet: nothing has to be counted anew")?;
    let live = generations.live();
    let history = archive.history(Arc::clone(live)).await?;
    let begun = history.begun().await?;
    let (mut records, mut from_raw) = (0, 0);
    for (partition, extent) in config.kafka.connect(&config.kafka.bootstrap).admin()?.extents().await? {
        let from = begun.get(&partition).map_or_else(Default::default, |mark| mark.position(live.epoch_bits));
        records += extent.end.since(from);
        from_raw += extent.start.since(from);
    }
    let plan = Plan::new(live, &config.rules()?, records, from_raw, history.bytes_on_disk().await?, archive.last_filled().await?);
    if json {
        println!("{}", serde_json::to_string(&plan)?);
    } else {
        println!("{plan}");
    }
    Ok(())
}
