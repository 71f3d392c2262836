//! `tidemark status`: where a running tidemark stands.

use super::Reached;
use super::output::{Output, print, redraw};
use crate::exit::{Exit, is_unread};
use anyhow::Result;
use comfy_table::{CellAlignment, Table};
use serde_json::Value;
use std::time::Duration;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(1);

#[derive(clap::Args)]
#[command(after_help = "Examples:
  tidemark status
  tidemark status --watch --url http://tidemark.example:8080
  tidemark status --json | jq '.partitions[].lag'")]
pub struct Arguments {
    /// Go on, once a second
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    output: Output,
    #[command(flatten)]
    reached: Reached,
}

pub fn run(arguments: Arguments) -> Result<()> {
    super::log("status")?;
    super::runtime()?.block_on(status(arguments))
}

async fn status(Arguments { watch, output, reached }: Arguments) -> Result<()> {
    let api = reached.api()?;
    if watch {
        return tokio::select! {
            ended = follow(&api, output) => ended,
            () = super::stop_signal() => Ok(()),
        };
    }
    let status = api.get("/v1/status", &[]).await?;
    output.tell(&status, text(&status))?;
    match troubles(&status) {
        troubles if troubles.is_empty() => Ok(()),
        troubles => Err(Exit::Found.because(format!("not well: {}", troubles.join("; ")))),
    }
}

/// Looks again and again. A server that does not answer may do so later.
async fn follow(api: &tidemark_client::Client, output: Output) -> Result<()> {
    loop {
        let shown = match api.get("/v1/status", &[]).await {
            Ok(status) if output.is_json() => print(status),
            Ok(status) => redraw(&text(&status)),
            Err(error) => {
                eprintln!("{error}");
                Ok(())
            }
        };
        if let Err(error) = shown {
            return if is_unread(&error) { Ok(()) } else { Err(error) };
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// For people.
fn text(status: &Value) -> String {
    let mut lines = vec![format!(
        "topic {}, generation {}, event time {}",
        status["topic"].as_str().unwrap_or("?"),
        status["generation"],
        status["watermark"].as_str().unwrap_or("not known yet"),
    )];
    let names = ["partition", "mark", "history", "speed", "end", "lag", "history_lag", "open_epochs"];
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(names);
    for partition in status["partitions"].as_array().into_iter().flatten() {
        table.add_row(names.map(|name| match &partition[name] {
            Value::Null => "-".to_owned(),
            figure => figure.to_string(),
        }));
    }
    table.column_iter_mut().for_each(|column| column.set_cell_alignment(CellAlignment::Right));
    lines.push(table.trim_fmt());
    for other in status["other_generations"].as_array().into_iter().flatten() {
        lines.push(format!("generation {} is {}", other["generation"], other["state"].as_str().unwrap_or("?")));
    }
    lines.extend(troubles(status).into_iter().map(|trouble| format!("not well: {trouble}")));
    lines.join("\n")
}

/// What is not as it should be, in words.
pub(super) fn troubles(status: &Value) -> Vec<String> {
    let said = |value: &Value| value["trouble"].as_str().map(str::to_owned);
    let layers = status["layers"].as_object().into_iter().flatten();
    let paused = layers.clone().filter(|(_, layer)| layer["paused"] == true).map(|(name, _)| format!("the {name} layer is paused"));
    let unready: Vec<String> = status["partitions"]
        .as_array()
        .into_iter()
        .flatten()
        .filter(|partition| partition["ready"] == false)
        .map(|partition| partition["partition"].to_string())
        .collect();
    let unready = (!unready.is_empty()).then(|| format!("nothing is known yet of partition {}", unready.join(", ")));
    let broken = status["broken_invariants"].as_u64().filter(|broken| *broken > 0);
    let broken = broken.map(|broken| format!("{broken} checks of invariants have failed: the log says which"));
    let damaged = status["ledger"]["damaged"].as_array().map_or(0, Vec::len);
    let damaged = (damaged > 0).then(|| format!("{damaged} closed epochs are damaged, and not answered from: `tidemark audit` says more"));
    said(&status["live"])
        .into_iter()
        .chain(damaged)
        .chain(said(&status["ledger"]))
        .chain(layers.filter_map(|(_, layer)| said(layer)))
        .chain(paused)
        .chain(unready)
        .chain(broken)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn what_is_wrong_is_told_in_words() {
        let well = json!({
            "topic": "events", "generation": 2, "watermark": "2013-01-01T10:15:00.000Z", "broken_invariants": 0,
            "partitions": [{"partition": 0, "ready": true, "mark": 512, "history": 700, "speed": 701, "end": 701, "lag": 0, "history_lag": 1, "open_epochs": 1}],
            "other_generations": [{"generation": 1, "state": "ready"}], "live": {"trouble": null}, "layers": {"speed": {"paused": false, "trouble": null}},
        });
        assert_eq!(troubles(&well), Vec::<String>::new());
        let shown = text(&well);
        assert!(
            shown.contains("topic events, generation 2") && shown.contains("701") && shown.contains("generation 1 is ready"),
            "{shown}"
        );
        let mut ill = well;
        ill["layers"]["speed"] = json!({"paused": true, "trouble": "waiting for the log"});
        ill["partitions"][0] = json!({"partition": 0, "ready": false});
        ill["ledger"] = json!({"repairing": null, "damaged": [{"partition": 0, "epoch": 1}], "trouble": "history does not answer"});
        ill["broken_invariants"] = json!(1);
        assert_eq!(troubles(&ill).len(), 6, "{:?}", troubles(&ill));
        assert!(text(&ill).contains("not well: nothing is known yet of partition 0"));
    }
}
