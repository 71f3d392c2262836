//! The built binary with real engines: what issue 3 says "it must show", each by a test.
//!
//! One program, so that tests share its slots: a test waits for one before it starts a server.

mod accidents;
mod any_moment;
mod asking;
mod attack;
mod audit;
mod bad_requests;
mod bounded;
mod client;
mod dialects;
mod disaster;
mod doctor;
mod explain;
mod flights;
mod january;
mod kafka_security;
mod keys;
mod kill;
mod life;
mod live;
mod metrics;
mod openapi;
mod overload;
mod permalinks;
mod prometheus;
mod proof;
mod publish;
mod publish_files;
mod raw;
mod read_your_write;
mod rebuild;
mod roles;
mod scaled;
mod timing;
mod tls;
mod traces;
