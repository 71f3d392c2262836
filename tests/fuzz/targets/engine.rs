//! Any text as what ClickHouse says: an exception's code, a generation's rules, raw properties.
#![no_main]

libfuzzer_sys::fuzz_target!(|text: &str| tidemark_history::clickhouse::fuzzing::read(text));
