//! The speed layer: 5-minute tumbling-window counts of the open epochs, in memory.

pub mod audit;
mod difference;
pub mod gathered;
pub mod metrics;
pub mod publish;
pub mod reconcile;
pub mod reread;
mod rewrite;
pub mod run;
pub mod segment;
mod standstill;
pub mod tide;

pub use run::{Snapshot, Speed};
