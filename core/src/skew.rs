//! How far another machine's clock is from this one's.

/// The difference, as far as one question can tell: an answer is from some moment between asking and hearing it.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Skew {
    /// How far theirs is ahead, in milliseconds; behind if negative.
    pub ahead_ms: i64,
    /// The real difference is at most so much more or less.
    pub unsure_ms: i64,
}

impl Skew {
    /// `theirs_ms` was told between the two moments of this machine's clock.
    pub fn seen(before_ms: i64, theirs_ms: i64, after_ms: i64) -> Self {
        let unsure_ms = (after_ms - before_ms).max(0) / 2;
        Self { ahead_ms: theirs_ms - (before_ms + unsure_ms), unsure_ms }
    }

    /// The difference that there is at least.
    pub fn at_least_ms(self) -> i64 {
        (self.ahead_ms.abs() - self.unsure_ms).max(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_way_may_have_taken_is_no_difference() {
        let skew = |before, theirs, after| {
            let skew = Skew::seen(before, theirs, after);
            (skew.ahead_ms, skew.at_least_ms())
        };
        assert_eq!(skew(1_000, 1_050, 1_100), (0, 0));
        assert_eq!(skew(1_000, 1_090, 1_100), (40, 0));
        assert_eq!(skew(1_000, 6_050, 1_100), (5_000, 4_950));
        assert_eq!(skew(9_000, 4_000, 9_000), (-5_000, 5_000));
    }
}
