//! The only unsafe code of the project: the C interface of the ClickHouse engine's library, and the few process calls
//! that the standard library does not offer. What leaves this module is safe to use in any order.

pub(crate) mod chdb;
pub(crate) mod process;
pub(crate) mod sandbox;
