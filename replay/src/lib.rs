//! What is done with the topic again: counted anew, to compare ([`mod@recount`]), or written into another topic ([`mod@publish`]).
//!
//! [`api`] asks a running tidemark, as any client does; `reading` reads the topic from its beginning, and what it no
//! longer has from raw history.

pub mod api;
pub mod publish;
mod reading;
pub mod recount;

pub use api::{Api, ApiError};
pub use publish::{Pace, publish};
pub use recount::{Difference, RecountError, Report, recount};
