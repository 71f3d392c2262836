//! `tidemark send`

use super::Caller;
use super::output::Output;
use crate::exit::Exit;
use anyhow::Result;
use std::path::PathBuf;
use tidemark_ingest::{Key, SendOptions, send};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  tidemark send demo/flights.ndjson.zst
  zcat events.gz | tidemark send - --url https://tidemark.example --json")]
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
    output: Output,
    #[command(flatten)]
    caller: Caller,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let Arguments { files, batch, in_flight, output, caller: Caller { url, key, ca } } = arguments;
    let url = url.unwrap_or_else(|| Caller::DEFAULT_URL.to_owned());
    let options = SendOptions {
        batch,
        in_flight,
        key: key.map(Key),
        authorities: ca,
        progress: super::output::is_watched(),
        ..SendOptions::default()
    };
    let report = super::runtime()?.block_on(send(&files, &url, options))?;
    output.print(&report)?;
    match report.rejected_in_all() {
        0 => Ok(()),
        rejected => Err(Exit::Found.because(format!("{rejected} of the events were rejected"))),
    }
}
