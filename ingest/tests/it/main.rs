//! Ingest in process: the routes over a topic in memory, and `send` against a server of them.

#![expect(clippy::unwrap_used, reason = "a test's helper may fail as the test does")]

mod fake;
mod routes;
mod send;

use std::io::Read;

/// A file of `tests/data`.
fn data_file(name: &str) -> std::path::PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../tests/data", name].iter().collect()
}

/// The same, unpacked.
fn unpacked(name: &str) -> Vec<u8> {
    let file = std::fs::File::open(data_file(name)).expect(name);
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).expect("gzip");
    bytes
}

/// An event named `id`, of the user `u`.
fn event(id: &str) -> String {
    format!(r#"{{"event_type":"a","timestamp":"2013-01-01T00:00:00Z","event_id":"{id}","user_id":"u"}}"#)
}
