//! Measures the door to Kafka: writing, reading and the latency of a trickle, with the CPU time of this process.
//!
//!     TIDEMARK_TEST_KAFKA=127.0.0.1:9092 cargo run --release -p tidemark-topic --example measure -- [records] [partitions] [tasks] [buffer kbytes]

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use tidemark_core::offset::{NextOffset, Partition};
use tidemark_topic::kafka::{ConsumerOptions, Kafka, KafkaConsumer, ProducerOptions};
use tidemark_topic::{Consumer, Error, Happened, Membership, Outgoing, Producer};

const BATCH: u32 = 1000;
const TRICKLE: u32 = 500;

/// CPU seconds of this process so far.
fn cpu_s() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // After the name in parentheses: utime and stime are the 12th and 13th fields, in hundredths of a second.
    let fields = stat.rsplit(')').next().unwrap_or_default().split_whitespace();
    fields.skip(11).take(2).filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

struct Meter {
    wall: Instant,
    cpu_s: f64,
}

impl Meter {
    fn start() -> Self {
        Self { wall: Instant::now(), cpu_s: cpu_s() }
    }

    fn report(&self, what: &str, records: u64) {
        let (wall_s, cpu_s) = (self.wall.elapsed().as_secs_f64(), cpu_s() - self.cpu_s);
        let millions = f64::from(u32::try_from(records).unwrap_or(u32::MAX)) / 1e6;
        println!(
            "{what}: {records} records in {wall_s:.2} s, {:.0} records/s, {:.2} CPU s per million",
            millions * 1e6 / wall_s,
            cpu_s / millions
        );
    }
}

/// A record of 180 bytes that compresses like an event does.
fn event(n: u32, text: &mut String) {
    text.clear();
    let mix = u64::from(n).wrapping_mul(0x9E37_79B9_7F4A_7C15);
    let at = (n / 3_600_000, n / 60_000 % 60, n / 1000 % 60, n % 1000);
    let written = write!(
        text,
        r#"{{"event_id":"{mix:016x}-{n:08x}","event_type":"page_view","timestamp":"2026-11-24T{:02}:{:02}:{:02}.{:03}Z","product_id":"p-{:06}","user_id":"u-{:06}","order_amount":null}}"#,
        at.0 % 24,
        at.1,
        at.2,
        at.3,
        mix % 10_000,
        mix % 200_000,
    );
    written.expect("a String takes it");
    while text.len() < 180 {
        text.push(' ');
    }
}

async fn write(kafka: &Kafka, records: u32, writers: u32, options: ProducerOptions) -> Result<(), Error> {
    let buffer_kbytes = options.buffer_kbytes;
    let producer = Arc::new(kafka.producer(options)?);
    let next = Arc::new(AtomicU32::new(0));
    let meter = Meter::start();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..writers {
        let (producer, next) = (Arc::clone(&producer), Arc::clone(&next));
        tasks.spawn(async move {
            let mut payloads = vec![String::new(); usize::try_from(BATCH).expect("small")];
            loop {
                let first = next.fetch_add(BATCH, Ordering::Relaxed);
                if first >= records {
                    return;
                }
                for (payload, n) in payloads.iter_mut().zip(first..) {
                    event(n, payload);
                }
                let batch: Vec<_> = payloads
                    .iter()
                    .map(|payload| Outgoing {
                        key: Some(&payload.as_bytes()[13..29]),
                        payload: Some(payload.as_bytes()),
                        ..Outgoing::default()
                    })
                    .collect();
                for answer in producer.send_batch(&batch).await {
                    answer.expect("written");
                }
            }
        });
    }
    tasks.join_all().await;
    meter.report(
        &format!("producer, batches of {BATCH} from {writers} tasks, buffer {buffer_kbytes} kbytes, acks=all, lz4"),
        records.into(),
    );
    Ok(())
}

fn reader(kafka: &Kafka, options: ConsumerOptions, from_end: bool) -> Result<(KafkaConsumer, u64), Error> {
    let mut consumer = kafka.consumer(Membership::all(), options)?;
    let mut partitions: Vec<Partition> = Vec::new();
    while partitions.is_empty() {
        consumer.poll(Duration::from_secs(1), |event| {
            if let Happened::Assigned(assigned) = event {
                partitions.extend(assigned);
            }
        })?;
    }
    let mut held = 0;
    for &partition in &partitions {
        let extent = consumer.extent(partition)?;
        held += extent.end.since(extent.start);
        consumer.start(partition, if from_end { extent.end } else { NextOffset::ZERO })?;
    }
    Ok((consumer, held))
}

fn read(kafka: &Kafka, what: &str, options: ConsumerOptions) -> Result<(), Error> {
    let (mut consumer, held) = reader(kafka, options, false)?;
    let meter = Meter::start();
    let (mut records, mut bytes, mut polls) = (0_u64, 0_usize, 0_u64);
    while records < held {
        polls += 1;
        consumer.poll(Duration::from_secs(1), |event| {
            if let Happened::Records { records: run, .. } = event {
                records += run.len() as u64;
                bytes += run.iter().filter_map(|record| record.payload).map(<[u8]>::len).sum::<usize>();
            }
        })?;
    }
    meter.report(what, records);
    println!("  {bytes} bytes in {polls} polls");
    Ok(())
}

/// One record every few milliseconds: how long until it is acknowledged, and until it is delivered.
fn trickle(kafka: &Kafka) -> Result<(), Error> {
    let (mut consumer, _) = reader(kafka, ConsumerOptions::default(), true)?;
    let begun = Instant::now();
    let micros = move || u32::try_from(begun.elapsed().as_micros()).unwrap_or(u32::MAX);
    let producer = kafka.producer(ProducerOptions { linger: Duration::ZERO, ..ProducerOptions::default() })?;
    let sender = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        runtime.block_on(async {
            let mut acknowledged = Vec::new();
            for _ in 0..TRICKLE {
                tokio::time::sleep(Duration::from_millis(7)).await;
                let sent = micros();
                let payload = sent.to_string();
                producer.send_batch(&[Outgoing { payload: Some(payload.as_bytes()), ..Outgoing::default() }]).await[0]
                    .clone()
                    .expect("written");
                acknowledged.push(micros() - sent);
            }
            acknowledged
        })
    });
    let cpu = cpu_s();
    let mut delivered = Vec::new();
    while delivered.len() < usize::try_from(TRICKLE).expect("small") {
        consumer.poll(Duration::from_secs(1), |event| {
            if let Happened::Records { records, .. } = event {
                for record in records {
                    let text = record.payload.and_then(|bytes| std::str::from_utf8(bytes).ok()).unwrap_or_default();
                    delivered.extend(text.parse::<u32>().ok().map(|sent| micros() - sent));
                }
            }
        })?;
    }
    let seconds = begun.elapsed().as_secs_f64();
    println!("a trickle of {TRICKLE} records, {:.0} % of a core for both sides", (cpu_s() - cpu) / seconds * 100.0);
    let mut acknowledged = sender.join().expect("the sender");
    for (what, values) in [("acknowledged", &mut acknowledged), ("delivered", &mut delivered)] {
        values.sort_unstable();
        let at = |share: usize| f64::from(values[(values.len() - 1) * share / 100]) / 1000.0;
        println!("  {what} after p50 {:.2} ms, p95 {:.2} ms, p99 {:.2} ms, at most {:.2} ms", at(50), at(95), at(99), at(100));
    }
    Ok(())
}

fn main() -> Result<(), Error> {
    let argument = |n| std::env::args().nth(n).and_then(|text| text.parse().ok());
    let (records, partitions) = (argument(1).unwrap_or(3_000_000), argument(2).unwrap_or(4));
    let broker = std::env::var("TIDEMARK_TEST_KAFKA").unwrap_or_else(|_| "127.0.0.1:9092".to_owned());
    let kafka = Kafka::new(broker, format!("measure-{}", std::process::id()));
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let admin = kafka.admin()?;
    runtime.block_on(admin.ensure_topic(partitions, 1, &[]))?;
    let mut options = ProducerOptions::default();
    options.buffer_kbytes = argument(4).unwrap_or(options.buffer_kbytes);
    runtime.block_on(write(&kafka, records, argument(3).unwrap_or(8), options))?;
    for _ in 0..2 {
        read(&kafka, "consumer, checksums compared", ConsumerOptions::default())?;
        read(&kafka, "consumer, checksums not compared", ConsumerOptions { check_crcs: false, ..ConsumerOptions::default() })?;
    }
    trickle(&kafka)?;
    runtime.block_on(admin.delete_topic())
}
