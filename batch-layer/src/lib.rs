//! The batch layer: records from the log into history, block by block, each exactly once.

pub mod commit;
mod in_flight;
pub mod lane;
pub mod metrics;
pub mod position;
pub mod run;

pub use lane::BlockLimits;
pub use run::{Batch, run};
