//! Records into a topic, at a pace (⇄; blocks): [`Kafka::copy`] copies, this says when, and from where: a range of the topic,
//! [`files`] or [`raw`] history.

pub mod files;
pub mod raw;
pub mod rows;

use files::{FileError, Files};
use raw::Raw;
use serde::Serialize;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tidemark_core::cut::Cut;
use tidemark_topic::kafka::{Copied, Copy, Copying, Kafka, Source, TopicRange};

/// Between two attempts while a server does not answer.
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

/// Where records come from.
#[derive(Debug)]
pub enum Origin {
    Topic(TopicRange),
    Files(Files),
    Raw(Raw),
}

/// Why a copy has ended before its end.
#[derive(Debug, thiserror::Error)]
pub enum PublishError {
    #[error(transparent)]
    Kafka(#[from] tidemark_topic::Error),
    #[error(transparent)]
    File(#[from] FileError),
    #[error("raw history cannot be read: {0}")]
    History(#[from] tidemark_history::Error),
}

impl PublishError {
    /// Trying again may help.
    fn passes(&self) -> bool {
        matches!(self, Self::Kafka(tidemark_topic::Error::Unavailable { .. }) | Self::History(tidemark_history::Error::Unavailable { .. }))
    }
}

impl Source for Origin {
    type Error = PublishError;

    fn noted_under(&self) -> &str {
        match self {
            Self::Topic(range) => range.noted_under(),
            Self::Files(files) => files.noted_under(),
            Self::Raw(raw) => raw.noted_under(),
        }
    }

    fn begins_at(&self) -> &Cut {
        match self {
            Self::Topic(range) => range.begins_at(),
            Self::Files(files) => files.begins_at(),
            Self::Raw(raw) => raw.begins_at(),
        }
    }

    fn partitions(&self) -> Option<u32> {
        match self {
            Self::Topic(range) => range.partitions(),
            Self::Files(files) => files.partitions(),
            Self::Raw(raw) => raw.partitions(),
        }
    }

    fn give(&mut self, at: &Cut, copying: &mut Copying<'_>) -> Result<bool, PublishError> {
        match self {
            Self::Topic(range) => Ok(range.give(at, copying)?),
            Self::Files(files) => files.give(at, copying),
            Self::Raw(raw) => raw.give(at, copying),
        }
    }
}

impl Origin {
    /// A position in words.
    fn place(&self, at: &Cut) -> String {
        match self {
            Self::Files(files) => files.place(at),
            Self::Topic(_) | Self::Raw(_) => at.to_string(),
        }
    }

    /// What is needed to say how far a copy is while it runs.
    fn measure(&self) -> Measure {
        match self {
            Self::Topic(TopicRange { to, .. }) => Measure::Offsets(to.clone()),
            Self::Raw(raw) => Measure::Offsets(raw.ends_at().clone()),
            Self::Files(files) => Measure::Bytes(files.read_bytes()),
        }
    }
}

enum Measure {
    Offsets(Cut),
    Bytes(files::ReadBytes),
}

impl Measure {
    fn progress(&self, copied: &Copied) -> Progress {
        let (done, all) = match self {
            Self::Bytes(read) => read.of_all(),
            Self::Offsets(to) => {
                let left = |cut: &Cut| to.iter().map(|(partition, to)| to.get().saturating_sub(cut.get(partition).get())).sum::<u64>();
                let all = left(&copied.resumed);
                (all - left(&copied.reached), all)
            }
        };
        Progress { records: copied.records, bytes: copied.bytes, done, all }
    }
}

/// How far a copy is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize)]
pub struct Progress {
    /// Copied by this call.
    pub records: u64,
    pub bytes: u64,
    /// Of `all`: offsets, or bytes of files.
    pub done: u64,
    pub all: u64,
}

/// What came of it. `Display` is what `tidemark replay publish` prints.
#[derive(Clone, PartialEq, Debug, Serialize)]
pub struct Published {
    pub source: String,
    pub into: String,
    pub records: u64,
    pub bytes: u64,
    /// Records that are no events, as far as that was looked at.
    pub no_events: u64,
    /// Where it went on, and how far it has come.
    pub resumed: String,
    pub reached: String,
    /// By how much times have been moved.
    pub shifted_ms: Option<i64>,
    /// False if it was stopped before.
    pub complete: bool,
    pub took_s: f64,
}

impl fmt::Display for Published {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { source, into, records, bytes, no_events, resumed, reached, shifted_ms, complete, took_s } = self;
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let (rate, megabytes) = (*records as f64 / took_s.max(0.001), *bytes as f64 / 1e6);
        write!(f, "{records} records of {source} are in `{into}`, from {resumed} on, up to {reached}: ")?;
        writeln!(f, "{megabytes:.1} MB in {took_s:.1} s, {rate:.0} records a second")?;
        if let Some(ms) = shifted_ms {
            writeln!(f, "times have been moved by {ms} ms")?;
        }
        if *no_events > 0 {
            writeln!(f, "{no_events} of the records are no events, and have been copied as they are")?;
        }
        match complete {
            true => write!(f, "all of the range has been copied"),
            false => write!(f, "stopped; the same command goes on from there"),
        }
    }
}

/// Copies until all is done or `stop` is said. While a server does not answer it is tried again, from what has been committed.
/// `source` is it in words; `progress` is told how far this call has come.
pub fn publish(
    kafka: &Kafka,
    copy: &Copy,
    source: &str,
    origin: &mut Origin,
    pace: Pace,
    stop: &AtomicBool,
    mut progress: impl FnMut(Progress),
) -> Result<Published, PublishError> {
    let (began, measure) = (Instant::now(), origin.measure());
    let (mut so_far, mut moved): (Option<Copied>, _) = (None, Instant::now());
    let copied = loop {
        let before = so_far.clone();
        let mut clock = Clock::new(pace, Instant::now());
        let attempt = kafka.copy(copy, origin, &mut |timestamp_ms| clock.due(timestamp_ms), stop, &mut |copied| {
            let all = joined(before.as_ref(), copied);
            progress(measure.progress(&all));
            so_far = Some(all);
            moved = Instant::now();
        });
        match attempt {
            Ok(copied) => break joined(before.as_ref(), &copied),
            Err(error) if error.passes() && moved.elapsed() < PATIENCE && !stop.load(Ordering::Relaxed) => std::thread::sleep(AGAIN),
            Err(error) => return Err(error),
        }
    };
    Ok(Published {
        source: source.to_owned(),
        into: copy.into.clone(),
        records: copied.records,
        bytes: copied.bytes,
        no_events: copied.no_events,
        resumed: origin.place(&copied.resumed),
        reached: origin.place(&copied.reached),
        shifted_ms: copied.shifted_ms,
        complete: copied.complete,
        took_s: began.elapsed().as_secs_f64(),
    })
}

/// What two attempts, one after the other, have copied.
fn joined(before: Option<&Copied>, now: &Copied) -> Copied {
    let Some(before) = before else { return now.clone() };
    Copied {
        records: before.records + now.records,
        bytes: before.bytes + now.bytes,
        no_events: before.no_events + now.no_events,
        resumed: before.resumed.clone(),
        ..now.clone()
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
