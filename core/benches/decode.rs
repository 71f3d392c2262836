//! How long one decode takes, and how far that is from a plain copy of a general parser. The target is 200 ns for an
//! ordinary event of about 180 bytes.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use flate2::read::GzDecoder;
use std::fs::File;
use std::hint::black_box;
use std::io::{BufRead, BufReader};
use tidemark_core::event::{Limits, decode, id_hash};

const RECORD_TIMESTAMP_MS: i64 = 1_780_000_000_000;
const EVENT: &[u8] = br#"{"event_id":"nyc-000000","event_type":"UA","timestamp":"2013-01-01T10:15:00.000Z","product_id":"EWR-IAH","user_id":"N14228","order_amount":2,"properties":{"flight":1545,"distance":1400}}"#;
const EVENT_WITH_ESCAPES: &[u8] = br#"{"event_id":"nyc-000000","event_type":"\u0055\u0041","timestamp":"2013-01-01T10:15:00.000Z","product_id":"EWR-IAH","user_id":"N14228","order_amount":12e-1,"properties":{"flight":1545,"distance":1400}}"#;
const EVENT_SPACED: &[u8] = br#" { "event_id" : "nyc-000516" ,	"event_type":"UA", "timestamp" :"2013-01-01T21:01:00.000Z","product_id":"EWR-ORD",  "user_id":"N484UA","order_amount" : 0.25 }	"#;

fn lines() -> Vec<Vec<u8>> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/flights-2013-01.late.ndjson.gz");
    let file = File::open(path).expect("tests/data has the file");
    BufReader::new(GzDecoder::new(file)).split(b'\n').collect::<Result<_, _>>().expect("the file is whole")
}

fn bench(c: &mut Criterion) {
    let limits = Limits::default();
    let mut group = c.benchmark_group("decode");
    for (name, payload) in [("ordinary", EVENT), ("escapes", EVENT_WITH_ESCAPES), ("spaced", EVENT_SPACED)] {
        group.throughput(Throughput::Bytes(payload.len() as u64));
        group.bench_function(name, |b| {
            b.iter(|| decode(black_box(Some(payload)), black_box(RECORD_TIMESTAMP_MS), &limits).expect("a valid event"));
        });
    }

    // Many different events: the branch predictor cannot learn one document by heart. Time is per 10,000 events.
    let lines: Vec<_> = lines().into_iter().take(10_000).collect();
    group.throughput(Throughput::Elements(lines.len() as u64));
    group.bench_function("january, per 10,000", |b| {
        b.iter(|| {
            for line in &lines {
                black_box(decode(Some(line), RECORD_TIMESTAMP_MS, &limits).expect("a valid event"));
            }
        });
    });
    group.bench_function("january, properties and id hash too", |b| {
        b.iter(|| {
            for line in &lines {
                let event = decode(Some(line), RECORD_TIMESTAMP_MS, &limits).expect("a valid event");
                black_box(event.properties.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>());
                black_box(event.event_id.as_deref().map(id_hash));
            }
        });
    });
    group.bench_function("january, serde_json to a Value for comparison", |b| {
        b.iter(|| {
            for line in &lines {
                black_box(serde_json::from_slice::<serde_json::Value>(line).expect("JSON"));
            }
        });
    });
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);
