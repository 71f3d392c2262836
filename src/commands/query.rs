//! `tidemark query`: asks a running tidemark, once or on and on.

use super::Reached;
use super::output::{Output, print, redraw};
use crate::exit::is_unread;
use anyhow::Result;
use clap::builder::PossibleValuesParser;
use comfy_table::{CellAlignment, Table};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use std::time::Duration;
use tidemark_client::{ClientError, Event};
use tidemark_core::view::Dimension;
use tidemark_core::window::Step;
use tidemark_serving::measure::Measure;

/// Before a stream that was cut off is listened to again.
const AGAIN: Duration = Duration::from_secs(1);

/// What names a row; all else are figures.
const NAMES: [&str; 4] = ["window", "event_type", "product_id", "user_id"];

#[derive(clap::Args)]
#[command(after_help = "Examples:
  tidemark query --last 3h --step 15m --by event_type
  tidemark query --from 2026-11-01T00:00:00Z --to 2026-11-08T00:00:00Z --by product_id --top 10:sum --measures count,sum
  tidemark query --last 1h --where event_type:purchase --watch
  tidemark query --last 1d --step 1h --csv > hours.csv")]
pub struct Arguments {
    /// Where the range begins, RFC 3339 or milliseconds, on a window's edge [default: with the first event]
    #[arg(long)]
    from: Option<String>,
    /// Where it ends, itself not included [default: with the last event]
    #[arg(long)]
    to: Option<String>,
    /// The range up to now instead, such as 15m, 3h or 7d
    #[arg(long, conflicts_with_all = ["from", "to"])]
    last: Option<String>,
    /// Width of a bucket
    #[arg(long, default_value = "total", value_parser = PossibleValuesParser::new(Step::NAMES.map(|(name, _)| name)))]
    step: String,
    /// A row for each value of these, comma separated
    #[arg(long, value_name = "DIMENSIONS", value_delimiter = ',', value_parser = PossibleValuesParser::new(Dimension::ALL.map(Dimension::name)))]
    by: Vec<String>,
    /// Only events with this value, dimension:value; several of one dimension are any of them
    #[arg(long = "where", value_name = "DIMENSION:VALUE")]
    filters: Vec<String>,
    /// What is counted, comma separated
    #[arg(long, default_value = "count", value_delimiter = ',', value_parser = PossibleValuesParser::new(Measure::ALL.map(Measure::name)))]
    measures: Vec<String>,
    /// The zone whose days and weeks are meant, such as America/New_York [default: UTC]
    #[arg(long)]
    tz: Option<String>,
    /// Only the N groups with the most, such as 10:count
    #[arg(long, value_name = "N:MEASURE")]
    top: Option<String>,
    /// Wait until this position has been counted, as POST /v1/events gives it
    #[arg(long, conflicts_with = "watch")]
    at_least: Option<String>,
    /// Go on, and show what changes
    #[arg(long)]
    watch: bool,
    #[command(flatten)]
    output: Output,
    /// The answer as CSV
    #[arg(long, conflicts_with_all = ["json", "watch"])]
    csv: bool,
    #[command(flatten)]
    reached: Reached,
}

pub fn run(arguments: Arguments) -> Result<()> {
    super::log("query")?;
    super::runtime()?.block_on(query(arguments))
}

async fn query(arguments: Arguments) -> Result<()> {
    let Arguments { from, to, last, step, by, filters, measures, tz, top, at_least, watch, output, csv, reached } = arguments;
    let api = reached.api()?;
    let columns = columns(&step, &by, &measures);
    let by = (!by.is_empty()).then(|| by.join(","));
    let given = [("from", from), ("to", to), ("last", last), ("group_by", by), ("tz", tz), ("top", top), ("at_least", at_least)];
    let mut parameters = vec![("step", step), ("measures", measures.join(","))];
    parameters.extend(given.into_iter().filter_map(|(name, value)| Some((name, value?))));
    parameters.extend(filters.into_iter().map(|filter| ("where", filter)));
    let parameters: Vec<(&str, &str)> = parameters.iter().map(|(name, value)| (*name, value.as_str())).collect();
    if watch {
        return follow(&api, &parameters, Shown { columns, ..Shown::default() }, output).await;
    }
    if csv {
        return print(api.get_text("/v1/query", &parameters, "text/csv").await?.trim_end_matches('\n'));
    }
    let answer = api.get("/v1/query", &parameters).await?;
    let rows: Vec<&Value> = answer["rows"].as_array().into_iter().flatten().collect();
    output.tell(&answer, format_args!("{}\nexact at {}", table(&columns, &rows), position(&answer["cut"])))
}

/// Shows what a live query tells, until it is stopped. A stream that breaks is taken up again.
async fn follow(api: &tidemark_client::Client, parameters: &[(&str, &str)], mut shown: Shown, output: Output) -> Result<()> {
    let mut last_id: Option<String> = None;
    let watched = async {
        loop {
            match listen(api, parameters, &mut last_id, &mut shown, output).await {
                Err(error) if is_unread(&error) => return Ok(()),
                Err(error) if last_id.is_none() && is_final(&error) => return Err(error),
                Err(error) => eprintln!("{error}; listening again"),
                Ok(()) => eprintln!("the server has ended the stream; listening again"),
            }
            tokio::time::sleep(AGAIN).await;
        }
    };
    tokio::select! {
        ended = watched => ended,
        () = super::stop_signal() => Ok(()),
    }
}

/// True if asking again would not help.
fn is_final(error: &anyhow::Error) -> bool {
    matches!(error.downcast_ref(), Some(ClientError::Refused { .. } | ClientError::Key | ClientError::Authorities(_)))
}

async fn listen(
    api: &tidemark_client::Client,
    parameters: &[(&str, &str)],
    last_id: &mut Option<String>,
    shown: &mut Shown,
    output: Output,
) -> Result<()> {
    let mut events = api.listen("/v1/live", parameters, last_id.as_deref()).await?;
    while let Some(Event { kind, id, data }) = events.next().await? {
        if id.is_some() {
            *last_id = id;
        }
        if output.is_json() {
            print(data)?;
        } else {
            shown.take(&kind, &data);
            shown.show()?;
        }
    }
    Ok(())
}

/// The answer that the events have come to.
#[derive(Default)]
struct Shown {
    columns: Vec<String>,
    rows: BTreeMap<Vec<String>, Value>,
    at: String,
    trouble: Option<String>,
}

impl Shown {
    fn take(&mut self, kind: &str, data: &Value) {
        match kind {
            "snapshot" => self.rows.clear(),
            "change" => {}
            "trouble" => {
                self.trouble = data["detail"].as_str().map(str::to_owned);
                return;
            }
            _ => return,
        }
        self.trouble = None;
        for row in data["gone"].as_array().into_iter().flatten() {
            self.rows.remove(&key(row));
        }
        for row in data["rows"].as_array().into_iter().flatten() {
            self.rows.insert(key(row), row.clone());
        }
        let time = data["watermark"].as_str().map(|at| format!(", event time {at}")).unwrap_or_default();
        self.at = format!("exact at {}{time}", position(&data["cut"]));
    }

    fn show(&self) -> Result<()> {
        let trouble = self.trouble.as_ref().map(|trouble| format!("\nstands still: {trouble}")).unwrap_or_default();
        redraw(&format!("{}\n{}{trouble}", table(&self.columns, &self.rows.values().collect::<Vec<_>>()), self.at))
    }
}

/// A row's window and its dimensions.
fn key(row: &Value) -> Vec<String> {
    NAMES.iter().filter_map(|name| Some(row[*name].as_str()?.to_owned())).collect()
}

fn position(cut: &Value) -> String {
    let pairs = cut.as_object().into_iter().flat_map(Map::iter).map(|(partition, next)| format!("{partition}:{next}"));
    pairs.collect::<Vec<_>>().join(",")
}

/// What an answer's rows have, in the order that was asked for.
fn columns(step: &str, by: &[String], measures: &[String]) -> Vec<String> {
    let window = (step != "total").then(|| "window".to_owned());
    window.into_iter().chain(by.iter().chain(measures).cloned()).collect()
}

/// Figures stand to the right.
fn table(columns: &[String], rows: &[&Value]) -> String {
    if rows.is_empty() {
        return "no rows".to_owned();
    }
    let mut table = Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header(columns);
    for row in rows {
        table.add_row(columns.iter().map(|name| text(&row[name.as_str()])));
    }
    for (n, name) in columns.iter().enumerate() {
        if let (false, Some(column)) = (NAMES.contains(&name.as_str()), table.column_mut(n)) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    table.trim_fmt()
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "-".to_owned(),
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_table_has_the_rows_columns_in_their_order() {
        let rows = [
            json!({"window": "2013-01-01T10:15:00.000Z", "event_type": "UA", "count": 3, "sum": "12.5000"}),
            json!({"window": "2013-01-01T10:20:00.000Z", "event_type": "漢字", "count": 12345, "sum": null}),
        ];
        let columns = columns("5m", &["event_type".into()], &["count".into(), "sum".into()]);
        let table = table(&columns, &rows.iter().collect::<Vec<_>>());
        let lines: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0], ["window", "event_type", "count", "sum"]);
        assert_eq!(
            (lines[1].as_slice(), lines[2].as_slice()),
            (&["2013-01-01T10:15:00.000Z", "UA", "3", "12.5000"][..], &["2013-01-01T10:20:00.000Z", "漢字", "12345", "-"][..])
        );
        assert!(table.lines().nth(1).is_some_and(|line| line.contains("    3 ")), "{table}");
        assert_eq!(super::table(&columns, &[]), "no rows");
        assert_eq!(super::columns("total", &[], &["count".into()]), ["count"]);
    }

    #[test]
    fn what_is_shown_follows_the_events() {
        let mut shown = Shown::default();
        let row = |kind: &str, count: u64| json!({"event_type": kind, "count": count});
        shown.take("snapshot", &json!({"rows": [row("a", 1), row("b", 2)], "gone": [], "cut": {"0": 3}, "watermark": null}));
        shown.take("change", &json!({"rows": [row("a", 5)], "gone": [{"event_type": "b"}], "cut": {"0": 7, "1": 2}, "watermark": "t"}));
        assert_eq!(shown.rows.values().collect::<Vec<_>>(), [&row("a", 5)]);
        assert_eq!(shown.at, "exact at 0:7,1:2, event time t");
        shown.take("trouble", &json!({"detail": "history is away"}));
        assert_eq!(shown.trouble.as_deref(), Some("history is away"));
        shown.take("snapshot", &json!({"rows": [], "gone": [], "cut": {}, "watermark": null}));
        assert_eq!((shown.rows.len(), shown.trouble), (0, None));
    }
}
