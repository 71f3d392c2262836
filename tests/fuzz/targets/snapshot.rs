//! Any bytes as what Redis holds: understood or refused.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| tidemark_snapshot::fuzzing::read(bytes));
