//! `tidemark bench plan`: what a number of events a day needs and costs, from what an event has been measured to cost.
//! Nothing is run: [`model`] has the arithmetic, and this file what goes in and comes out.

mod model;

use anyhow::{Context as _, Result, bail, ensure};
use model::{Coefficients, KNOWN, Plan, Settings, TARGETS};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

/// What events a day need: partitions, cores, memory, disk, and $ per million events beside the targets
///
/// Nothing is run. Each coefficient was measured by the bench that stands beside it; measure on
/// your own machines, and pass the reports that `--json` wrote. Only Redis is an estimate: it is
/// shown, and is not in the cost.
///
///     tidemark bench speed --events 5000000 --json speed.json
///     tidemark bench batch --json batch.json
///     tidemark bench plan --coefficients speed.json --coefficients batch.json --set events_bytes=13
#[derive(clap::Args)]
#[command(verbatim_doc_comment)]
pub struct Arguments {
    /// Events a day, such as 10e9; without it 100 million, 1 and 10 billion side by side
    #[arg(long)]
    events_per_day: Option<f64>,
    /// Coefficients from a file: the report of another bench (--json), or an object of names and values; repeatable
    #[arg(long, value_name = "FILE")]
    coefficients: Vec<PathBuf>,
    /// One coefficient, by the name that the output shows; repeatable, and stronger than the files
    #[arg(long, value_name = "NAME=VALUE")]
    set: Vec<String>,
    #[command(flatten)]
    settings: Settings,
}

pub fn run(arguments: &Arguments, json_file: Option<&Path>) -> Result<()> {
    let settings = &arguments.settings;
    check(settings)?;
    let scales = match arguments.events_per_day {
        Some(events) => {
            ensure!(events.is_finite() && events >= 1.0, "--events-per-day must be a number of events, such as 10e9");
            vec![events]
        }
        None => TARGETS.map(|(events, _)| events).to_vec(),
    };
    let mut given = Given { values: Coefficients::known(), from: KNOWN.map(|known| known.from.to_owned()) };
    for path in &arguments.coefficients {
        let text = std::fs::read_to_string(path).with_context(|| format!("reading {}", path.display()))?;
        given.read(&text, &path.display().to_string()).with_context(|| path.display().to_string())?;
    }
    for pair in &arguments.set {
        let (name, value) = pair.split_once('=').with_context(|| format!("--set {pair}: write NAME=VALUE"))?;
        given.set(name, value.parse().with_context(|| format!("--set {pair}"))?, "--set")?;
    }
    let plans: Vec<Plan> = scales.iter().map(|events| Plan::new(*events, &given.values, settings)).collect();
    if let Some(path) = json_file {
        let text = serde_json::to_string_pretty(&as_json(&plans, &mut given, settings))? + "\n";
        std::fs::write(path, text).with_context(|| format!("writing {}", path.display()))?;
    }
    print!("{}", as_text(&plans, &mut given, settings));
    Ok(())
}

fn check(settings: &Settings) -> Result<()> {
    let Settings { peak, utilisation, disk_utilisation, kafka_replicas, clickhouse_replicas, .. } = settings;
    ensure!(*peak >= 1.0, "--peak is {peak}: the peak is not below the mean");
    for (name, part) in [("utilisation", utilisation), ("disk-utilisation", disk_utilisation)] {
        ensure!(*part > 0.0 && *part <= 1.0, "--{name} is {part}: it is a part of the whole, such as 0.6");
    }
    ensure!(*kafka_replicas > 0 && *clickhouse_replicas > 0, "there is at least one copy of everything");
    for (name, value) in options(settings) {
        ensure!(value.is_finite() && value >= 0.0, "--{name} is {value}: it cannot be below 0");
    }
    Ok(())
}

/// The coefficients, and where each is from.
struct Given {
    values: Coefficients,
    from: [String; KNOWN.len()],
}

impl Given {
    fn set(&mut self, name: &str, value: f64, from: &str) -> Result<()> {
        let Some(at) = KNOWN.iter().position(|known| known.name == name) else {
            bail!("there is no coefficient `{name}`; there are {}", KNOWN.map(|known| known.name).join(", "));
        };
        ensure!(value.is_finite() && value >= 0.0, "{name} is {value}: it cannot be below 0");
        ensure!(name != "partition_rate" || value > 0.0, "{name} is 0: then nothing could ever be written");
        *(KNOWN[at].of)(&mut self.values) = value;
        from.clone_into(&mut self.from[at]);
        Ok(())
    }

    /// A report of a bench, or an object of names and values.
    fn read(&mut self, text: &str, file: &str) -> Result<()> {
        let json: Value = serde_json::from_str(text)?;
        let object = json.as_object().context("it is not one JSON object")?;
        let Some(bench) = object.get("bench").and_then(Value::as_str) else {
            for (name, value) in object {
                self.set(name, value.as_f64().with_context(|| format!("{name} is not a number"))?, file)?;
            }
            return Ok(());
        };
        let mut found = false;
        for known in &KNOWN {
            let Some((_, what)) = known.measured_by.filter(|(by, _)| *by == bench) else { continue };
            let figure = json["figures"].as_array().into_iter().flatten().find(|figure| figure["what"] == what);
            if let Some(value) = figure.and_then(|figure| figure["median"].as_f64()) {
                self.set(known.name, value, file)?;
                found = true;
            }
        }
        ensure!(found, "the report of `bench {bench}` has no figure that is a coefficient");
        Ok(())
    }
}

/// The settings by name, as they stand on the command line.
fn options(s: &Settings) -> [(&'static str, f64); 15] {
    [
        ("peak", s.peak),
        ("utilisation", s.utilisation),
        ("disk-utilisation", s.disk_utilisation),
        ("kafka-replicas", f64::from(s.kafka_replicas)),
        ("clickhouse-replicas", f64::from(s.clickhouse_replicas)),
        ("kafka-days", s.kafka_days),
        ("history-days", s.history_days),
        ("epoch-minutes", s.epoch_minutes),
        ("open-epochs", f64::from(s.open_epochs)),
        ("min-partitions", f64::from(s.min_partitions)),
        ("serving-cores", f64::from(s.serving_cores)),
        ("server-memory", s.server_memory),
        ("core-hour", s.core_hour),
        ("memory-month", s.memory_month),
        ("disk-month", s.disk_month),
    ]
}

/// A line of the table: what, its unit, decimals to show, the value.
type Line = (&'static str, &'static str, usize, fn(&Plan) -> f64);

#[rustfmt::skip]
const LINES: [Line; 23] = [
    ("events, mean", "events/s", 0, |p| p.mean_rate),
    ("events, peak", "events/s", 0, |p| p.peak_rate),
    ("partitions", "", 0, |p| f64::from(p.partitions)),
    ("epoch_bits", "", 0, |p| f64::from(p.epoch_bits)),
    ("ingest", "cores", 0, |p| f64::from(p.ingest_cores)),
    ("Kafka", "cores", 0, |p| f64::from(p.kafka_cores)),
    ("speed layer", "cores", 0, |p| f64::from(p.speed_cores)),
    ("batch layer", "cores", 0, |p| f64::from(p.batch_cores)),
    ("ClickHouse", "cores", 0, |p| f64::from(p.clickhouse_cores)),
    ("serving", "cores", 0, |p| f64::from(p.serving_cores)),
    ("speed layer, open epochs", "GiB memory", 1, |p| p.speed_memory_gib),
    ("all others", "GiB memory", 1, |p| p.servers_memory_gib),
    ("Redis (estimate, not in the cost)", "GiB memory", 1, |p| p.redis_memory_gib),
    ("Kafka, all copies", "GiB disk", 0, |p| p.kafka_disk_gib),
    ("ClickHouse, all copies", "GiB disk", 0, |p| p.clickhouse_disk_gib),
    ("cores", "$ a month", 0, |p| p.cores_cost),
    ("memory", "$ a month", 0, |p| p.memory_cost),
    ("disk", "$ a month", 0, |p| p.disk_cost),
    ("all", "$ a month", 0, Plan::cost),
    ("of that, cores and memory", "$ per million", 4, |p| p.cost_per_million() * (p.cores_cost + p.memory_cost) / p.cost()),
    ("of that, disk", "$ per million", 4, |p| p.cost_per_million() * p.disk_cost / p.cost()),
    ("cost", "$ per million", 4, Plan::cost_per_million),
    ("target: at most", "$ per million", 2, |p| p.target_per_million().unwrap_or(f64::NAN)),
];

fn as_text(plans: &[Plan], given: &mut Given, settings: &Settings) -> String {
    let mut out = String::from("plan: computed from the coefficients below; nothing was run\n");
    let mut line = |what: &str, unit: &str, value: &dyn Fn(&Plan) -> String| {
        let values: String = plans.iter().map(|plan| format!(" {:>16}", value(plan))).collect();
        let _ = writeln!(out, "  {what:<34} {unit:<13}{values}");
    };
    line("events a day", "", &|plan| thousands(plan.events_per_day, 0));
    for (what, unit, decimals, value) in &LINES {
        line(what, unit, &|plan| thousands(value(plan), *decimals));
    }
    out.push_str("\nsettings (each is an option; prices are assumptions)\n");
    for (name, value) in options(settings) {
        let _ = writeln!(out, "  --{name:<34} {value:>12}");
    }
    out.push_str("\ncoefficients (--set NAME=VALUE, --coefficients FILE)\n");
    for (known, from) in KNOWN.iter().zip(&given.from) {
        let value = (known.of)(&mut given.values);
        let _ = writeln!(out, "  {:<36} {value:>12} {:<25} {from}", known.name, known.unit);
    }
    out
}

fn as_json(plans: &[Plan], given: &mut Given, settings: &Settings) -> Value {
    let settings: serde_json::Map<String, Value> =
        options(settings).iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    let coefficients: Vec<Value> = KNOWN
        .iter()
        .zip(&given.from)
        .map(|(known, from)| json!({ "name": known.name, "value": *(known.of)(&mut given.values), "unit": known.unit, "from": from }))
        .collect();
    let plans: Vec<Value> = plans
        .iter()
        .map(|plan| {
            let of =
                |(what, unit, _, value): &Line| json!({ "what": what, "unit": unit, "value": Some(value(plan)).filter(|v| v.is_finite()) });
            json!({ "events_per_day": plan.events_per_day, "figures": LINES.iter().map(of).collect::<Vec<_>>() })
        })
        .collect();
    json!({ "bench": "plan", "settings": settings, "coefficients": coefficients, "plans": plans })
}

/// `10,000,000`; a dash for what there is not.
fn thousands(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    let text = format!("{value:.decimals$}");
    let (whole, fraction) = text.split_once('.').map_or((text.as_str(), String::new()), |(whole, rest)| (whole, format!(".{rest}")));
    let groups: Vec<&str> = whole.as_bytes().rchunks(3).rev().map(|group| std::str::from_utf8(group).expect("digits")).collect();
    groups.join(",") + &fraction
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Given {
        Given { values: Coefficients::known(), from: KNOWN.map(|known| known.from.to_owned()) }
    }

    #[test]
    fn coefficients_are_read_from_reports_and_from_plain_objects() {
        let mut given = known();
        given.read(r#"{"bench":"speed","figures":[{"what":"CPU","median":0.5},{"what":"other","median":9}]}"#, "a.json").expect("a report");
        given.read(r#"{"batch_cpu":0.25}"#, "b.json").expect("an object");
        assert_eq!((given.values.speed_cpu, given.values.batch_cpu), (0.5, 0.25));
        assert_eq!(given.values.ingest_cpu, Coefficients::known().ingest_cpu);
        assert!(given.from.iter().any(|from| from == "a.json"));
        let check = |text: &str, says: &str| {
            let error = known().read(text, "x").expect_err(text).to_string();
            assert!(error.contains(says), "{text}: {error}");
        };
        check(r#"{"bench":"latency","figures":[]}"#, "no figure that is a coefficient");
        check(r#"{"speed":1}"#, "there is no coefficient `speed`; there are ingest_cpu,");
        check(r#"{"speed_cpu":"1"}"#, "not a number");
        check(r#"{"speed_cpu":-1}"#, "below 0");
        check("[]", "not one JSON object");
    }

    #[test]
    fn numbers_are_shown_in_groups_of_three_digits() {
        let check = |value: f64, decimals, shown: &str| assert_eq!(thousands(value, decimals), shown);
        check(0.0, 0, "0");
        check(999.4, 0, "999");
        check(1e10, 0, "10,000,000,000");
        check(1234.5678, 2, "1,234.57");
        check(f64::NAN, 0, "-");
    }
}
