//! The real events of `tests/data`, unpacked.

use std::io::Read as _;
use std::path::PathBuf;

/// A file of `tests/data`.
pub fn path(name: &str) -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "../data", name].iter().collect()
}

/// A file's bytes, unpacked if its name ends in `.gz` or `.zst`.
pub fn bytes(name: &str) -> Vec<u8> {
    let path = path(name);
    let packed = std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    if name.ends_with(".gz") {
        let mut bytes = Vec::new();
        flate2::read::GzDecoder::new(&*packed).read_to_end(&mut bytes).unwrap_or_else(|error| panic!("{name} is not gzip: {error}"));
        bytes
    } else if name.ends_with(".zst") {
        zstd::decode_all(&*packed).unwrap_or_else(|error| panic!("{name} is not zstd: {error}"))
    } else {
        packed
    }
}

/// The same as text.
pub fn text(name: &str) -> String {
    String::from_utf8(bytes(name)).unwrap_or_else(|error| panic!("{name} is not UTF-8: {error}"))
}

/// The lines of an NDJSON file. Not text: the dirty file is not UTF-8.
pub fn lines(bytes: &[u8]) -> Vec<&[u8]> {
    let mut lines: Vec<&[u8]> = bytes.split(|byte| *byte == b'\n').collect();
    if lines.last().is_some_and(|last| last.is_empty()) {
        lines.pop();
    }
    lines
}
