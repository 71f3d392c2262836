//! `tidemark completions` and `tidemark man`: what is made from the command line's own description.

use super::output::print;
use anyhow::{Context as _, Result};
use clap::{Command, CommandFactory as _};
use clap_complete::Shell;
use std::path::PathBuf;

#[derive(clap::Args)]
#[command(after_help = "Examples:
  tidemark completions bash > ~/.local/share/bash-completion/completions/tidemark
  tidemark completions fish > ~/.config/fish/completions/tidemark.fish
  tidemark completions zsh > \"${fpath[1]}/_tidemark\"")]
pub struct Completions {
    /// The shell that they are for
    shell: Shell,
}

#[derive(clap::Args)]
#[command(after_help = "Examples:
  tidemark man | man -l -
  tidemark man ~/.local/share/man/man1")]
pub struct Pages {
    /// Where to write a page for each command; made if it is not there
    #[arg(value_name = "DIR")]
    directory: Option<PathBuf>,
}

pub fn completions(arguments: &Completions) -> Result<()> {
    print(String::from_utf8(completed(arguments.shell)).context("a completion that is no text")?.trim_end())
}

pub fn pages(arguments: &Pages) -> Result<()> {
    let Some(directory) = &arguments.directory else {
        let mut page = Vec::new();
        clap_mangen::Man::new(described()).render(&mut page).context("writing the page")?;
        return print(String::from_utf8(page).context("a page that is no text")?.trim_end());
    };
    std::fs::create_dir_all(directory).with_context(|| format!("making the directory {}", directory.display()))?;
    clap_mangen::generate_to(described(), directory).with_context(|| format!("writing pages into {}", directory.display()))?;
    print(format!("the pages are in {}", directory.display()))
}

/// The command line.
fn described() -> Command {
    crate::Arguments::command()
}

fn completed(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut described(), "tidemark", &mut script);
    script
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum as _;

    /// Every command that people may call, with the words before it: `tidemark-replay-drop`.
    fn all(command: &Command, name: &str) -> Vec<(String, Command)> {
        let inner = command.get_subcommands();
        let inner: Vec<_> = inner.flat_map(|inner| all(inner, &format!("{name}-{}", inner.get_name()))).collect();
        [vec![(name.to_owned(), command.clone())], inner].concat()
    }

    #[test]
    fn every_command_has_a_page() {
        let dir = tempfile::tempdir().expect("a directory");
        pages(&Pages { directory: Some(dir.path().join("man1")) }).expect("written");
        for (name, _) in all(&described(), "tidemark") {
            let page = std::fs::read_to_string(dir.path().join(format!("man1/{name}.1"))).unwrap_or_else(|error| panic!("{name}: {error}"));
            assert!(page.contains(".SH SYNOPSIS"), "{name}: {page}");
        }
    }

    #[test]
    fn every_shell_completes_every_command() {
        for shell in Shell::value_variants() {
            let script = String::from_utf8(completed(*shell)).expect("text");
            for (name, command) in all(&described(), "tidemark") {
                assert!(script.contains(command.get_name()), "{shell}: {name}");
            }
        }
    }

    /// One sentence that says what it does, and an example of each command that does something.
    #[test]
    fn every_help_teaches() {
        for (name, command) in all(&described(), "tidemark") {
            assert!(command.get_about().is_some(), "{name} does not say what it does");
            let has_example = command.get_after_help().is_some_and(|text| text.to_string().contains("Example"));
            assert!(has_example || command.has_subcommands(), "{name} has no example");
        }
    }

    /// docs/cli.md is written by hand, and names all there is.
    #[test]
    fn the_document_names_every_command_and_every_exit_code() {
        let document = include_str!("../../docs/cli.md");
        for (name, _) in all(&described(), "tidemark") {
            let words = name.replace('-', " ");
            assert!(document.contains(&format!("`{words}")), "docs/cli.md does not name `{words}`");
        }
        for exit in crate::exit::Exit::ALL {
            let line = format!("| {} | {} |", exit.code(), exit.meaning());
            assert!(document.contains(&line), "docs/cli.md does not say {line}");
        }
    }

    #[test]
    fn the_command_line_is_sound() {
        described().debug_assert();
    }
}
