//! Serving: questions over HTTP, answered from both layers at one cut.
//!
//! A query string becomes a [`plan`], the [`engine`] asks both layers and merges, [`answer`] writes it down ([`columnar`] as
//! columns), and [`written`] is what is sent; [`kept`] sends it again while nothing has moved, [`push`] tells what changes,
//! and [`explain`] what a number is made of; [`api`] is the HTTP around it, and `described` says what that is. Each generation has an engine, of which one is
//! [`answering`], and [`admission`] says how much goes on at a time.

pub mod admission;
pub mod answer;
pub mod answering;
pub mod api;
pub mod columnar;
mod described;
pub mod engine;
pub mod explain;
pub mod kept;
mod ledger;
pub mod live;
pub mod measure;
pub mod metrics;
pub mod packed;
pub mod plan;
pub mod prometheus;
pub mod push;
pub mod snapshots;
pub mod written;
