//! Decoding against a reference: `decode` accepts exactly what the slow [`reference`] accepts, with every field, and
//! refuses the rest for the same reason.
//!
//! A case is a seed. `TIDEMARK_FUZZ_SECS=3600 cargo test --profile ci -p tidemark-core --test differential` goes on for an
//! hour with cases that no run has had before; `TIDEMARK_FUZZ_FIRST=S` begins at a case.

mod documents;
mod reference;

use documents::{Draws, document};
use reference::Plain;
use std::collections::BTreeMap;
use std::io::Read as _;
use std::time::{Duration, Instant, SystemTime};
use tidemark_core::event::{Limits, Reject, decode};

const NOW: i64 = 1_795_564_800_000;
/// Three or four seconds of an optimized build; others stop after the time.
const DEFAULT_CASES: u64 = 400_000;
const DEFAULT_TIME: Duration = Duration::from_secs(12);

/// A record and all that its verdict may depend on.
#[derive(Clone, Debug)]
struct Case {
    payload: Option<Vec<u8>>,
    record_timestamp_ms: i64,
    limits: Limits,
}

impl Case {
    fn new(seed: u64, real: &[Vec<u8>]) -> Self {
        let mut draws = Draws(seed.wrapping_mul(0x2545_F491_4F6C_DD1D));
        let limits = match draws.below(6) {
            0 => Limits { amount_strings: true, ..Limits::default() },
            1 => Limits { max_depth: *draws.of(&[&0, &1, &2, &3, &127, &128, &u32::MAX][..]), ..any_time() },
            2 => Limits { max_bytes: draws.below(250), ..Limits::default() },
            3 => Limits { max_ahead_ms: *draws.of(&[&-1, &0, &i64::MIN][..]), amount_strings: true, ..Limits::default() },
            _ => Limits::default(),
        };
        let record_timestamp_ms = *draws.of(&[&NOW, &NOW, &NOW, &0, &1_357_035_300_000, &i64::MAX, &i64::MIN][..]);
        let payload = (!draws.one_in(1_000)).then(|| document(&mut draws, real));
        Self { payload, record_timestamp_ms, limits }
    }

    fn of(payload: &[u8]) -> Self {
        Self { payload: Some(payload.to_vec()), record_timestamp_ms: NOW, limits: Limits::default() }
    }

    fn ours(&self) -> Result<Plain, Reject> {
        decode(self.payload.as_deref(), self.record_timestamp_ms, &self.limits).map(Plain::of)
    }

    fn theirs(&self) -> Result<Plain, Reject> {
        reference::decode(self.payload.as_deref(), self.record_timestamp_ms, &self.limits)
    }

    /// The same without every stretch of bytes that the difference does not need.
    fn smallest(mut self) -> Self {
        let mut step = self.payload.as_ref().map_or(0, Vec::len) / 2;
        while step > 0 {
            let mut at = 0;
            while let Some(bytes) = self.payload.as_ref().filter(|bytes| at < bytes.len()) {
                let shorter = Self { payload: Some([&bytes[..at], &bytes[(at + step).min(bytes.len())..]].concat()), ..self.clone() };
                if shorter.ours() == shorter.theirs() {
                    at += step;
                } else {
                    self = shorter;
                }
            }
            step /= 2;
        }
        self
    }

    /// The verdict, if both agree.
    fn check(self, name: impl FnOnce() -> String) -> Result<Plain, Reject> {
        let ours = self.ours();
        if ours != self.theirs() {
            let case = self.smallest();
            let text = case.payload.as_deref().unwrap_or_default().escape_ascii().to_string();
            panic!("{}: b\"{text}\"\n  decode says    {:?}\n  reference says {:?}\n  {case:?}", name(), case.ours(), case.theirs());
        }
        ours
    }
}

fn any_time() -> Limits {
    Limits { earliest_ms: i64::MIN, max_ahead_ms: i64::MAX, latest_ms: i64::MAX, ..Limits::default() }
}

/// The lines of January's flights, among them dirty ones.
fn flights() -> Vec<Vec<u8>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/flights-2013-01.dirty.ndjson.gz");
    let file = std::fs::File::open(path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let mut bytes = Vec::new();
    flate2::read::GzDecoder::new(file).read_to_end(&mut bytes).expect("gzip");
    bytes.split(|byte| *byte == b'\n').map(<[u8]>::to_vec).collect()
}

fn setting(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text} is not a number")))
}

#[test]
fn every_line_of_the_dirty_file_is_judged_as_the_reference_judges_it() {
    for (n, line) in flights().iter().enumerate() {
        let _ = Case::of(line).check(|| format!("line {}", n + 1));
    }
}

/// Cases that were wrong once, or that are too rare to wait for.
#[test]
fn documents_that_have_been_trouble_are_judged_as_the_reference_judges_them() {
    let event = |fields: &str| format!(r#"{{"event_type":"a","timestamp":946684800000,{fields}}}"#);
    let zeros = "0".repeat(40_000);
    for document in [
        event(&format!(r#""order_amount":0.{zeros}1e40001"#)),
        event(&format!(r#""order_amount":1{zeros}e-40000"#)),
        event(&format!(r#""order_amount":1{zeros}"#)),
        event(r#""properties":{"a":{"a": 1 },"a":[ ]} "#),
    ] {
        let _ = Case::of(document.as_bytes()).check(|| "a known document".to_owned());
    }
}

#[test]
fn decode_judges_as_the_reference_does() {
    let real: Vec<Vec<u8>> = flights().into_iter().step_by(9).filter(|line| !line.is_empty()).collect();
    let time = setting("TIDEMARK_FUZZ_SECS").map(Duration::from_secs);
    let first = setting("TIDEMARK_FUZZ_FIRST").unwrap_or_else(|| match time {
        Some(_) => SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970").as_secs() << 32,
        None => 0,
    });
    let (began, mut case, mut verdicts) = (Instant::now(), first, BTreeMap::<&str, u64>::new());
    while began.elapsed() < time.unwrap_or(DEFAULT_TIME) && (time.is_some() || case - first < DEFAULT_CASES) {
        let verdict = Case::new(case, &real).check(|| format!("TIDEMARK_FUZZ_FIRST={case}"));
        *verdicts.entry(verdict.map_or_else(Reject::reason, |_| "event")).or_default() += 1;
        case += 1;
    }
    println!("{} cases from {first}: {verdicts:?}", case - first);
    // Every way out of decode has been taken, and not by chance.
    if case - first >= DEFAULT_CASES {
        assert_eq!(verdicts.len(), 21, "one verdict for each reject, and events: {verdicts:?}");
        assert!(verdicts["event"] * 10 > DEFAULT_CASES && verdicts.values().all(|n| *n >= 100), "too few of a kind: {verdicts:?}");
    }
}
