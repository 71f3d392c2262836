//! `tidemark plan`, and `tidemark apply`, which does it.

use super::Place;
use super::replay::generations::{self, Apply};
use crate::parts;
use anyhow::{Context as _, Result};

pub fn run(place: Place) -> Result<()> {
    super::log("plan")?;
    super::runtime()?.block_on(plan(place))
}

pub fn apply(arguments: Apply) -> Result<()> {
    super::log("apply")?;
    super::runtime()?.block_on(generations::apply(arguments))
}

async fn plan(place: Place) -> Result<()> {
    let (config, _, output) = place.find("plan")?;
    let archive = parts::open_archive(&config, &config.clickhouse.url).await?;
    let generations = archive.generations().await?.context("there is no history here yet: nothing has to be counted anew")?;
    output.print(&generations::plan(&config, &archive, &generations).await?)
}
