//! What a change of the configuration needs: nothing, that a view is filled, or that everything is counted anew; of how much,
//! for how long.

use crate::rebuild::time;
use serde::Serialize;
use std::fmt;
use tidemark_core::generation::Rules;
use tidemark_core::view::View;
use tidemark_history::clickhouse::Filled;

/// What is known before it is begun.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Plan {
    /// The generation that answers.
    pub generation: u32,
    pub needs: Needs,
    /// What would be different, in words; none: nothing is to be done.
    pub changes: Vec<String>,
    /// Records that would be read, and how many of them the topic no longer has.
    pub records: u64,
    pub from_raw: u64,
    /// What the generation that answers takes on disk: about as much again, if all is counted anew, until one of the two is
    /// dropped.
    pub bytes_on_disk: u64,
    /// How fast it went the last time, in records a second; `None` if nothing has been rebuilt here yet.
    pub rate: Option<f64>,
}

/// What must be done.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Needs {
    Nothing,
    /// Views are added, and nothing else is different: they alone are filled.
    Views,
    /// All is counted anew.
    Rebuild,
}

impl Needs {
    pub fn of(old: &Rules, new: &Rules) -> Self {
        match () {
            () if old.text() == new.text() => Self::Nothing,
            () if new.is_wider_than(old) => Self::Views,
            () => Self::Rebuild,
        }
    }
}

impl Plan {
    pub fn new(old: &Rules, new: &Rules, records: u64, from_raw: u64, bytes_on_disk: u64, last: Option<Filled>) -> Self {
        let rate = last.map(|Filled { records, took_ms }| per_second(records, took_ms));
        let (generation, needs) = (old.generation.0, Needs::of(old, new));
        Self { generation, needs, changes: changes(old, new), records, from_raw, bytes_on_disk, rate }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a rate")]
fn per_second(records: u64, took_ms: u64) -> f64 {
    records as f64 * 1000.0 / took_ms.max(1) as f64
}

/// What the rules differ in.
pub fn changes(old: &Rules, new: &Rules) -> Vec<String> {
    let mut changes = Vec::new();
    let (before, now) = (&old.limits, &new.limits);
    for (what, before, now) in [
        ("counting.epoch_bits", old.epoch_bits.get().to_string(), new.epoch_bits.get().to_string()),
        ("counting.dedup", switch(old.dedup), switch(new.dedup)),
        ("event.max_bytes", before.max_bytes.to_string(), now.max_bytes.to_string()),
        ("event.max_depth", before.max_depth.to_string(), now.max_depth.to_string()),
        ("event.earliest", instant(before.earliest_ms), instant(now.earliest_ms)),
        ("event.max_ahead_ms", before.max_ahead_ms.to_string(), now.max_ahead_ms.to_string()),
        ("event.order_amount_strings", before.amount_strings.to_string(), now.amount_strings.to_string()),
    ] {
        if before != now {
            changes.push(format!("{what}: {before}, then {now}"));
        }
    }
    let find = |of: &'_ Rules, name: &str| of.views.iter().find(|view| view.name() == name).cloned();
    for view in old.views.iter() {
        match find(new, view.name()) {
            None => changes.push(format!("view {}: gone", view.name())),
            Some(now) if now.dimensions() != view.dimensions() => {
                changes.push(format!("view {}: by {}, then by {}", view.name(), dimensions(view), dimensions(&now)));
            }
            Some(_) => {}
        }
    }
    let added = new.views.iter().filter(|view| find(old, view.name()).is_none());
    changes.extend(added.map(|view| format!("view {}: new, by {}", view.name(), dimensions(view))));
    // The order of views alone decides which of two equals answers.
    if changes.is_empty() && old.text() != new.text() {
        changes.push("the views' order".to_owned());
    }
    changes
}

fn switch(on: bool) -> String {
    (if on { "on" } else { "off" }).to_owned()
}

fn instant(ms: i64) -> String {
    tidemark_core::window::rfc3339(ms)
}

fn dimensions(view: &View) -> String {
    view.dimensions().iter().map(|dimension| dimension.name()).collect::<Vec<_>>().join(" and ")
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { generation, needs, changes, records, from_raw, bytes_on_disk, rate } = self;
        if *needs == Needs::Nothing {
            return write!(f, "nothing: generation {generation}, which answers, counts by this configuration");
        }
        writeln!(f, "generation {generation}, which answers, counts otherwise than this configuration:")?;
        changes.iter().try_for_each(|change| writeln!(f, "  {change}"))?;
        let what = if *needs == Needs::Views {
            "so that nothing but these views must be filled, from its raw history, and compared with the topic"
        } else {
            "so that all must be counted anew, beside it"
        };
        writeln!(f, "{what}: {records} records are read, {from_raw} of them from raw history")?;
        #[expect(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for people")]
        match rate {
            Some(rate) => writeln!(
                f,
                "  time: about {}, at the {rate:.0} records/s of the last one here",
                time((*records as f64 / rate.max(1.0)) as u64)
            )?,
            None => writeln!(f, "  time: not known, for nothing has been counted anew here yet; it is told while it goes on")?,
        }
        let megabytes = bytes_on_disk / 1_000_000;
        match needs {
            Needs::Views => writeln!(f, "  disk: what the views take, beside the {megabytes} MB of generation {generation}")?,
            _ => {
                writeln!(f, "  disk: generation {generation} takes {megabytes} MB, and the new one about as much, and what new views take")?
            }
        }
        write!(f, "`tidemark apply` with the same options does it")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tidemark_core::generation::Generation;

    fn rules(text: &str) -> Rules {
        Rules::read(Generation(1), text).expect("well formed")
    }

    #[test]
    fn what_differs_is_named_as_the_configuration_names_it() {
        let old = "epoch_bits=9 dedup=true max_bytes=1000 max_depth=3 earliest_ms=0 max_ahead_ms=7 amount_strings=false view:a=event_type view:b=user_id";
        let new = "epoch_bits=8 dedup=false max_bytes=1000 max_depth=3 earliest_ms=0 max_ahead_ms=7 amount_strings=false view:a=event_type+user_id view:c=product_id";
        assert_eq!(changes(&rules(old), &rules(old)), Vec::<String>::new());
        assert_eq!(
            changes(&rules(old), &rules(new)),
            [
                "counting.epoch_bits: 9, then 8",
                "counting.dedup: on, then off",
                "view a: by event_type, then by event_type and user_id",
                "view b: gone",
                "view c: new, by product_id",
            ]
        );
        let turned = old.replace("view:a=event_type view:b=user_id", "view:b=user_id view:a=event_type");
        assert_eq!(changes(&rules(old), &rules(&turned)), ["the views' order"]);
    }

    #[test]
    fn how_long_it_takes_is_said_where_it_is_known() {
        let (old, new) = (
            "epoch_bits=9 dedup=true max_bytes=1000 max_depth=3 earliest_ms=0 max_ahead_ms=7 amount_strings=false view:a=event_type",
            "epoch_bits=8 dedup=true max_bytes=1000 max_depth=3 earliest_ms=0 max_ahead_ms=7 amount_strings=false view:a=event_type",
        );
        let plan = |last| Plan::new(&rules(old), &rules(new), 600_000, 10, 5_000_000, last).to_string();
        assert!(plan(Some(Filled { records: 50_000, took_ms: 10_000 })).contains("about 2 min, at the 5000 records/s"));
        assert!(plan(None).contains("not known"));
        assert!(Plan::new(&rules(old), &rules(old), 1, 0, 0, None).to_string().starts_with("nothing"));
    }

    #[test]
    fn views_that_are_added_are_filled_and_all_else_is_counted_anew() {
        let head = "max_bytes=1000 max_depth=3 earliest_ms=0 max_ahead_ms=7 amount_strings=false view:a=event_type";
        let old = rules(&format!("epoch_bits=9 dedup=true {head}"));
        let added = rules(&format!("epoch_bits=9 dedup=true {head} view:b=user_id"));
        let other = rules(&format!("epoch_bits=8 dedup=true {head} view:b=user_id"));
        assert_eq!([&old, &added, &other].map(|new| Needs::of(&old, new)), [Needs::Nothing, Needs::Views, Needs::Rebuild]);
        assert_eq!(Needs::of(&added, &old), Needs::Rebuild);
        assert!(Plan::new(&old, &added, 600, 0, 0, None).to_string().contains("nothing but these views"));
    }
}
