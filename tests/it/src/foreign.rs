//! Clients that others have written, in Python and for Node.js.

use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// The checkout's root.
pub fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// The Python that has the packages of `tests/python/requirements.txt`; they are fetched if they are missing.
pub fn python() -> PathBuf {
    prepared(&mut Command::new(root().join("scripts/python-for-tests.sh")))
}

/// Runs a script of `tests/node`, whose packages are fetched if they are missing. Gives the JSON that it prints.
pub fn node(arguments: &[&str]) -> Value {
    let script = Path::new(arguments[0]);
    let directory = script.parent().expect("a script is in a directory");
    let directory = prepared(Command::new(root().join("scripts/node-for-tests.sh")).arg(directory));
    let name = script.file_name().expect("a script has a name");
    let text = said(Command::new("node").arg(directory.join(name)).args(&arguments[1..]));
    serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// What a program says; it must succeed.
pub fn said(command: &mut Command) -> String {
    let output = command.current_dir(root()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{text}\n{}", output.status, String::from_utf8_lossy(&output.stderr));
    text
}

/// Runs a script that prepares something, and gives the path that it prints.
fn prepared(command: &mut Command) -> PathBuf {
    PathBuf::from(said(command.stderr(Stdio::inherit())).trim())
}
