//! A range of the topic into another topic, at a pace (⇄; blocks): [`Kafka::copy`] copies, this says when.

use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tidemark_topic::kafka::{Copied, Copy, Kafka};

/// Between two attempts while Kafka does not answer.
const AGAIN: Duration = Duration::from_secs(1);
/// For so long nothing may come of them.
const PATIENCE: Duration = Duration::from_secs(120);

/// How fast records follow each other.
#[derive(Clone, Copy, PartialEq, Debug, Default)]
pub enum Pace {
    /// As fast as they can be read and written.
    #[default]
    Max,
    /// So many a second.
    PerSecond(f64),
    /// So many times as fast as their timestamps say.
    Times(f64),
}

/// `60x`, `60` or `0.5x`.
#[derive(Clone, Copy, PartialEq, Debug)]
pub struct Speed(pub f64);

/// What is no speed.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("`{0}` is no speed: write 60x for sixty times as fast as the records came, 1x for as fast")]
pub struct SpeedError(String);

impl FromStr for Speed {
    type Err = SpeedError;

    fn from_str(text: &str) -> Result<Self, SpeedError> {
        let number: Option<f64> = text.strip_suffix('x').unwrap_or(text).parse().ok();
        number.filter(|speed| speed.is_finite() && *speed > 0.0).map(Self).ok_or_else(|| SpeedError(text.to_owned()))
    }
}

/// Says when each record is due.
#[derive(Debug)]
pub struct Clock {
    pace: Pace,
    began: Instant,
    /// The first record's timestamp.
    first_ms: Option<i64>,
    records: u64,
}

impl Clock {
    pub fn new(pace: Pace, began: Instant) -> Self {
        Self { pace, began, first_ms: None, records: 0 }
    }

    /// When the next record is due, which has this timestamp. One that is earlier than the first is due at once.
    pub fn due(&mut self, timestamp_ms: i64) -> Instant {
        let first_ms = *self.first_ms.get_or_insert(timestamp_ms);
        #[expect(clippy::cast_precision_loss, reason = "2^53 milliseconds and records are enough")]
        let seconds = match self.pace {
            Pace::Max => 0.0,
            Pace::PerSecond(rate) => self.records as f64 / rate,
            Pace::Times(speed) => timestamp_ms.saturating_sub(first_ms) as f64 / 1000.0 / speed,
        };
        self.records += 1;
        self.began + Duration::try_from_secs_f64(seconds.max(0.0)).unwrap_or(Duration::MAX / 4)
    }
}

/// What came of it. `Display` is what `tidemark replay publish` prints.
#[derive(Clone, PartialEq, Debug)]
pub struct Published {
    pub source: String,
    pub into: String,
    pub copied: Copied,
    /// False if it was stopped before.
    pub complete: bool,
    pub took: Duration,
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, into, copied, complete, took } = self;
        let seconds = took.as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let rate = copied.records as f64 / seconds.max(0.001);
        write!(f, "{} records of `{source}` are in `{into}`, from {} on, up to {}: ", copied.records, copied.resumed, copied.reached)?;
        writeln!(f, "{:.1} MB in {seconds:.1} s, {rate:.0} records a second", megabytes(copied.bytes))?;
        match complete {
            true => write!(f, "all of the range has been copied"),
            false => write!(f, "stopped; the same command goes on from there"),
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Copies until all is done or `stop` is said. While Kafka does not answer it is tried again, from what has been committed.
/// `progress` is told the records copied so far, by this call.
pub fn publish(
    kafka: &Kafka,
    copy: &Copy,
    pace: Pace,
    stop: &AtomicBool,
    mut progress: impl FnMut(&Copied),
) -> Result<Published, tidemark_topic::Error> {
    let began = Instant::now();
    let (mut so_far, mut moved): (Option<Copied>, _) = (None, Instant::now());
    loop {
        let before = so_far.clone();
        let mut clock = Clock::new(pace, Instant::now());
        let attempt = kafka.copy(copy, |timestamp_ms| clock.due(timestamp_ms), stop, &mut |copied| {
            let all = joined(before.as_ref(), copied);
            progress(&all);
            so_far = Some(all);
            moved = Instant::now();
        });
        match attempt {
            Ok(copied) => {
                let copied = joined(before.as_ref(), &copied);
                let complete = copied.reached.reaches(&copy.to);
                return Ok(Published { source: kafka.topic.clone(), into: copy.into.clone(), copied, complete, took: began.elapsed() });
            }
            Err(tidemark_topic::Error::Unavailable { .. }) if moved.elapsed() < PATIENCE && !stop.load(Ordering::Relaxed) => {
                std::thread::sleep(AGAIN);
            }
            Err(error) => return Err(error),
        }
    }
}

/// What two attempts, one after the other, have copied.
fn joined(before: Option<&Copied>, now: &Copied) -> Copied {
    let Some(before) = before else { return now.clone() };
    Copied {
        records: before.records + now.records,
        bytes: before.bytes + now.bytes,
        resumed: before.resumed.clone(),
        reached: now.reached.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn due_ms(pace: Pace, timestamps: &[i64]) -> Vec<u128> {
        let began = Instant::now();
        let mut clock = Clock::new(pace, began);
        timestamps.iter().map(|&timestamp_ms| clock.due(timestamp_ms).duration_since(began).as_millis()).collect()
    }

    #[test]
    fn records_are_due_as_the_pace_says() {
        let timestamps = [1_000_000, 1_060_000, 1_030_000, 1_300_000, 999_000];
        assert_eq!(due_ms(Pace::Times(60.0), &timestamps), [0, 1000, 500, 5000, 0]);
        assert_eq!(due_ms(Pace::Times(0.5), &timestamps[..2]), [0, 120_000]);
        assert_eq!(due_ms(Pace::PerSecond(4.0), &timestamps), [0, 250, 500, 750, 1000]);
        assert_eq!(due_ms(Pace::Max, &timestamps), [0, 0, 0, 0, 0]);
        // A timestamp that is nonsense makes nobody wait for ever by a fault of the arithmetic.
        assert_eq!(due_ms(Pace::Times(1.0), &[i64::MIN, i64::MAX]).len(), 2);
    }

    #[test]
    fn a_speed_may_have_its_x() {
        let speed = |text: &str| text.parse::<Speed>().ok().map(|speed| speed.0);
        assert_eq!((speed("60x"), speed("0.5"), speed("1x")), (Some(60.0), Some(0.5), Some(1.0)));
        for wrong in ["", "x", "0x", "-1x", "infx", "60 x", "fast"] {
            assert_eq!(speed(wrong), None, "{wrong}");
        }
    }
}
