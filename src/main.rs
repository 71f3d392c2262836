//! The one binary: what the command line says, and which command does it.

mod commands;
mod config;
mod crew;
mod exit;
mod http;
mod input;
mod parts;
mod tls;

use clap::{CommandFactory as _, FromArgMatches as _, Parser, Subcommand};
use exit::Exit;
use std::process::ExitCode;

/// Counts events: what happens now and what happened last year in one answer, exact at a stated position of the log.
#[derive(Parser)]
#[command(name = "tidemark", version, max_term_width = 100, after_help = Exit::help())]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start everything on this machine: Kafka, ClickHouse, ingest, both layers and the HTTP interface
    Up(commands::up::Arguments),
    /// Take events over HTTP and write them to a Kafka that runs elsewhere: one of many
    #[command(after_help = "Example:\n  tidemark ingest --config tidemark.toml --listen 0.0.0.0:8080")]
    Ingest(commands::Settings),
    /// Count a Kafka's events, for a Redis to show: one of many that share the partitions
    #[command(after_help = "Example:\n  tidemark speed --config tidemark.toml --name speed-0")]
    Speed(commands::Member),
    /// Write a Kafka's events to a ClickHouse: one of many that share the partitions
    #[command(after_help = "Example:\n  tidemark batch --config tidemark.toml --name batch-0")]
    Batch(commands::Member),
    /// Answer queries from a ClickHouse and a Redis: one of many
    #[command(after_help = "Example:\n  tidemark serve --config tidemark.toml --listen 0.0.0.0:8080")]
    Serve(commands::Deployed),
    /// Send NDJSON files (plain, .gz or .zst) to a running tidemark
    Send(commands::send::Arguments),
    /// Ask a running tidemark: a table, JSON or CSV; once, or on and on
    Query(commands::query::Arguments),
    /// Say where a running tidemark stands, and what is wrong, if anything is
    Status(commands::status::Arguments),
    /// Look at everything that counting rests on, whether tidemark runs or not, and say what to do
    Doctor(commands::doctor::Arguments),
    /// Say what a change of the configuration needs: nothing, a view more, or everything counted anew; how long, and how much disk
    #[command(after_help = "Example:\n  tidemark plan --config new.toml")]
    Plan(commands::Place),
    /// Do what a change of the configuration needs, beside what answers; then let it answer
    Apply(commands::replay::generations::Apply),
    /// Do again what a topic went through: count it anew by other rules, or write a range of it into another topic
    Replay(commands::replay::Arguments),
    /// Count the topic anew, and compare with what a running tidemark answers, cell by cell
    Recount(commands::recount::Arguments),
    /// Compare closed epochs with what was agreed on when they were closed, and repair what differs
    Audit(commands::audit::Arguments),
    /// After history has been restored from a backup, or lost: begin again where it is whole
    Restore(commands::restore::Arguments),
    /// Make a key for the HTTP interface, and the lines of the configuration that let it in
    Key(commands::key::Arguments),
    /// Measure what the parts and the whole can do on this machine, and check the counts against a recount
    Bench(commands::bench::Arguments),
    /// Print what makes a shell complete these commands
    Completions(commands::manual::Completions),
    /// Print the manual page, or write those of all commands into a directory
    Man(commands::manual::Pages),
}

/// The ClickHouse engine, as a child process of `up`. It is nobody's to call, so the command line does not know of it.
pub(crate) const ENGINE: &str = "__engine";

/// Parses the command line. `--version` lists what the Kafka client can do, too.
fn arguments() -> Arguments {
    let version = format!("{}\n{}", env!("CARGO_PKG_VERSION"), tidemark_topic::kafka::client_version());
    let matches = Arguments::command().long_version(&*version.leak()).get_matches();
    Arguments::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
}

fn main() -> ExitCode {
    let mut words = std::env::args_os().skip(1);
    if words.next().is_some_and(|word| word == ENGINE) {
        // Before any runtime exists: the engine makes its own.
        return tidemark_embedded::engine_main(words);
    }
    let done = match arguments().command {
        Command::Up(arguments) => commands::up::run(arguments),
        Command::Ingest(settings) => commands::ingest::run(settings),
        Command::Speed(arguments) => commands::speed::run(arguments),
        Command::Batch(arguments) => commands::batch::run(arguments),
        Command::Serve(arguments) => commands::serve::run(arguments),
        Command::Send(arguments) => commands::send::run(arguments),
        Command::Query(arguments) => commands::query::run(arguments),
        Command::Status(arguments) => commands::status::run(arguments),
        Command::Doctor(arguments) => commands::doctor::run(arguments),
        Command::Plan(place) => commands::plan::run(place),
        Command::Apply(arguments) => commands::plan::apply(arguments),
        Command::Replay(arguments) => commands::replay::run(arguments),
        Command::Recount(arguments) => commands::recount::run(arguments),
        Command::Audit(arguments) => commands::audit::run(arguments),
        Command::Restore(arguments) => commands::restore::run(arguments),
        Command::Key(arguments) => commands::key::run(&arguments),
        Command::Bench(arguments) => commands::bench::run(&arguments),
        Command::Completions(arguments) => commands::manual::completions(&arguments),
        Command::Man(arguments) => commands::manual::pages(&arguments),
    };
    tidemark_traces::flush();
    let exit = match done {
        Ok(()) => Exit::Done,
        Err(error) if exit::is_unread(&error) => Exit::Done,
        Err(error) => {
            eprintln!("tidemark: {}", exit::sentence(&error));
            Exit::of(&error)
        }
    };
    exit.code().into()
}
