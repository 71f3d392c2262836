//! `tidemark replay`: one file for copies of the topic, one for generations.

pub mod generations;
mod publish;

use anyhow::Result;
use clap::Subcommand;

#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Count everything anew by the configuration's rules, beside what answers; compare both; and let the new one answer
    Rebuild(generations::Rebuild),
    /// Say which generations there are, by which rules each counts, and which one answers
    #[command(after_help = "Example:\n  tidemark replay status --config tidemark.toml --json")]
    Status(super::Place),
    /// Let a generation answer that is ready
    #[command(after_help = "Example:\n  tidemark replay switch 2 --config tidemark.toml")]
    Switch(generations::Chosen),
    /// Let the generation answer again that did before
    #[command(after_help = "Example:\n  tidemark replay rollback --config tidemark.toml")]
    Rollback(super::Place),
    /// Delete a generation that does not answer, or give up filling it
    #[command(after_help = "On a terminal you are asked for the generation's number; elsewhere --confirm gives it.

Examples:
  tidemark replay drop 1
  tidemark replay drop 1 --confirm 1 --json")]
    Drop(generations::Dropped),
    /// Write a range of the topic, files of events or raw history into a topic of the same Kafka: each record once, whatever is killed
    Publish(publish::Arguments),
}

pub fn run(arguments: Arguments) -> Result<()> {
    super::log("replay")?;
    super::runtime()?.block_on(async {
        match arguments.command {
            Command::Rebuild(arguments) => generations::rebuild(arguments).await,
            Command::Status(place) => generations::status(place).await,
            Command::Switch(chosen) => generations::switch(chosen).await,
            Command::Rollback(place) => generations::rollback(place).await,
            Command::Drop(chosen) => generations::drop(chosen).await,
            Command::Publish(arguments) => publish::run(arguments).await,
        }
    })
}
