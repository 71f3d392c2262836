//! Reads the topic all the time, so that it also knows the records that retention removes.

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tidemark_tests::client::Position;
use tidemark_tests::recount::Recount;
use tidemark_tests::wait;

/// How often it looks whether the topic has more partitions.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
const DEADLINE: Duration = Duration::from_secs(120);

#[derive(Debug)]
pub struct Recorder {
    topic: String,
    /// Guards what has been read.
    recount: Mutex<Recount>,
}

impl Recorder {
    pub fn new(topic: &str, partitions: u32, epoch_bits: u8) -> Self {
        Self { topic: topic.to_owned(), recount: Mutex::new(Recount::new(partitions, epoch_bits)) }
    }

    pub fn recount(&self) -> MutexGuard<'_, Recount> {
        self.recount.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Reads until it is stopped.
    pub fn follow(&self, kafka: &str, stop: &AtomicBool) {
        let consumer: BaseConsumer = ClientConfig::new()
            .set("bootstrap.servers", kafka)
            .set("group.id", "recorder")
            .set("enable.auto.commit", "false")
            .set("check.crcs", "true")
            .set("fetch.wait.max.ms", "100")
            .set("auto.offset.reset", "error")
            .set_log_level(rdkafka::config::RDKafkaLogLevel::Emerg)
            .create()
            .expect("a Kafka consumer");
        let mut looked: Option<Instant> = None;
        while !stop.load(Ordering::Relaxed) {
            if looked.is_none_or(|looked| looked.elapsed() > LOOK_INTERVAL) {
                self.look(&consumer);
                looked = Some(Instant::now());
            }
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(record)) => self.recount().append(&record),
                Some(Err(KafkaError::MessageConsumption(
                    code @ (RDKafkaErrorCode::OffsetOutOfRange | RDKafkaErrorCode::AutoOffsetReset),
                ))) => panic!("the recorder has been overtaken: {code}"),
                // Brokers come and go.
                Some(Err(_)) | None => {}
            }
        }
    }

    /// Reads all partitions that there are, each from where it has come to.
    fn look(&self, consumer: &BaseConsumer) {
        let Ok(metadata) = consumer.fetch_metadata(Some(&self.topic), Duration::from_secs(5)) else { return };
        let ids: Vec<i32> = metadata.topics()[0].partitions().iter().map(|of| of.id()).collect();
        let assigned = consumer.assignment().map_or(0, |list| list.count());
        if ids.len() <= assigned {
            return;
        }
        let mut recount = self.recount();
        let mut list = TopicPartitionList::new();
        for id in ids {
            let partition = u32::try_from(id).expect("Kafka counts from 0");
            recount.add_partition(partition);
            let next = i64::try_from(recount.ends[&partition]).expect("an offset");
            list.add_partition_offset(&self.topic, id, Offset::Offset(next)).expect("a partition to read");
        }
        consumer.assign(&list).expect("the partitions are free to read");
    }

    /// Waits until everything below this position has been read.
    pub fn wait_for(&self, position: &Position) {
        wait::until("the recorder has read the topic up to the answers' cuts", DEADLINE, || {
            let recount = self.recount();
            position.iter().all(|(partition, next)| recount.ends.get(partition).is_some_and(|end| end >= next)).then_some(())
        });
    }
}
