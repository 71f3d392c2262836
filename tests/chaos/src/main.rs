//! Faults of every kind, done to real processes while a load goes on and answers are asked for. A judge reads the topic by itself
//! and recomputes each answer at the answer's own cut. While a fault lasts, an answer may be refused or be of an older cut; it may
//! never be wrong. After it, answers are exact again up to all that was acknowledged. `--list` names what is done.
//!
//! One seed decides what is done, to which process and in which order, and what is sent and asked. When it happens depends on the
//! machine.

mod asker;
mod damage;
mod disk;
mod events;
mod fault;
mod load;
mod process;
mod recorder;
mod report;
mod roles;
mod run;
mod up;

use clap::{Parser, ValueEnum};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Disturb real processes, and judge every answer meanwhile.
#[derive(Parser, Debug)]
#[command(name = "chaos")]
struct Args {
    /// Do what a run with this seed did
    #[arg(long)]
    seed: Option<u64>,
    /// Spend so many minutes, divided among the shapes
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
    /// Which deployments to disturb
    #[arg(long, value_enum, default_values_t = [Shape::Up, Shape::Roles])]
    shape: Vec<Shape>,
    /// Do only the faults whose names contain one of these, again and again
    #[arg(long)]
    only: Vec<String>,
    /// Do only faults that are over within seconds
    #[arg(long)]
    short: bool,
    /// List the faults, and do nothing
    #[arg(long)]
    list: bool,
}

/// A kind of deployment.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum, Debug)]
enum Shape {
    /// Everything in one process tree
    Up,
    /// Two processes of each role, three brokers, an engine, Redis
    Roles,
}

fn main() {
    let args = Args::parse();
    if args.list {
        report::list(&[
            ("up", up::faults().iter().map(|of| of.name).collect()),
            ("roles", roles::faults().iter().map(|of| of.name).collect()),
        ]);
        return;
    }
    let seed = args.seed.unwrap_or_else(|| {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        now.as_secs() % 1_000_000
    });
    let lasts = Duration::from_secs_f64(args.minutes * 60.0 / args.shape.len() as f64);
    for shape in &args.shape {
        let plan = run::Plan { seed, lasts, only: args.only.clone(), short: args.short };
        match shape {
            Shape::Up => run::run("up", &plan, up::Up::start, up::faults()),
            Shape::Roles => run::run("roles", &plan, roles::Roles::start, roles::faults()),
        }
    }
}
