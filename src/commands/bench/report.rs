//! What runs have measured, for people and for programs.

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use serde_json::{Value, json};
use std::path::Path;

/// One number that a run has measured.
#[derive(Clone, Debug)]
pub struct Figure {
    pub what: String,
    pub unit: &'static str,
    pub value: f64,
}

impl Figure {
    pub fn new(what: impl Into<String>, unit: &'static str, value: f64) -> Self {
        Self { what: what.into(), unit, value }
    }

    /// CPU time, for the events that it was spent on.
    pub fn cpu(what: impl Into<String>, secs: f64, events: u64) -> Self {
        Self::new(what, "s per million events", secs / (events as f64 / 1e6))
    }
}

/// The largest resident set of this process, in a bench's first run: in later ones the heap has what former ones freed.
pub fn memory_of_first(run: u32, what: &str, peak_mib: u64) -> Option<Figure> {
    (run == 1).then(|| Figure::new(what, "MiB", peak_mib as f64))
}

/// The usual quantiles of times in microseconds, as milliseconds.
pub fn quantiles(what: &str, micros: &Histogram<u64>) -> impl Iterator<Item = Figure> {
    let of = |(name, q)| Figure::new(format!("{what}: {name}"), "ms", micros.value_at_quantile(q) as f64 / 1000.0);
    [("p50", 0.50), ("p95", 0.95), ("p99", 0.99), ("max", 1.0)].map(of).into_iter()
}

/// What one run has to say.
#[derive(Debug, Default)]
pub struct Run {
    pub figures: Vec<Figure>,
    /// The line by which programs that compare peers find the result.
    pub result: Option<String>,
}

/// The runs of one bench.
#[derive(Debug)]
pub struct Report {
    pub bench: &'static str,
    pub settings: Vec<(&'static str, String)>,
    pub runs: Vec<Run>,
}

impl Report {
    /// Each figure's values, in the order of the runs that have it.
    fn summary(&self) -> Vec<Values<'_>> {
        let first = self.runs.first().map(|run| run.figures.as_slice()).unwrap_or_default();
        let values = |wanted: &str| {
            let same = self.runs.iter().flat_map(|run| &run.figures).filter(|figure| figure.what == wanted);
            same.map(|figure| figure.value).collect()
        };
        first.iter().map(|figure| Values { what: &figure.what, unit: figure.unit, runs: values(&figure.what) }).collect()
    }

    pub fn print(&self) {
        println!("{} | {}", self.bench, machine());
        let settings: Vec<String> = self.settings.iter().map(|(name, value)| format!("{name} {value}")).collect();
        println!("{}", settings.join(", "));
        for values in self.summary() {
            let (least, median, most) = values.spread();
            let Values { what, unit, runs } = values;
            let several = format!("   ({} to {} in {} runs)", shown(least), shown(most), runs.len());
            println!("  {what:<64} {:>12} {unit}{}", shown(median), if runs.len() > 1 { several.as_str() } else { "" });
        }
        if let Some(result) = self.runs.last().and_then(|run| run.result.as_ref()) {
            println!("{result}");
        }
    }

    pub fn write(&self, path: &Path) -> Result<()> {
        let settings: serde_json::Map<String, Value> =
            self.settings.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
        let figures: Vec<Value> = self
            .summary()
            .into_iter()
            .map(|values| {
                let (least, median, most) = values.spread();
                let Values { what, unit, runs } = values;
                json!({ "what": what, "unit": unit, "median": median, "least": least, "most": most, "runs": runs })
            })
            .collect();
        let report = json!({ "bench": self.bench, "machine": machine(), "settings": settings, "figures": figures });
        std::fs::write(path, serde_json::to_string_pretty(&report)? + "\n").with_context(|| format!("writing {}", path.display()))
    }
}

/// What several runs say of one figure.
struct Values<'r> {
    what: &'r str,
    unit: &'r str,
    runs: Vec<f64>,
}

impl Values<'_> {
    /// The least, the median and the most.
    fn spread(&self) -> (f64, f64, f64) {
        let mut sorted = self.runs.clone();
        sorted.sort_unstable_by(f64::total_cmp);
        let (low, high) = (sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        (sorted[0], f64::midpoint(low, high), sorted[sorted.len() - 1])
    }
}

/// As many digits as a measurement is worth.
fn shown(value: f64) -> String {
    match value.abs() {
        large if large >= 100.0 => format!("{value:.0}"),
        middle if middle >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.3}"),
    }
}

/// The program's version, and the machine as Linux describes it.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default();
        line.split_once(':').map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
    };
    let cpu = field(&read("/proc/cpuinfo"), "model name");
    let memory_kb: u64 = field(&read("/proc/meminfo"), "MemTotal").trim_end_matches(" kB").parse().unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!(
        "tidemark {} | {cores} cores of {cpu}, {} GiB, Linux {}",
        env!("CARGO_PKG_VERSION"),
        memory_kb >> 20,
        read("/proc/sys/kernel/osrelease").trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_the_runs_is_told_and_their_ends() {
        let run = |value| Run { figures: vec![Figure::new("rate", "events/s", value)], result: None };
        let report = |values: &[f64]| Report { bench: "x", settings: Vec::new(), runs: values.iter().copied().map(run).collect() };
        assert_eq!(report(&[3.0, 1.0, 8.0]).summary()[0].spread(), (1.0, 3.0, 8.0));
        assert_eq!(report(&[1.0, 2.0]).summary()[0].spread(), (1.0, 1.5, 2.0));
    }
}
