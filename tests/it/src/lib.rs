//! Support for tests of the built binary: a server on a directory of its own ([`server`]), its HTTP interface
//! ([`client`]), real files to send ([`data`], [`sending`]), the answers that are known ([`expected`]), and the judge
//! ([`recount`]): it reads Kafka by itself, parses by its own rules, and recomputes any answer at that answer's cut.
//!
//! What goes wrong here ends the test with a sentence; nothing is retried but what a client of Tidemark would retry.

pub mod admin;
pub mod certificates;
pub mod chance;
pub mod client;
pub mod cluster;
pub mod collector;
pub mod data;
pub mod doors;
pub mod expected;
pub mod figure;
pub mod foreign;
pub mod freshness;
pub mod listening;
pub mod proxy;
pub mod question;
pub mod recount;
pub mod redis;
pub mod retention;
pub mod role;
pub mod sending;
pub mod server;
mod slots;
pub mod terminal;
pub mod wait;
