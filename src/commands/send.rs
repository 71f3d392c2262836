//! `tidemark send`

use anyhow::{Result, bail};
use std::path::PathBuf;
use tidemark_ingest::{Key, SendOptions, send};

#[derive(clap::Args)]
pub struct Arguments {
    /// Files of one JSON event a line, plain or packed by gzip or zstd; `-` is standard input
    #[arg(required = true)]
    files: Vec<PathBuf>,
    /// The server's address
    #[arg(long, default_value = "http://127.0.0.1:8080", env = "TIDEMARK_URL")]
    url: String,
    /// Events in a request
    #[arg(long, default_value_t = SendOptions::default().batch)]
    batch: usize,
    /// Requests under way at a time
    #[arg(long, default_value_t = SendOptions::default().in_flight)]
    in_flight: usize,
    /// The key that the server wants, if it wants one; better by the environment, which other users cannot see
    #[arg(long, env = "TIDEMARK_KEY", hide_env_values = true)]
    key: Option<String>,
    /// Whom to trust at an https:// address, a file in PEM [default: the system's authorities]
    #[arg(long, value_name = "FILE")]
    ca: Option<PathBuf>,
}

pub fn run(arguments: Arguments) -> Result<()> {
    let Arguments { files, url, batch, in_flight, key, ca } = arguments;
    let options = SendOptions { batch, in_flight, key: key.map(Key), authorities: ca, ..SendOptions::default() };
    let report = super::runtime()?.block_on(send(&files, &url, options))?;
    println!("{report}");
    let rejected: u64 = report.rejected.values().sum();
    if rejected > 0 {
        bail!("{rejected} of the events were rejected");
    }
    Ok(())
}
