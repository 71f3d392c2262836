//! Settings by the environment: `TIDEMARK__CLICKHOUSE__PASSWORD=…`, or `…_FILE=` with the path of a file that holds it.

use anyhow::{Context as _, Result, bail};
use std::ffi::OsString;
use toml::{Table, Value};

const PREFIX: &str = "TIDEMARK__";
const FILE: &str = "_FILE";

/// One setting, as text.
#[derive(Debug)]
pub struct Setting {
    /// The variable's name, for errors; they do not say its value.
    variable: String,
    path: Vec<String>,
    value: String,
}

/// All settings among the variables.
pub fn settings(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Result<Vec<Setting>> {
    let of_ours = variables.into_iter().filter_map(|(name, value)| Some((name.into_string().ok()?, value)));
    of_ours.filter(|(name, _)| name.starts_with(PREFIX)).map(|(name, value)| Setting::new(name, value)).collect()
}

impl Setting {
    fn new(variable: String, value: OsString) -> Result<Self> {
        let value = value.into_string().ok().with_context(|| format!("{variable} is not UTF-8"))?;
        let name = variable[PREFIX.len()..].to_lowercase();
        let (name, value) = match name.strip_suffix(&FILE.to_lowercase()) {
            Some(name) => {
                let text = std::fs::read_to_string(&value).with_context(|| format!("{variable} names {value}, which cannot be read"))?;
                (name.to_owned(), text.trim_end_matches(['\r', '\n']).to_owned())
            }
            None => (name, value),
        };
        let mut path: Vec<String> = name.split("__").map(str::to_owned).collect();
        // librdkafka's names have dots, which a variable's name cannot have.
        if let [first, second, client] = &mut path[..]
            && (first.as_str(), second.as_str()) == ("kafka", "client")
        {
            *client = client.replace('_', ".");
        }
        Ok(Self { variable, path, value })
    }

    /// Puts the value where it belongs, as what stood there before.
    pub fn put_into(self, settings: &mut Table) -> Result<()> {
        let Self { variable, path, value } = self;
        let Some((last, tables)) = path.split_last() else { bail!("{variable} names no setting") };
        let mut table = settings;
        for name in tables {
            let inner = table.get_mut(name).and_then(Value::as_table_mut);
            table = inner.with_context(|| format!("{variable}: there is no group of settings `{name}`"))?;
        }
        let typed = match table.get(last) {
            Some(Value::Integer(_)) => Value::Integer(value.parse().ok().with_context(|| format!("{variable} must be a whole number"))?),
            Some(Value::Boolean(_)) => Value::Boolean(value.parse().ok().with_context(|| format!("{variable} must be true or false"))?),
            Some(Value::Table(_) | Value::Array(_)) => bail!("{variable} names several settings; they can be given in a file only"),
            // What is not there is refused by name when all is read.
            _ => Value::String(value),
        };
        table.insert(last.clone(), typed);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    fn parsed(variables: &[(&str, &str)]) -> Result<Config> {
        let variables = variables.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        Config::parse("[kafka]\ntopic = \"of the file\"\n", settings(variables)?)
    }

    #[test]
    fn a_variable_goes_before_the_file() {
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(&file, "se=cret\n").expect("written");
        let config = parsed(&[
            ("TIDEMARK__KAFKA__TOPIC", "of the environment"),
            ("TIDEMARK__KAFKA__PARTITIONS", "7"),
            ("TIDEMARK__OPEN", "true"),
            ("TIDEMARK__CLICKHOUSE__PASSWORD_FILE", file.path().to_str().expect("UTF-8")),
            ("TIDEMARK__KAFKA__CLIENT__SASL_PASSWORD", "x"),
            ("TIDEMARK_KEY", "of another program"),
        ]);
        let config = config.expect("valid");
        assert_eq!((&*config.kafka.topic, config.kafka.partitions, config.open), ("of the environment", 7, true));
        assert_eq!(config.clickhouse.password, "se=cret");
        assert_eq!(config.kafka.client.get("sasl.password").map(String::as_str), Some("x"));
    }

    #[test]
    fn what_cannot_be_set_is_refused_by_the_variables_name_without_its_value() {
        for (variable, value, says) in [
            ("TIDEMARK__KAFKA__PARTITIONS", "se=cret", "whole number"),
            ("TIDEMARK__OPEN", "se=cret", "true or false"),
            ("TIDEMARK__VIEW", "se=cret", "file only"),
            ("TIDEMARK__KAFKA", "se=cret", "file only"),
            ("TIDEMARK__KAFKKA__TOPIC", "se=cret", "kafkka"),
            ("TIDEMARK__KAFKA__TOPICK", "se=cret", "topick"),
            ("TIDEMARK__CLICKHOUSE__PASSWORD_FILE", "/not/there", "cannot be read"),
        ] {
            let error = format!("{:#}", parsed(&[(variable, value)]).expect_err("refused"));
            assert!(error.contains(says) && !error.contains("se=cret"), "{variable}: {error}");
        }
    }
}
