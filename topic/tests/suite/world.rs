//! The two logs under test, and what a test may do to them besides reading.

use rdkafka::ClientConfig;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use std::future::Future;
use std::pin::pin;
use std::sync::atomic::{AtomicU32, Ordering};
use std::task::{Context, Poll, Waker as TaskWaker};
use std::time::Duration;
use tidemark_core::offset::{NextOffset, Partition};
use tidemark_topic::kafka::{Admin, ConsumerOptions, Kafka, KafkaConsumer, KafkaProducer, ProducerOptions};
use tidemark_topic::memory::{MemoryConsumer, MemoryLog, MemoryProducer};
use tidemark_topic::{Consumer, Membership, Outgoing, Position, Producer, SendError};

/// Longer than any single step may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(60);
/// Kafka's smallest.
const SESSION: Duration = Duration::from_secs(6);

pub trait World {
    type Reader: Consumer;
    type Writer: Producer;

    /// A topic of its own.
    fn new(partitions: u32) -> Self;
    fn consumer(&self, membership: Membership) -> Self::Reader;
    fn writer(&self) -> Self::Writer;
    fn wait<T>(&self, future: impl Future<Output = T>) -> T;
    /// Writes the records in one transaction, so that a hole (its marker) follows. An aborted one leaves only holes.
    fn transaction(&self, partition: Partition, records: &[&str], commit: bool);
    fn truncate_front(&self, partition: Partition, start: NextOffset);
    /// Ends a member's session behind its back, and returns when the group has given its partitions to `heir`.
    fn expire(&self, member: &Self::Reader, heir: &mut super::Seen<Self::Reader>);

    fn all(&self) -> Self::Reader {
        self.consumer(Membership::all())
    }

    fn member(&self, instance: Option<&str>) -> Self::Reader {
        let instance = instance.map(str::to_owned);
        self.consumer(Membership::Group { group: self.group(), instance, session_timeout: SESSION })
    }

    fn group(&self) -> String;

    fn send(&self, records: &[Outgoing<'_>]) -> Vec<Result<Position, SendError>> {
        let writer = self.writer();
        self.wait(writer.send_batch(records))
    }

    fn append(&self, partition: u32, records: &[&str]) {
        let batch: Vec<_> = records
            .iter()
            .map(|record| Outgoing { payload: Some(record.as_bytes()), partition: Some(Partition(partition)), ..Outgoing::default() })
            .collect();
        for answer in self.send(&batch) {
            answer.expect("the record is written");
        }
    }
}

pub struct KafkaWorld {
    kafka: Kafka,
    admin: Admin,
    runtime: tokio::runtime::Runtime,
}

fn unique(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let started = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis();
    format!("suite-{what}-{started}-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Where the broker for tests is.
pub fn bootstrap() -> String {
    std::env::var("TIDEMARK_TEST_KAFKA").expect(
        "the suite needs a Kafka broker: run it by `make test`, which starts one, \
         or set TIDEMARK_TEST_KAFKA to the host:port of one that may be written to",
    )
}

impl KafkaWorld {
    pub fn writer_with(&self, options: ProducerOptions) -> KafkaProducer {
        self.kafka.producer(options).expect("a producer")
    }
}

impl World for KafkaWorld {
    type Reader = KafkaConsumer;
    type Writer = KafkaProducer;

    fn new(partitions: u32) -> Self {
        let kafka = Kafka::new(bootstrap(), unique("topic"));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let admin = kafka.admin().expect("an admin client");
        let info = runtime.block_on(admin.ensure_topic(partitions, 1, &[("retention.ms", "-1")])).expect("the topic is made");
        assert_eq!((info.partitions, info.created), (partitions, true));
        Self { kafka, admin, runtime }
    }

    fn consumer(&self, membership: Membership) -> KafkaConsumer {
        let mut kafka = self.kafka.clone();
        if let Membership::Group { session_timeout, .. } = &membership {
            kafka.client_options.insert("max.poll.interval.ms".to_owned(), session_timeout.as_millis().to_string());
        }
        kafka.consumer(membership, ConsumerOptions { traced: true, ..ConsumerOptions::default() }).expect("a consumer")
    }

    fn writer(&self) -> KafkaProducer {
        self.writer_with(ProducerOptions::default())
    }

    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    fn transaction(&self, partition: Partition, records: &[&str], commit: bool) {
        let producer: BaseProducer = ClientConfig::new()
            .set("bootstrap.servers", &self.kafka.bootstrap)
            .set("transactional.id", unique("transaction"))
            .create()
            .expect("a transactional producer");
        producer.init_transactions(PATIENCE).expect("transactions");
        producer.begin_transaction().expect("a transaction");
        for record in records {
            let partition = i32::try_from(partition.0).expect("small");
            producer.send(BaseRecord::<(), str>::to(&self.kafka.topic).partition(partition).payload(record)).expect("room");
        }
        producer.flush(PATIENCE).expect("written");
        let end = if commit { producer.commit_transaction(PATIENCE) } else { producer.abort_transaction(PATIENCE) };
        end.expect("the transaction ends");
    }

    fn truncate_front(&self, partition: Partition, start: NextOffset) {
        self.wait(self.admin.delete_records_below(partition, start)).expect("records are deleted");
    }

    /// The member is not polled, which ends its session.
    fn expire(&self, _: &KafkaConsumer, heir: &mut super::Seen<KafkaConsumer>) {
        heir.until("the heir owns the partitions", |heir| !heir.assigned.is_empty());
    }

    fn group(&self) -> String {
        format!("group-{}", self.kafka.topic)
    }
}

impl Drop for KafkaWorld {
    fn drop(&mut self) {
        self.runtime.block_on(self.admin.delete_topic()).ok();
    }
}

pub struct MemoryWorld(MemoryLog);

fn clock_ms() -> i64 {
    i64::try_from(std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_millis()).expect("before year 292 million")
}

impl World for MemoryWorld {
    type Reader = MemoryConsumer;
    type Writer = MemoryProducer<fn() -> i64>;

    fn new(partitions: u32) -> Self {
        Self(MemoryLog::new("memory", partitions))
    }

    fn consumer(&self, membership: Membership) -> MemoryConsumer {
        self.0.consumer(membership)
    }

    fn writer(&self) -> Self::Writer {
        self.0.producer(clock_ms)
    }

    /// The twin's futures never wait.
    fn wait<T>(&self, future: impl Future<Output = T>) -> T {
        match pin!(future).poll(&mut Context::from_waker(TaskWaker::noop())) {
            Poll::Ready(value) => value,
            Poll::Pending => panic!("the twin waits"),
        }
    }

    fn transaction(&self, partition: Partition, records: &[&str], commit: bool) {
        for record in records {
            if commit {
                self.0.append(partition, clock_ms(), Some(record.as_bytes()));
            } else {
                self.0.append_hole(partition);
            }
        }
        self.0.append_hole(partition);
    }

    fn truncate_front(&self, partition: Partition, start: NextOffset) {
        self.0.truncate_front(partition, start);
    }

    fn expire(&self, member: &MemoryConsumer, heir: &mut super::Seen<MemoryConsumer>) {
        self.0.expire(&self.group(), member.member().expect("a member"));
        heir.until("the heir owns the partitions", |heir| !heir.assigned.is_empty());
    }

    fn group(&self) -> String {
        "group".to_owned()
    }
}
