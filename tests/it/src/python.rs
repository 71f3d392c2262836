//! Programs of others, in Python.

use std::path::PathBuf;
use std::process::{Command, Stdio};

/// The checkout's root.
pub fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The Python that has the packages of `tests/python/requirements.txt`; they are fetched if they are missing.
pub fn python() -> PathBuf {
    let output = Command::new(root().join("scripts/python-for-tests.sh")).stderr(Stdio::inherit()).output().expect("started");
    assert!(output.status.success(), "scripts/python-for-tests.sh: {}", output.status);
    PathBuf::from(String::from_utf8(output.stdout).expect("a path").trim())
}

/// What a program says; it must succeed.
pub fn said(command: &mut Command) -> String {
    let output = command.current_dir(root()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{text}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    text
}
