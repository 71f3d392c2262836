//! A command on a terminal of its own, and somebody who types: `script` makes the terminal.

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

/// Runs the command on a terminal, and types this. What it says on either output comes back together.
pub fn typed(command: &Command, text: &str) -> Output {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let quoted: Vec<String> = words.map(|word| format!("'{}'", word.to_string_lossy().replace('\'', "'\\''"))).collect();
    let mut script = Command::new("script");
    script.args(["--quiet", "--return", "--command", &quoted.join(" "), "/dev/null"]);
    script.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut script = script.spawn().unwrap_or_else(|error| panic!("script (of util-linux) cannot be started: {error}"));
    let mut keyboard = script.stdin.take().expect("piped");
    keyboard.write_all(text.as_bytes()).expect("typed");
    let output = script.wait_with_output();
    drop(keyboard);
    output.expect("it ends")
}
