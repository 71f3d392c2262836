//! What is done with the topic again: counted anew, to compare ([`mod@recount`]) or to answer from then on ([`rebuild`]), or
//! written into another topic, as files and raw history are ([`mod@publish`]).
//!
//! A running tidemark is asked as any client asks; `reading` reads the topic from its beginning, and what it no
//! longer has from raw history. [`whole`] is that for the layers, which fill a new generation as they fill any;
//! [`mod@compare`] holds two generations side by side, and [`plan`] says beforehand what
//! it comes to.

pub mod compare;
pub mod plan;
pub mod publish;
mod reading;
pub mod rebuild;
pub mod recount;
pub mod whole;

pub use publish::{Pace, publish};
pub use recount::{Difference, RecountError, Report, recount};
