//! `tidemark key`: a new key, shown once.

use super::output::Output;
use anyhow::{Context as _, Result};
use serde_json::json;
use tidemark_access::{Digest, Secret};

#[derive(clap::Args)]
#[command(after_help = "Examples:
  tidemark key dashboards
  tidemark key shop --scopes ingest,read --json")]
pub struct Arguments {
    /// Whose it is, for people: it stands in errors, not in requests
    name: String,
    /// What it may do: send events, read counts, pause and resume layers
    #[arg(long, value_delimiter = ',', default_value = "read", value_parser = ["ingest", "read", "admin"])]
    scopes: Vec<String>,
    #[command(flatten)]
    output: Output,
}

pub fn run(arguments: &Arguments) -> Result<()> {
    let Arguments { name, scopes, output } = arguments;
    let secret = Secret::new().context("this system gives no random bytes")?;
    let digest = Digest::of(secret.reveal()).to_string();
    if output.is_json() {
        return output.tell(&json!({"key": secret.reveal(), "name": name, "sha256": digest, "scopes": scopes}), "");
    }
    let (quoted, name): (Vec<String>, _) = (scopes.iter().map(|scope| format!("{scope:?}")).collect(), toml::Value::from(name.as_str()));
    eprintln!("The key, for whoever will use it. It is shown this once, and kept nowhere:\n");
    super::output::print(secret.reveal())?;
    eprintln!("\nWhat lets it in, for the configuration of every process that it should reach:\n");
    eprintln!("[[key]]\nname = {name}\nsha256 = \"{digest}\"\nscopes = [{}]", quoted.join(", "));
    Ok(())
}
