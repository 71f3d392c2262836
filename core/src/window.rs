//! Tumbling windows, the levels of the roll-ups, and the buckets that an answer is grouped in.
//!
//! Times are milliseconds since the Unix epoch; ranges are half-open; a window is named by its start.

use jiff::{Timestamp, ToSpan, tz::TimeZone};
use std::fmt;
use std::str::FromStr;

/// Length of a tumbling window: 5 minutes.
pub const WINDOW_MS: i64 = 5 * 60 * 1000;

const HOUR_MS: i64 = 60 * 60 * 1000;
const DAY_MS: i64 = 24 * HOUR_MS;
const WEEK_MS: i64 = 7 * DAY_MS;
/// The Unix epoch was a Thursday; weeks begin on the Monday before it.
const MONDAY_MS: i64 = -3 * DAY_MS;

/// The start of a 5-minute window.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct WindowStart(i64);

impl WindowStart {
    /// The window that contains an instant, before 1970 too.
    pub const fn containing(timestamp_ms: i64) -> Self {
        Self(timestamp_ms - timestamp_ms.rem_euclid(WINDOW_MS))
    }

    pub const fn ms(self) -> i64 {
        self.0
    }

    /// The start of the roll-up period that this window belongs to.
    pub const fn at(self, level: Level) -> Self {
        Self(self.0 - self.0.rem_euclid(level.ms()))
    }
}

/// How coarse a roll-up is. Every level is filled from the one before it.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Level {
    FiveMinutes,
    Hour,
    Day,
}

impl Level {
    pub const ALL: [Self; 3] = [Self::FiveMinutes, Self::Hour, Self::Day];

    pub const fn ms(self) -> i64 {
        match self {
            Self::FiveMinutes => WINDOW_MS,
            Self::Hour => HOUR_MS,
            Self::Day => DAY_MS,
        }
    }

    /// As tables are named: `by_type_1h`.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::FiveMinutes => "5m",
            Self::Hour => "1h",
            Self::Day => "1d",
        }
    }

    pub const fn finer(self) -> Option<Self> {
        match self {
            Self::FiveMinutes => None,
            Self::Hour => Some(Self::FiveMinutes),
            Self::Day => Some(Self::Hour),
        }
    }
}

/// A half-open range of time on window edges, unbounded where a side is absent.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct TimeRange {
    pub from_ms: Option<i64>,
    pub to_ms: Option<i64>,
}

impl TimeRange {
    pub fn contains(self, window: WindowStart) -> bool {
        self.from_ms.is_none_or(|from| from <= window.ms()) && self.to_ms.is_none_or(|to| window.ms() < to)
    }

    /// The range cut into the coarsest pieces of at most `coarsest`, in order of time, without gap or overlap: whole
    /// days in the middle, hours and 5-minute windows at the ragged ends.
    pub fn pieces(self, coarsest: Level) -> Vec<(Level, Self)> {
        let mut pieces = Vec::new();
        self.cut_at(coarsest, &mut pieces);
        pieces
    }

    fn cut_at(self, level: Level, pieces: &mut Vec<(Level, Self)>) {
        if let (Some(from), Some(to)) = (self.from_ms, self.to_ms)
            && from >= to
        {
            return;
        }
        let Some(finer) = level.finer() else {
            pieces.push((level, self));
            return;
        };
        let inner_from = self.from_ms.map(|from| from + (-from).rem_euclid(level.ms()));
        let inner_to = self.to_ms.map(|to| to - to.rem_euclid(level.ms()));
        if let (Some(from), Some(to)) = (inner_from, inner_to)
            && from >= to
        {
            return self.cut_at(finer, pieces);
        }
        Self { from_ms: self.from_ms, to_ms: inner_from }.only_if_bounded_above().cut_at(finer, pieces);
        pieces.push((level, Self { from_ms: inner_from, to_ms: inner_to }));
        Self { from_ms: inner_to, to_ms: self.to_ms }.only_if_bounded_below().cut_at(finer, pieces);
    }

    /// The part before the inner piece exists only if the inner piece begins somewhere.
    fn only_if_bounded_above(self) -> Self {
        if self.to_ms.is_some() { self } else { Self { from_ms: Some(0), to_ms: Some(0) } }
    }

    fn only_if_bounded_below(self) -> Self {
        if self.from_ms.is_some() { self } else { Self { from_ms: Some(0), to_ms: Some(0) } }
    }
}

/// `step` of a query: the width of a bucket.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Step {
    FiveMinutes,
    QuarterHour,
    Hour,
    Day,
    Week,
    /// One bucket for the whole range.
    Total,
}

impl Step {
    pub const NAMES: [(&'static str, Self); 6] = [
        ("5m", Self::FiveMinutes),
        ("15m", Self::QuarterHour),
        ("1h", Self::Hour),
        ("1d", Self::Day),
        ("1w", Self::Week),
        ("total", Self::Total),
    ];
}

impl FromStr for Step {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        Self::NAMES.iter().find(|(name, _)| *name == text).map(|&(_, step)| step).ok_or(())
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = Self::NAMES.iter().find(|(_, step)| step == self).map_or("?", |(name, _)| name);
        f.write_str(name)
    }
}

/// How instants fall into buckets: a step, and the zone whose midnights begin the days and weeks.
#[derive(Clone, PartialEq, Debug)]
pub struct Buckets {
    step: Step,
    zone: Zone,
}

#[derive(Clone, PartialEq, Debug)]
enum Zone {
    Utc,
    Named(TimeZone),
}

/// Why buckets cannot be formed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BucketError {
    #[error("`{0}` is not an IANA time zone")]
    UnknownZone(String),
    /// The zone's midnight lies inside a 5-minute window, which cannot be divided.
    #[error("a day of this zone begins at {0} ms, which is not on a 5-minute edge")]
    OffEdge(i64),
    #[error("{0} ms is outside the calendar")]
    OutOfCalendar(i64),
}

impl Buckets {
    /// `zone` matters to days and weeks only; hours and shorter steps are the same instants in every zone that
    /// differs from UTC by whole hours, and are UTC's in the others.
    pub fn new(step: Step, zone: Option<&str>) -> Result<Self, BucketError> {
        let zone = match zone {
            None | Some("UTC" | "Etc/UTC") => Zone::Utc,
            Some(name) => {
                let known = TimeZone::get(name).map_err(|_| BucketError::UnknownZone(name.to_owned()))?;
                if matches!(step, Step::Day | Step::Week) { Zone::Named(known) } else { Zone::Utc }
            }
        };
        Ok(Self { step, zone })
    }

    pub fn step(&self) -> Step {
        self.step
    }

    /// True if a bucket is not a fixed number of milliseconds long.
    pub fn is_calendar(&self) -> bool {
        self.zone != Zone::Utc
    }

    /// `(width, a bucket's start)` of the evenly spaced buckets; `None` for `total` and for calendar buckets.
    pub fn even(&self) -> Option<(i64, i64)> {
        if self.is_calendar() {
            return None;
        }
        match self.step {
            Step::FiveMinutes => Some((WINDOW_MS, 0)),
            Step::QuarterHour => Some((3 * WINDOW_MS, 0)),
            Step::Hour => Some((HOUR_MS, 0)),
            Step::Day => Some((DAY_MS, 0)),
            Step::Week => Some((WEEK_MS, MONDAY_MS)),
            Step::Total => None,
        }
    }

    /// The start of the bucket that contains an instant; 0 for `total`.
    pub fn start_of(&self, timestamp_ms: i64) -> Result<i64, BucketError> {
        match (&self.zone, self.even()) {
            (_, Some((width, origin))) => Ok(timestamp_ms - (timestamp_ms - origin).rem_euclid(width)),
            (Zone::Named(zone), None) => local_start(zone, self.step, timestamp_ms),
            (Zone::Utc, None) => Ok(0),
        }
    }

    /// The starts of all buckets that touch `[from, to)`, in order. Only calendar buckets need to be listed.
    pub fn starts(&self, from_ms: i64, to_ms: i64) -> Result<Vec<i64>, BucketError> {
        let mut starts = Vec::new();
        let mut at = self.start_of(from_ms)?;
        while at < to_ms {
            starts.push(at);
            at = self.start_after(at)?;
        }
        Ok(starts)
    }

    /// Where the bucket ends that begins there; that of `total` never does.
    pub fn start_after(&self, start_ms: i64) -> Result<i64, BucketError> {
        match (&self.zone, self.even()) {
            (_, Some((width, _))) => Ok(start_ms + width),
            (Zone::Named(zone), None) => {
                let start = timestamp(start_ms)?.to_zoned_datetime(zone.clone());
                let days = if self.step == Step::Week { 7 } else { 1 };
                // Noon of the day after is in the next bucket whatever the clocks do at midnight.
                let next =
                    start.datetime().date().checked_add(days.days()).and_then(|date| date.at(12, 0, 0, 0).to_zoned_datetime(zone.clone()));
                let next = next.map_err(|_| BucketError::OutOfCalendar(start_ms))?;
                local_start(zone, self.step, next.timestamp().as_millisecond())
            }
            (Zone::Utc, None) => Ok(i64::MAX),
        }
    }

    /// The coarsest roll-up whose periods never straddle two of these buckets. `starts` are the calendar buckets in
    /// question; other buckets need none.
    pub fn coarsest_level(&self, starts: &[i64]) -> Level {
        let fits = |level: Level| match self.even() {
            Some((width, origin)) => width % level.ms() == 0 && origin % level.ms() == 0,
            None => starts.iter().all(|start| start % level.ms() == 0),
        };
        Level::ALL.into_iter().rev().find(|&level| fits(level)).unwrap_or(Level::FiveMinutes)
    }
}

fn timestamp(ms: i64) -> Result<Timestamp, BucketError> {
    Timestamp::from_millisecond(ms).map_err(|_| BucketError::OutOfCalendar(ms))
}

/// The first instant of the local day, or of the Monday of the local week, that contains an instant.
fn local_start(zone: &TimeZone, step: Step, timestamp_ms: i64) -> Result<i64, BucketError> {
    let out = |_| BucketError::OutOfCalendar(timestamp_ms);
    let local = timestamp(timestamp_ms)?.to_zoned_datetime(zone.clone());
    let day = match step {
        Step::Week => {
            let since_monday = i64::from(local.weekday().to_monday_zero_offset());
            let monday = local.date().checked_sub(since_monday.days()).map_err(out)?;
            monday.at(12, 0, 0, 0).to_zoned_datetime(zone.clone()).map_err(out)?
        }
        _ => local,
    };
    let start = day.start_of_day().map_err(out)?.timestamp().as_millisecond();
    if start % WINDOW_MS == 0 { Ok(start) } else { Err(BucketError::OffEdge(start)) }
}

/// An instant as answers write it: `2013-01-01T10:15:00.000Z`.
pub fn rfc3339(timestamp_ms: i64) -> String {
    match Timestamp::from_millisecond(timestamp_ms) {
        Ok(at) => at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string(),
        Err(_) => timestamp_ms.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ms(text: &str) -> i64 {
        text.parse::<Timestamp>().expect("a timestamp").as_millisecond()
    }

    #[test]
    fn a_window_contains_its_start_and_not_its_end_before_1970_too() {
        for (at, start) in [(0, 0), (299_999, 0), (300_000, 300_000), (-1, -300_000), (-300_000, -300_000), (-300_001, -600_000)] {
            assert_eq!(WindowStart::containing(at).ms(), start, "{at}");
        }
    }

    #[test]
    fn days_follow_the_zone_through_both_changes_of_the_clock() {
        let days = Buckets::new(Step::Day, Some("America/New_York")).expect("known zone");
        let check = |from: &str, to: &str, lengths: &[i64]| {
            let starts = days.starts(ms(from), ms(to)).expect("in the calendar");
            let hours: Vec<i64> = starts.windows(2).map(|pair| (pair[1] - pair[0]) / HOUR_MS).collect();
            assert_eq!(hours, lengths, "{from}");
        };
        check("2013-03-09T12:00:00Z", "2013-03-12T12:00:00Z", &[24, 23, 24]);
        check("2013-11-02T12:00:00Z", "2013-11-05T12:00:00Z", &[24, 25, 24]);
    }

    #[test]
    fn a_day_whose_midnight_does_not_exist_begins_at_its_first_instant() {
        let days = Buckets::new(Step::Day, Some("America/Sao_Paulo")).expect("known zone");
        assert_eq!(days.start_of(ms("2013-10-20T15:00:00Z")), Ok(ms("2013-10-20T03:00:00Z")));
    }

    #[test]
    fn weeks_begin_on_monday_in_utc_and_in_a_zone() {
        let utc = Buckets::new(Step::Week, None).expect("utc");
        assert_eq!(utc.start_of(ms("2013-01-06T23:59:59Z")), Ok(ms("2012-12-31T00:00:00Z")));
        assert_eq!(utc.start_of(ms("1969-12-31T00:00:00Z")), Ok(ms("1969-12-29T00:00:00Z")));
        let tokyo = Buckets::new(Step::Week, Some("Asia/Tokyo")).expect("known zone");
        assert_eq!(tokyo.start_of(ms("2013-01-06T16:00:00Z")), Ok(ms("2013-01-06T15:00:00Z")));
    }

    #[test]
    fn the_coarsest_roll_up_never_straddles_two_buckets() {
        let level = |step, zone| {
            let buckets = Buckets::new(step, zone).expect("known zone");
            let starts = if buckets.is_calendar() {
                buckets.starts(ms("2013-03-01T00:00:00Z"), ms("2013-04-01T00:00:00Z")).expect("ok")
            } else {
                vec![]
            };
            buckets.coarsest_level(&starts)
        };
        assert_eq!(level(Step::Total, None), Level::Day);
        assert_eq!(level(Step::Week, None), Level::Day);
        assert_eq!(level(Step::Hour, None), Level::Hour);
        assert_eq!(level(Step::QuarterHour, None), Level::FiveMinutes);
        assert_eq!(level(Step::Day, Some("America/New_York")), Level::Hour);
        assert_eq!(level(Step::Day, Some("Asia/Kathmandu")), Level::FiveMinutes);
    }

    #[test]
    fn an_unknown_zone_is_an_error() {
        assert_eq!(Buckets::new(Step::Day, Some("Mars/Phobos")), Err(BucketError::UnknownZone("Mars/Phobos".into())));
    }

    fn aligned() -> impl Strategy<Value = Option<i64>> {
        prop_oneof![Just(None), (-2000i64..2000).prop_map(|n| Some(n * WINDOW_MS))]
    }

    proptest! {
        #[test]
        fn pieces_tile_the_range_and_each_is_on_its_level_edges(from in aligned(), to in aligned(), probe in -2100i64..2100) {
            let range = TimeRange { from_ms: from, to_ms: to };
            let pieces = range.pieces(Level::Day);
            let window = WindowStart::containing(probe * WINDOW_MS);
            let hits = pieces.iter().filter(|(_, piece)| piece.contains(window)).count();
            prop_assert_eq!(hits, usize::from(range.contains(window)));
            for (level, piece) in pieces {
                for edge in [piece.from_ms, piece.to_ms].into_iter().flatten() {
                    prop_assert_eq!(edge.rem_euclid(level.ms()), 0);
                }
            }
        }

        #[test]
        fn a_bucket_contains_what_falls_into_it(at in -2_000_000_000_000i64..4_000_000_000_000, zone in 0usize..6, step in 0usize..5) {
            let zone = [None, Some("America/New_York"), Some("Asia/Kathmandu"), Some("Australia/Lord_Howe"), Some("Pacific/Apia"), Some("America/Sao_Paulo")][zone];
            let at = if zone.is_some() { at.rem_euclid(2_000_000_000_000) + 631_152_000_000 } else { at };
            let buckets = Buckets::new(Step::NAMES[step].1, zone).expect("known zone");
            let start = buckets.start_of(at).expect("on an edge");
            let next = buckets.start_after(start).expect("on an edge");
            prop_assert!(start <= at && at < next, "{start} <= {at} < {next}");
            prop_assert_eq!(buckets.start_of(next - 1), Ok(start));
            prop_assert_eq!(buckets.start_of(next), Ok(next));
        }
    }
}
