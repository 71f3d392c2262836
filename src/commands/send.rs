//! `tidemark send`

use super::Caller;
use anyhow::{Result, bail};
use std::path::PathBuf;
use tidemark_ingest::{Key, SendOptions, send};

#[derive(clap::Args)]
pub struct Arguments {
    /// Files of one JSON event a line, plain or packed by gzip or zstd; `-` is standard input
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// Events in a request
    #[arg(long, default_value_t = SendOptions::default().batch)]
    batch: usize,
    /// Requests under way at a time
    #[arg(long, default_value_t = SendOptions::default().in_flight)]
    in_flight: usize,
    #[command(flatten)]
    caller: Caller,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let Arguments { files, batch, in_flight, caller: Caller { url, key, ca } } = arguments;
    let url = url.unwrap_or_else(|| Caller::DEFAULT_URL.to_owned());
    let options = SendOptions { batch, in_flight, key: key.map(Key), authorities: ca, ..SendOptions::default() };
    let report = super::runtime()?.block_on(send(&files, &url, options))?;
    println!("{report}");
    let rejected: u64 = report.rejected.values().sum();
    if rejected > 0 {
        bail!("{rejected} of the events were rejected");
    }
    Ok(())
}
