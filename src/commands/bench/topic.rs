//! The topic of a bench: one that exists, or one that is generated in a Kafka started for the run.

use anyhow::{Context as _, Result};
use tidemark_embedded::{DataDir, Embedded, EmbeddedOptions, EngineCommand};
use tidemark_topic::kafka::{Kafka, ProducerOptions};
use tidemark_topic::{Outgoing, Producer as _};

/// Events a call of the producer.
const BATCH: u64 = 2_000;

/// Where the bench runs; its own engines stop with it.
pub struct Bench {
    pub kafka: Kafka,
    clickhouse: String,
    embedded: Option<(Embedded, tempfile::TempDir)>,
}

impl Bench {
    pub async fn start(kafka: Option<&str>, topic: &str, events: u64, partitions: u32, engine: bool) -> Result<Self> {
        if let (Some(bootstrap), false) = (kafka, engine) {
            return Ok(Self { kafka: Kafka::new(bootstrap, topic), clickhouse: String::new(), embedded: None });
        }
        let dir = tempfile::tempdir().context("a directory for the run")?;
        let program = std::env::current_exe().context("finding the program's own file")?;
        let mut options = EmbeddedOptions::new(EngineCommand { program, args: vec!["__engine".into()] });
        options.other_kafka = kafka.map(str::to_owned);
        if !engine {
            options.other_clickhouse = Some(String::new());
        }
        let embedded = Embedded::start(DataDir::open(dir.path().join("data"))?, options).await?;
        let runtime = embedded.runtime();
        let bench = Self { kafka: Kafka::new(runtime.kafka, topic), clickhouse: runtime.clickhouse, embedded: Some((embedded, dir)) };
        if kafka.is_none() {
            bench.generate(events, partitions).await?;
        }
        Ok(bench)
    }

    pub fn clickhouse(&self) -> &str {
        &self.clickhouse
    }

    async fn generate(&self, events: u64, partitions: u32) -> Result<()> {
        eprintln!("generating {events} events");
        self.kafka.admin()?.ensure_topic(partitions, 1, &[]).await?;
        let producer = self.kafka.producer(ProducerOptions { compression: "none".into(), ..ProducerOptions::default() })?;
        for from in (0..events).step_by(usize::try_from(BATCH)?) {
            let batch: Vec<(String, String)> = (from..(from + BATCH).min(events)).map(event).collect();
            let records: Vec<Outgoing<'_>> = batch
                .iter()
                .map(|(key, payload)| Outgoing { key: Some(key.as_bytes()), payload: Some(payload.as_bytes()), ..Outgoing::default() })
                .collect();
            for sent in producer.send_batch(&records).await {
                sent?;
            }
        }
        Ok(())
    }

    pub async fn stop(self) {
        if let Some((embedded, _dir)) = self.embedded {
            embedded.stop().await;
        }
    }
}

/// Event number `n`: about 180 bytes, 12 types, 1,000 products, 48 windows. The same number makes the same event.
fn event(n: u64) -> (String, String) {
    let mix = tidemark_core::cell::fold_of(tidemark_core::offset::Offset::new(n));
    let user = format!("u{:06}", mix % 100_000);
    let at_ms = 1_735_689_600_000 + (mix >> 20) % (48 * 300_000);
    let payload = format!(
        "{{\"event_id\":\"{mix:016x}-{n:012}\",\"event_type\":\"type_{:02}\",\"timestamp\":{at_ms},\"product_id\":\"product-{:04}\",\"user_id\":\"{user}\",\"order_amount\":{}.{:02}}}",
        (mix >> 8) % 12,
        (mix >> 12) % 1_000,
        (mix >> 30) % 500,
        (mix >> 40) % 100,
    );
    (user, payload)
}
