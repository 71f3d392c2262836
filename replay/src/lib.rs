//! What is done with the topic again: counted anew, to compare ([`recount`]).
//!
//! [`api`] asks a running tidemark, as any client does; [`reading`] reads the topic from its beginning, and what it no
//! longer has from raw history.

pub mod api;
mod reading;
pub mod recount;

pub use api::{Api, ApiError};
pub use recount::{Difference, RecountError, Report, recount};
