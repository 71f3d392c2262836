//! HTTP → topic. `POST /v1/events`, and what speaks a dialect beside it, validates each event with the same `decode` as both layers, writes what is valid
//! to the topic in the order in which it came, and answers when the brokers have acknowledged it (invariant I7).
//!
//! On the way of a request: `body.rs` reads the headers and unpacks, `items.rs` splits and judges, with `dialect/` for what
//! CloudEvents and Segment send (all pure), `route.rs` does the rest (⇄). [`send`] is the client behind `tidemark send` (⇄). [`Problem`] is what every part of the HTTP
//! interface answers when something is wrong.

mod body;
mod described;
mod dialect;
mod items;
pub mod lines;
pub mod problem;
mod route;
mod send;

pub use body::{MAX_SENT_BYTES, MAX_UNPACKED_BYTES};
pub use items::{MAX_ITEMS, key_of};
pub use problem::Problem;
pub use route::{Counts, Described, Ingest, routes};
pub use send::{Cause, Key, Rejected, SendError, SendOptions, SendReport, send};
