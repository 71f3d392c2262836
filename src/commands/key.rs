//! `tidemark key`: a new key, shown once.

use anyhow::{Context as _, Result};
use tidemark_access::{Digest, Secret};

#[derive(clap::Args)]
pub struct Arguments {
    /// Whose it is, for people: it stands in errors, not in requests
    name: String,
    /// What it may do: send events, read counts, pause and resume layers
    #[arg(long, value_delimiter = ',', default_value = "read", value_parser = ["ingest", "read", "admin"])]
    scopes: Vec<String>,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let secret = Secret::new().context("this system gives no random bytes")?;
    let scopes: Vec<String> = arguments.scopes.iter().map(|scope| format!("{scope:?}")).collect();
    let name = toml::Value::from(arguments.name.as_str());
    eprintln!("The key, for whoever will use it. It is shown this once, and kept nowhere:\n");
    println!("{}", secret.reveal());
    eprintln!("\nWhat lets it in, for the configuration of every process that it should reach:\n");
    eprintln!("[[key]]\nname = {name}\nsha256 = \"{}\"\nscopes = [{}]", Digest::of(secret.reveal()), scopes.join(", "));
    Ok(())
}
