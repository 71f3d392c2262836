//! What `tidemark up` brings along, so that nothing needs to be set up: the ClickHouse engine and one Apache Kafka node.
//!
//! Both are the real ones, as child processes on loopback: `history/` and `topic/` talk to them as they talk to a cluster.
//! [`Embedded`] starts them in a [`DataDir`], restarts one that dies, and stops them. All unsafe code is in `ffi/`.

mod broker;
mod child;
mod data_dir;
mod embedded;
mod engine;
mod error;
#[expect(unsafe_code, reason = "the C interface of libchdb and three process calls; each block says why it is sound")]
mod ffi;
mod locate;

pub use broker::{Broker, BrokerOptions};
pub use child::{ChildState, Supervisor, spawn_dying_with_us};
pub use data_dir::{DataDir, Runtime, free_ports};
pub use embedded::{Embedded, EmbeddedOptions};
pub use engine::{Engine, EngineArgs, EngineCommand, EngineLimits, engine_main};
pub use error::Error;
pub use locate::Engines;
