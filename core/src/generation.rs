//! A generation: one set of counting rules and the tables that were filled under it.

use crate::epoch::EpochBits;
use crate::event::Limits;
use crate::view::{View, Views};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

/// The number of a generation; tables, tokens and consumer groups carry it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Generation(pub u32);

impl Generation {
    /// The one that counting begins with.
    pub const FIRST: Self = Self(1);

    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Everything that decides how a record is counted. Fixed for the life of a generation: both layers, and every
/// restart, must count by the same rules.
#[derive(Clone, Debug)]
pub struct Rules {
    pub generation: Generation,
    pub epoch_bits: EpochBits,
    pub views: Views,
    pub limits: Limits,
    /// Whether an `event_id` seen before is counted once.
    pub dedup: bool,
}

/// A rules' text that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not how a generation counts; was it written by a later version?")]
pub struct RulesError(String);

impl Rules {
    /// What a generation counts by, as text: two texts that differ are two ways to count. The generation's number is not
    /// part of it.
    pub fn text(&self) -> String {
        let Self { generation: _, epoch_bits, views, limits, dedup } = self;
        // What is not named here is the format's, and the same for all.
        let Limits { max_bytes, max_depth, earliest_ms, max_ahead_ms, amount_strings, latest_ms: _ } = limits;
        let views: String = views.iter().map(|view| format!(" view:{}={}", view.name(), names(view).join("+"))).collect();
        format!(
            "epoch_bits={} dedup={dedup} max_bytes={max_bytes} max_depth={max_depth} earliest_ms={earliest_ms} \
             max_ahead_ms={max_ahead_ms} amount_strings={amount_strings}{views}",
            epoch_bits.get()
        )
    }

    /// Reads back what [`Rules::text`] has written.
    pub fn read(generation: Generation, text: &str) -> Result<Self, RulesError> {
        let mut settings: BTreeMap<&str, &str> = BTreeMap::new();
        let mut views = Vec::new();
        for (name, value) in text.split(' ').filter_map(|setting| setting.split_once('=')) {
            match name.strip_prefix("view:") {
                Some(view) => views.push((view, value.split('+').collect::<Vec<_>>())),
                None => drop(settings.insert(name, value)),
            }
        }
        fn taken<T: FromStr>(settings: &BTreeMap<&str, &str>, name: &str) -> Option<T> {
            settings.get(name)?.parse().ok()
        }
        let read = || {
            Some(Self {
                generation,
                epoch_bits: EpochBits::new(taken(&settings, "epoch_bits")?).ok()?,
                views: Views::declare(views).ok()?,
                limits: Limits {
                    max_bytes: taken(&settings, "max_bytes")?,
                    max_depth: taken(&settings, "max_depth")?,
                    earliest_ms: taken(&settings, "earliest_ms")?,
                    max_ahead_ms: taken(&settings, "max_ahead_ms")?,
                    amount_strings: taken(&settings, "amount_strings")?,
                    ..Limits::default()
                },
                dedup: taken(&settings, "dedup")?,
            })
        };
        // A setting that is not known here would be dropped silently.
        read().filter(|rules| rules.text() == text).ok_or_else(|| RulesError(text.to_owned()))
    }
}

fn names(view: &View) -> Vec<&'static str> {
    view.dimensions().iter().map(|dimension| dimension.name()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_are_read_as_they_are_written() {
        let text = "epoch_bits=9 dedup=false max_bytes=1000 max_depth=3 earliest_ms=5 max_ahead_ms=7 amount_strings=true \
                    view:by_type=event_type view:by_product=event_type+product_id";
        let rules = Rules::read(Generation(4), text).expect("well formed");
        assert_eq!((rules.text().as_str(), rules.generation, rules.views.len(), rules.dedup), (text, Generation(4), 2, false));
        for wrong in ["", "epoch_bits=9", &format!("{text} sampled=2"), &text.replace("epoch_bits=9", "epoch_bits=99")] {
            assert_eq!(Rules::read(Generation(1), wrong).expect_err("refused"), RulesError(wrong.to_owned()));
        }
    }
}
