//! The seeded simulator: one thread, one seed, the project's own code. docs/simulator.md says what it does, how to read
//! a failure and which bugs it has been shown to find.
//!
//! What is real: the judge, lanes and blocks, the commit protocol, tides, segments, reconciliation, the engine's twin.
//! What is the simulator's own: the log, the consumer group, the clock, who runs when and what breaks ([`world`]), and
//! the [`recount`] that judges every answer.

pub mod batch;
pub mod engine;
pub mod executor;
pub mod ground;
pub mod log;
pub mod pinned;
pub mod query;
pub mod recount;
pub mod speed;
pub mod world;
