//! A generation: one set of counting rules and the tables that were filled under it.

use crate::cut::Cut;
use crate::epoch::EpochBits;
use crate::event::Limits;
use crate::view::{View, ViewId, Views};
use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

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
    pub widens: Option<Widening>,
    pub epoch_bits: EpochBits,
    pub views: Views,
    pub limits: Limits,
    /// Whether an `event_id` seen before is counted once.
    pub dedup: bool,
}

/// What a generation shares with one that counts equally, but has fewer views.
#[derive(Clone, Debug)]
pub struct Widening {
    /// Whose raw events, dead letters and roll-ups are shared.
    pub rules: Arc<Rules>,
    /// From here on, where epochs begin, added views are filled as events come.
    pub since: Cut,
}

/// A rules' text that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is not how a generation counts; was it written by a later version?")]
pub struct RulesError(pub String);

impl Rules {
    /// What a generation counts by, as text: two texts that differ are two ways to count. The generation's number, and where
    /// its tables are, are not part of it.
    pub fn text(&self) -> String {
        let Self { generation: _, widens: _, epoch_bits, views, limits, dedup } = self;
        // What is not named here is the format's, and the same for all.
        let Limits { max_bytes, max_depth, earliest_ms, max_ahead_ms, amount_strings, latest_ms: _ } = limits;
        let views: String = views.iter().map(|view| format!(" view:{}={}", view.name(), names(view).join("+"))).collect();
        format!(
            "epoch_bits={} dedup={dedup} max_bytes={max_bytes} max_depth={max_depth} earliest_ms={earliest_ms} \
             max_ahead_ms={max_ahead_ms} amount_strings={amount_strings}{views}",
            epoch_bits.get()
        )
    }

    /// The generation whose tables have the raw events and the dead letters.
    pub fn raw(&self) -> Generation {
        self.widens.as_ref().map_or(self.generation, |widened| widened.rules.raw())
    }

    /// The generation whose tables have a view's roll-ups.
    pub fn keeper(&self, view: ViewId) -> Generation {
        let shared = |rules: &Self| Some(rules.keeper(rules.views.find(self.views.get(view))?));
        self.widens.as_ref().and_then(|widened| shared(&widened.rules)).unwrap_or(self.generation)
    }

    /// The views whose roll-ups are this generation's own.
    pub fn kept(&self) -> impl Iterator<Item = ViewId> {
        self.views.ids().filter(|view| self.keeper(*view) == self.generation)
    }

    /// The views that have been added since a generation that this one widens.
    pub fn added_since(&self, generation: Generation) -> impl Iterator<Item = ViewId> {
        self.views.ids().filter(move |view| self.keeper(*view) > generation)
    }

    /// True of this generation itself, and of those that it widens.
    pub fn shares_with(&self, other: &Self) -> bool {
        self.generation == other.generation || self.widens.as_ref().is_some_and(|widened| widened.rules.shares_with(other))
    }

    /// True if the only difference from `narrow` is that there are more views.
    pub fn is_wider_than(&self, narrow: &Self) -> bool {
        let without_views = |rules: &Self| Self { views: narrow.views.clone(), ..rules.clone() }.text();
        self.views.len() > narrow.views.len()
            && without_views(self) == narrow.text()
            && narrow.views.iter().all(|view| self.views.find(view).is_some())
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
                widens: None,
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

    #[test]
    fn a_wider_generation_shares_what_the_one_has_that_it_widens() {
        let head = "epoch_bits=9 dedup=false max_bytes=1000 max_depth=3 earliest_ms=5 max_ahead_ms=7 amount_strings=true";
        let of = |n, views: &str| Rules::read(Generation(n), &format!("{head} {views}")).expect("well formed");
        let first = Arc::new(of(1, "view:a=event_type view:b=user_id"));
        assert_eq!((first.raw(), first.kept().count(), first.is_wider_than(&first)), (Generation(1), 2, false));
        // The order of views is the configuration's.
        let second = of(2, "view:c=product_id view:a=event_type view:b=user_id");
        assert!(second.is_wider_than(&first) && !first.is_wider_than(&second));
        let widens = |rules: &Arc<Rules>| Some(Widening { rules: Arc::clone(rules), since: Cut::default() });
        let second = Arc::new(Rules { widens: widens(&first), ..second });
        let third = of(3, "view:c=product_id view:a=event_type view:b=user_id view:d=event_type+user_id");
        let third = Rules { widens: widens(&second), ..third };
        assert_eq!(third.raw(), Generation(1));
        assert!(third.shares_with(&first) && third.shares_with(&third) && !first.shares_with(&third));
        let keepers: Vec<u32> = third.views.ids().map(|view| third.keeper(view).0).collect();
        assert_eq!((keepers, third.kept().collect::<Vec<_>>()), (vec![2, 1, 1, 3], vec![ViewId(3)]));
        assert_eq!(third.added_since(Generation(1)).collect::<Vec<_>>(), [ViewId(0), ViewId(3)]);
        // Another way to count, a view by other dimensions, or one less: nothing to share.
        let other = Rules { dedup: true, ..of(2, "view:a=event_type view:b=user_id view:c=product_id") };
        assert!(!other.is_wider_than(&first));
        assert!(!of(2, "view:a=event_type+user_id view:b=user_id view:c=product_id").is_wider_than(&first));
        assert!(!of(2, "view:a=event_type view:c=product_id view:d=user_id").is_wider_than(&first));
    }
}
