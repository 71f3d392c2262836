//! The one binary: what the command line says, and which command does it.

mod commands;
mod config;
mod crew;
mod http;
mod parts;
mod tls;

use clap::{Parser, Subcommand};
use std::ffi::OsString;
use std::process::ExitCode;

/// Counts events: what happens now and what happened last year in one answer, exact at a stated position of the log.
#[derive(Parser)]
#[command(name = "tidemark", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start everything on this machine: Kafka, ClickHouse, ingest, both layers and the HTTP interface
    Up(commands::up::Arguments),
    /// Take events over HTTP and write them to a Kafka that runs elsewhere: one of many
    Ingest(commands::Settings),
    /// Count a Kafka's events, for a Redis to show: one of many that share the partitions
    Speed(commands::Member),
    /// Write a Kafka's events to a ClickHouse: one of many that share the partitions
    Batch(commands::Member),
    /// Answer queries from a ClickHouse and a Redis: one of many
    Serve(commands::Deployed),
    /// Send NDJSON files (plain, .gz or .zst) to a running tidemark
    Send(commands::send::Arguments),
    /// Ask a running tidemark: a table, JSON or CSV; once, or on and on
    Query(commands::query::Arguments),
    /// Say where a running tidemark stands, and what is wrong, if anything is: then it ends with 1
    Status(commands::status::Arguments),
    /// Say what a change of the configuration needs: nothing, a view more, or everything counted anew; how long, and how much disk
    Plan(commands::Place),
    /// Do what a change of the configuration needs, beside what answers; then let it answer
    Apply(commands::replay::generations::Apply),
    /// Do again what a topic went through: count it anew by other rules, or write a range of it into another topic
    Replay(commands::replay::Arguments),
    /// Count the topic anew, and compare with what a running tidemark answers, cell by cell
    Recount(commands::recount::Arguments),
    /// After history has been restored from a backup, or lost: begin again where it is whole
    Restore(commands::Deployed),
    /// Make a key for the HTTP interface, and the lines of the configuration that let it in
    Key(commands::key::Arguments),
    /// Measure what the parts and the whole can do on this machine, and check the counts against a recount
    Bench(commands::bench::Arguments),
    /// The ClickHouse engine, as a child process of `up`
    #[command(name = "__engine", hide = true)]
    Engine {
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
}

fn main() -> ExitCode {
    let done = match Arguments::parse().command {
        Command::Up(arguments) => commands::up::run(arguments),
        Command::Ingest(settings) => commands::ingest::run(settings),
        Command::Speed(arguments) => commands::speed::run(arguments),
        Command::Batch(arguments) => commands::batch::run(arguments),
        Command::Serve(arguments) => commands::serve::run(arguments),
        Command::Send(arguments) => commands::send::run(arguments),
        Command::Query(arguments) => commands::query::run(arguments),
        Command::Status(arguments) => commands::status::run(arguments),
        Command::Plan(place) => commands::plan::run(place),
        Command::Apply(arguments) => commands::plan::apply(arguments),
        Command::Replay(arguments) => commands::replay::run(arguments),
        Command::Recount(arguments) => commands::recount::run(arguments),
        Command::Restore(arguments) => commands::restore::run(arguments),
        Command::Key(arguments) => commands::key::run(&arguments),
        Command::Bench(arguments) => commands::bench::run(&arguments),
        // Before any runtime exists: the engine makes its own.
        Command::Engine { arguments } => return tidemark_embedded::engine_main(arguments),
    };
    tidemark_traces::flush();
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("tidemark: {error:#}");
            ExitCode::FAILURE
        }
    }
}
