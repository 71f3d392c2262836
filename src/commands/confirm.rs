//! Before something is destroyed, somebody says its name.

use crate::exit::Exit;
use anyhow::{Context as _, Result};
use std::io::{BufRead as _, IsTerminal as _, Write as _};

/// The confirmation of a command that deletes.
#[derive(clap::Args, Clone, Debug)]
pub struct Confirmation {
    /// Confirms what is deleted by its name, where nobody can be asked: in a script
    #[arg(long, value_name = "NAME")]
    confirm: Option<String>,
}

/// What a confirmation comes to before anybody is asked.
#[derive(PartialEq, Eq, Debug)]
enum Given {
    Confirmed,
    Ask,
    Refused(String),
}

impl Confirmation {
    /// Goes on if `name` has been given, or is typed now. `what` says in a sentence what will be gone.
    pub fn of(&self, name: &str, what: &str) -> Result<()> {
        let is_terminal = std::io::stdin().is_terminal() && std::io::stderr().is_terminal();
        match given(self.confirm.as_deref(), name, what, is_terminal) {
            Given::Confirmed => return Ok(()),
            Given::Refused(reason) => return Err(Exit::Refused.because(reason)),
            Given::Ask => {}
        }
        eprint!("{what}\nType {name} to go on: ");
        std::io::stderr().flush().context("asking")?;
        let mut typed = String::new();
        std::io::stdin().lock().read_line(&mut typed).context("reading the answer")?;
        if typed.trim() == name {
            return Ok(());
        }
        Err(Exit::Refused.because(format!("that is not {name}: nothing has been deleted")))
    }
}

fn given(confirm: Option<&str>, name: &str, what: &str, is_terminal: bool) -> Given {
    match confirm {
        Some(given) if given == name => Given::Confirmed,
        Some(given) => Given::Refused(format!("--confirm says `{given}`, but what would be deleted is `{name}`: nothing has been deleted")),
        None if is_terminal => Given::Ask,
        None => Given::Refused(format!("{what} Nobody can be asked here: if that is meant, say --confirm {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_deleted_unless_its_name_has_been_said() {
        let says = |confirm, is_terminal| given(confirm, "2", "Generation 2 will be deleted.", is_terminal);
        assert_eq!((says(Some("2"), false), says(Some("2"), true), says(None, true)), (Given::Confirmed, Given::Confirmed, Given::Ask));
        assert!(matches!(says(None, false), Given::Refused(reason) if reason.contains("--confirm 2")));
        for is_terminal in [false, true] {
            assert!(matches!(says(Some("3"), is_terminal), Given::Refused(reason) if reason.contains("`3`") && reason.contains("`2`")));
        }
    }
}
