//! The ClickHouse engine as a program of its own, for this crate's tests. `tidemark __engine` is the same.

use std::process::ExitCode;

fn main() -> ExitCode {
    tidemark_embedded::engine_main(std::env::args_os().skip(1))
}
