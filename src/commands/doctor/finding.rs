//! What a check has found, in a colleague's words.

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use std::fmt;

/// How bad it is.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Ok,
    /// Nothing is wrong yet, or it may be meant.
    Warning,
    /// Something does not work, or will lose something.
    Failure,
}

impl Level {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Failure => "failure",
        }
    }

    const fn style(self) -> Style {
        let colour = match self {
            Self::Ok => AnsiColor::Green,
            Self::Warning => AnsiColor::Yellow,
            Self::Failure => AnsiColor::Red,
        };
        colour.on_default().bold()
    }
}

/// One check's outcome.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Finding {
    /// Its name, which stays the same for scripts.
    pub check: &'static str,
    pub level: Level,
    pub found: String,
    /// What to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Finding {
    pub fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { check, level: Level::Ok, found: found.into(), advice: None }
    }

    pub fn warning(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, level: Level::Warning, found: found.into(), advice: Some(advice.into()) }
    }

    pub fn failure(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { check, level: Level::Failure, found: found.into(), advice: Some(advice.into()) }
    }
}

/// What all of them have found.
#[derive(Clone, PartialEq, Eq, Debug, Serialize)]
pub struct Report {
    pub worst: Level,
    pub checks: Vec<Finding>,
}

impl Report {
    pub fn of(checks: Vec<Finding>) -> Self {
        Self { worst: checks.iter().map(|finding| finding.level).max().unwrap_or(Level::Ok), checks }
    }

    /// `9 ok, 1 warning, 0 failures`
    fn summary(&self) -> String {
        let count = |level| self.checks.iter().filter(|finding| finding.level == level).count();
        let many = |level: Level| match count(level) {
            1 => format!("1 {}", level.name()),
            n => format!("{n} {}s", level.name()),
        };
        format!("{} ok, {}, {}", count(Level::Ok), many(Level::Warning), many(Level::Failure))
    }
}

/// With colours, which are left out where they are not wanted.
impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let width = self.checks.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
        for Finding { check, level, found, advice } in &self.checks {
            let style = level.style();
            let text = found.replace('\n', &format!("\n{:1$}", "", width + 11));
            writeln!(f, "{style}{:<7}{style:#}  {check:<width$}  {text}", level.name())?;
            if let Some(advice) = advice {
                writeln!(f, "{:1$}→ {advice}", "", width + 11)?;
            }
        }
        f.write_str(&self.summary())
    }
}

/// So many bytes, as people say it.
pub fn bytes(n: u64) -> String {
    indicatif::HumanBytes(n).to_string()
}

/// So many of something, with its digits in groups.
pub fn count(n: u64) -> String {
    indicatif::HumanCount(n).to_string()
}

/// A time span in the unit that people would take.
pub fn span(ms: i64) -> String {
    let said = |n: i64, unit: &str| format!("{n} {unit}{}", if n == 1 { "" } else { "s" });
    match ms.max(0) {
        ms if ms < 1_000 => format!("{ms} ms"),
        ms if ms < 120_000 => said(ms / 1_000, "second"),
        ms if ms < 7_200_000 => said(ms / 60_000, "minute"),
        ms if ms < 172_800_000 => said(ms / 3_600_000, "hour"),
        ms => said(ms / 86_400_000, "day"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_as_bad_as_its_worst_check() {
        let ok = Finding::ok("topic", "it is there");
        let warning = Finding::warning("disk", "it fills", "make room");
        let report = Report::of(vec![ok.clone(), warning.clone()]);
        assert_eq!(
            (Report::of(vec![]).worst, report.worst, &*report.summary()),
            (Level::Ok, Level::Warning, "1 ok, 1 warning, 0 failures")
        );
        let report = Report::of(vec![warning, Finding::failure("redis", "gone", "start it"), ok]);
        assert_eq!(report.worst, Level::Failure);
        let text = anstream::adapter::strip_str(&report.to_string()).to_string();
        assert!(text.contains("failure  redis  gone\n") && text.contains("→ start it\n"), "{text}");
        let json = serde_json::to_value(&report).expect("JSON");
        assert_eq!(
            (&json["worst"], &json["checks"][1]["check"], json["checks"][2].get("advice")),
            (&"failure".into(), &"redis".into(), None)
        );
    }

    #[test]
    fn time_is_said_in_a_unit_that_fits() {
        assert_eq!(
            [90, 1_000, 60_000, 3_600_000, 7_200_000, 604_800_000].map(span),
            ["90 ms", "1 second", "60 seconds", "60 minutes", "2 hours", "7 days"]
        );
    }
}
