//! What commands print: for people, or with `--json` for scripts.

use anstream::{AutoStream, ColorChoice};
use anyhow::{Context as _, Result};
use serde::Serialize;
use std::fmt::Display;
use std::io::{IsTerminal as _, Write as _};

/// How a command prints what it has to say.
#[derive(clap::Args, Clone, Copy, Debug)]
pub struct Output {
    /// For scripts: JSON on standard output, one document a line; of what goes on for long, progress too
    #[arg(long)]
    json: bool,
}

impl Output {
    pub fn is_json(self) -> bool {
        self.json
    }

    /// Prints a report: as it shows itself, or as JSON.
    pub fn print<T: Serialize + Display>(self, report: &T) -> Result<()> {
        self.tell(report, report)
    }

    /// The same, where one thing is for scripts and another for people.
    pub fn tell(self, json: &impl Serialize, text: impl Display) -> Result<()> {
        if self.json { print(serde_json::to_string(json)?) } else { print(text) }
    }

    /// Says something to people alone.
    pub fn say(self, text: impl Display) -> Result<()> {
        if self.json { Ok(()) } else { print(text) }
    }
}

/// Prints a line, or some. That nobody reads them ends the command, quietly ([`crate::exit::is_unread`]). Colours are left out
/// where they are not wanted.
pub fn print(text: impl Display) -> Result<()> {
    let mut out = anstream::stdout().lock();
    writeln!(out, "{text}").and_then(|()| out.flush()).context("printing")
}

/// Whether standard error wants colours: NO_COLOR, CLICOLOR, CLICOLOR_FORCE, TERM and whether it is a terminal decide.
pub fn colours_errors() -> bool {
    AutoStream::choice(&std::io::stderr()) != ColorChoice::Never
}

/// Whether there is somebody at standard error who sees something move.
pub fn is_watched() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// Shows a text in the place of the one before, if there is a terminal.
pub fn redraw(text: &str) -> Result<()> {
    let moves = std::io::stdout().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    let clear = if moves { "\x1b[2J\x1b[H" } else { "" };
    let mut out = std::io::stdout().lock();
    writeln!(out, "{clear}{text}").and_then(|()| out.flush()).context("printing")
}
