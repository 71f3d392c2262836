//! Watermarks: how far event time has come. They decide when a window is called closing or final, and nothing else: an event
//! that comes later is counted all the same.

use std::time::Duration;

/// A partition that nothing has come into for so long does not hold event time up.
pub const IDLE_AFTER: Duration = Duration::from_secs(60);

/// What one partition has shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Shown {
    /// The latest event's timestamp, but no later than its record's: an event of tomorrow does not end today.
    pub event_ms: Option<i64>,
    /// The timestamp of the last record counted.
    pub counted_ms: Option<i64>,
    /// Records that are there and have not been counted.
    pub lag: u64,
}

impl Shown {
    fn is_idle(&self, now_ms: i64) -> bool {
        self.lag == 0 && self.counted_ms.is_none_or(|counted| counted.saturating_add(millis(IDLE_AFTER)) <= now_ms)
    }
}

/// The earliest of the active partitions' event times. While all are idle, time goes on by the clock, [`IDLE_AFTER`] behind.
/// `None` while it is not known: an active partition has shown no event yet.
pub fn watermark(partitions: impl IntoIterator<Item = Shown>, now_ms: i64) -> Option<i64> {
    let (mut active, mut latest) = (None::<Option<i64>>, None);
    for shown in partitions {
        latest = latest.max(shown.event_ms);
        if !shown.is_idle(now_ms) {
            active = Some(active.map_or(shown.event_ms, |before| before.min(shown.event_ms)));
        }
    }
    active.unwrap_or_else(|| latest.max(Some(now_ms.saturating_sub(millis(IDLE_AFTER)))))
}

/// Where a window stands.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Events of its time come in.
    Live,
    /// Its time is over; late events are expected.
    Closing,
    /// So are those. An event that comes even later is counted, and changes it.
    Final,
}

impl Phase {
    /// Of a window that ends at `end_ms`, where late events are expected for `lateness`.
    pub fn of(end_ms: i64, watermark_ms: Option<i64>, lateness: Duration) -> Self {
        match watermark_ms {
            Some(at) if end_ms.saturating_add(millis(lateness)) <= at => Self::Final,
            Some(at) if end_ms <= at => Self::Closing,
            _ => Self::Live,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Closing => "closing",
            Self::Final => "final",
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: i64 = 1_000_000;

    fn shown(event_ms: impl Into<Option<i64>>, counted_ms: impl Into<Option<i64>>, lag: u64) -> Shown {
        Shown { event_ms: event_ms.into(), counted_ms: counted_ms.into(), lag }
    }

    #[test]
    fn the_slowest_active_partition_holds_event_time_up() {
        let (ahead, behind) = (shown(900_000, NOW, 0), shown(700_000, NOW, 0));
        assert_eq!(watermark([ahead, behind], NOW), Some(700_000));
        // One that is idle does not, but one that has something to count does, however long ago that came.
        let idle = shown(100_000, NOW - 60_000, 0);
        assert_eq!(watermark([ahead, idle], NOW), Some(900_000));
        assert_eq!(watermark([ahead, shown(100_000, NOW - 60_000, 1)], NOW), Some(100_000));
        assert_eq!(watermark([ahead, shown(None, None, 0)], NOW), Some(900_000));
        assert_eq!(watermark([ahead, shown(None, None, 1)], NOW), None, "what it has is not known");
    }

    #[test]
    fn where_nothing_comes_time_goes_on_by_the_clock() {
        let idle = |event_ms| shown(event_ms, NOW - 60_000, 0);
        assert_eq!(watermark([idle(100_000), idle(200_000)], NOW), Some(NOW - 60_000));
        assert_eq!(watermark([], NOW), Some(NOW - 60_000));
    }

    #[test]
    fn a_window_is_live_then_closing_then_final() {
        let of = |watermark_ms| Phase::of(300_000, watermark_ms, Duration::from_secs(10));
        assert_eq!(of(None), Phase::Live);
        assert_eq!([299_999, 300_000, 309_999, 310_000].map(|at| of(Some(at)).name()), ["live", "closing", "closing", "final"]);
    }
}
