//! Writes to the topic: idempotent, acknowledged by all in-sync replicas, one completion a batch.

use super::answers::{Answer, Waiting};
use super::native::{Report, Reports, Undelivered, Writing};
use super::{Journal, Kafka, PARTITIONER, is_transient};
use crate::{Error, Offset, Outgoing, Partition, Position, Producer, SendError, Throttled};
use parking_lot::Mutex;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// How long the producer's thread waits in one call; also how late it sees that it is to stop.
const POLL: Duration = Duration::from_millis(50);
/// What a record costs in librdkafka's queue besides its bytes.
const RECORD_OVERHEAD: usize = 160;
/// Between two attempts to hand over records that librdkafka's queue has no room for. The budget below prevents that,
/// unless a batch alone is larger than the queue.
const QUEUE_FULL_PAUSE: Duration = Duration::from_millis(2);
/// How long records that are under way when the producer is dropped may take.
const DROP_DEADLINE: Duration = Duration::from_secs(5);

/// How a producer sends.
#[derive(Clone, Debug)]
pub struct ProducerOptions {
    /// How long a record may wait for company. Larger batches compress better.
    pub linger: Duration,
    /// After this a record without acknowledgement fails.
    pub message_timeout: Duration,
    /// `lz4`, `zstd`, `gzip`, `snappy` or `none`.
    pub compression: String,
    /// Bytes that wait for an acknowledgement, some 9,000 records of 180 bytes by default. At the limit `send_batch`
    /// waits. More in flight cost more CPU a record, not less (`examples/measure.rs`: 64 MB against 3 MB, 32 tasks);
    /// raise it for brokers that are far away.
    pub buffer_kbytes: u32,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(2),
            message_timeout: Duration::from_secs(30),
            compression: "lz4".to_owned(),
            buffer_kbytes: 3 * 1024,
        }
    }
}

/// Writes to a topic of a Kafka cluster. Shared by reference; dropping it waits, within a deadline, for what is under way.
pub struct KafkaProducer {
    kafka: Kafka,
    desk: Arc<Desk>,
    /// Kbytes that may still be handed to the client.
    budget: Arc<Semaphore>,
    budget_kbytes: u32,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

/// What the producer's thread and those who send have in common.
struct Desk {
    writing: Writing<Journal>,
    /// Guards who waits for which answer: held while a batch begins, and while the answers of one report are given out.
    waiting: Mutex<Waiting>,
}

impl std::fmt::Debug for KafkaProducer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KafkaProducer")
            .field("kafka", &self.kafka)
            .field("free_kbytes", &self.budget.available_permits())
            .finish_non_exhaustive()
    }
}

impl KafkaProducer {
    pub(super) fn new(kafka: &Kafka, options: ProducerOptions) -> Result<Self, Error> {
        let refused = |reason: String| Error::Refused { reason };
        let (linger_ms, timeout_ms) = (options.linger.as_millis().to_string(), options.message_timeout.as_millis().to_string());
        // The budget is counted in whole kbytes a batch, so the client's own limits are never met first.
        let client_kbytes = options.buffer_kbytes.saturating_mul(2).to_string();
        let defaults = [
            ("linger.ms", linger_ms.as_str()),
            ("message.timeout.ms", &timeout_ms),
            ("compression.codec", &options.compression),
            ("queue.buffering.max.kbytes", &client_kbytes),
            ("queue.buffering.max.messages", "0"),
        ];
        let fixed = [("acks", "all"), ("enable.idempotence", "true"), PARTITIONER];
        let config = kafka.config(&defaults, &fixed)?;
        let writing =
            Writing::new(&config, &kafka.topic, Journal::of(kafka)).map_err(|error| refused(format!("making a producer: {error}")))?;
        let desk = Arc::new(Desk { writing, waiting: Mutex::default() });
        let stop = Arc::new(AtomicBool::new(false));
        let thread = std::thread::Builder::new().name("kafka-producer".to_owned()).spawn({
            let (desk, stop) = (Arc::clone(&desk), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    desk.poll(POLL);
                }
            }
        });
        let thread = thread.map_err(|error| refused(format!("starting the producer's thread: {error}")))?;
        let budget_kbytes = options.buffer_kbytes.max(1);
        let budget = Arc::new(Semaphore::new(usize::try_from(budget_kbytes).unwrap_or(Semaphore::MAX_PERMITS)));
        Ok(Self { kafka: kafka.clone(), desk, budget, budget_kbytes, stop, thread: Some(thread) })
    }

    /// Waits until everything under way has been acknowledged or has failed; false if the deadline came first.
    pub async fn flush(&self, patience: Duration) -> bool {
        let whole = self.budget.acquire_many(self.budget_kbytes);
        matches!(tokio::time::timeout(patience, whole).await, Ok(Ok(_)))
    }

    /// Stops the thread and gives what is under way a last chance. Blocks.
    fn stop(&mut self, patience: Duration) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            if thread.join().is_err() {
                tracing::error!(target: "kafka", "the producer's thread panicked");
            }
            let deadline = Instant::now() + patience;
            while !self.desk.writing.hurry() {
                if Instant::now() >= deadline {
                    tracing::warn!(target: "kafka", records = self.desk.writing.in_flight(), "records unacknowledged at the end");
                    break;
                }
                self.desk.poll(POLL);
            }
        }
    }

    /// Takes room for a batch out of the budget. A batch larger than the whole budget goes alone.
    async fn room_for(&self, records: &[Outgoing<'_>]) -> Option<OwnedSemaphorePermit> {
        let bytes: usize =
            records.iter().map(|record| RECORD_OVERHEAD + record.key.map_or(0, <[u8]>::len) + record.payload.map_or(0, <[u8]>::len)).sum();
        let kbytes = u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX).min(self.budget_kbytes);
        Arc::clone(&self.budget).acquire_many_owned(kbytes).await.ok()
    }
}

impl Producer for KafkaProducer {
    fn throttled(&self) -> Throttled {
        self.kafka.throttled()
    }

    async fn send_batch(&self, records: &[Outgoing<'_>]) -> Vec<Result<Position, SendError>> {
        if records.is_empty() {
            return Vec::new();
        }
        let closed = || SendError::Unavailable { reason: "the producer is closed".to_owned() };
        let Some(room) = self.room_for(records).await else {
            return vec![Err(closed()); records.len()];
        };
        let (tickets, answered) = self.desk.waiting.lock().begin(records.len(), room);
        self.desk.hand_over(records, tickets).await;
        let lost = || SendError::Unknown { reason: "the producer stopped before the acknowledgement".to_owned() };
        let answers = answered.await.unwrap_or_else(|_| vec![None; records.len()]);
        answers.into_iter().map(|answer| answer.unwrap_or_else(|| Err(lost()))).collect()
    }
}

impl Drop for KafkaProducer {
    fn drop(&mut self) {
        self.stop(DROP_DEADLINE);
    }
}

impl Desk {
    /// Hands a batch to the client; waits while that has no room.
    async fn hand_over(&self, records: &[Outgoing<'_>], tickets: Range<usize>) {
        let mut handing = Handing { desk: self, tickets };
        let together = |one: &Outgoing<'_>, next: &Outgoing<'_>| {
            one.partition == next.partition && one.traceparent.is_none() && next.traceparent.is_none()
        };
        for mut rest in records.chunk_by(together) {
            loop {
                rest = &rest[handing.hand_over(rest)..];
                if rest.is_empty() {
                    break;
                }
                tokio::time::sleep(QUEUE_FULL_PAUSE).await;
            }
        }
    }

    /// Gives out the next answers, if some come within `patience`.
    fn poll(&self, patience: Duration) {
        if let Some(reports) = self.writing.poll(patience) {
            self.give_out(reports);
        }
    }

    fn give_out(&self, reports: Reports) {
        let mut waiting = self.waiting.lock();
        for Report { ticket, written } in reports {
            let answer = match written {
                Ok((partition, offset)) => {
                    self.writing.context().reached();
                    position(partition, offset)
                }
                Err(failed) => Err(undelivered(&failed)),
            };
            waiting.answer(ticket, answer);
        }
    }
}

/// A batch on its way to the client.
struct Handing<'a> {
    desk: &'a Desk,
    /// Of the records that are still to be handed over.
    tickets: Range<usize>,
}

impl Handing<'_> {
    /// Hands over the next records, all for one partition or all for any, and says how many were dealt with.
    fn hand_over(&mut self, records: &[Outgoing<'_>]) -> usize {
        let mut refused: Vec<(usize, Answer)> = Vec::new();
        let partition = records.first().and_then(|record| record.partition);
        let done = self.desk.writing.hand_over(partition, records, self.tickets.start, |ticket, code| {
            refused.push((ticket, Err(refusal(code))));
        });
        self.tickets.start += done;
        if !refused.is_empty() {
            let mut waiting = self.desk.waiting.lock();
            for (ticket, answer) in refused {
                waiting.answer(ticket, answer);
            }
        }
        done
    }
}

impl Drop for Handing<'_> {
    /// The sender may have gone midway: what it has not handed over is answered by nobody.
    fn drop(&mut self) {
        if !self.tickets.is_empty() {
            self.desk.waiting.lock().abandon(self.tickets.clone());
        }
    }
}

/// Why the client would not even take a record: it is certainly not written.
fn refusal(code: RDKafkaErrorCode) -> SendError {
    let reason = KafkaError::MessageProduction(code).to_string();
    if is_transient(code) { SendError::Unavailable { reason } } else { SendError::Refused { reason } }
}

fn undelivered(failed: &Undelivered) -> SendError {
    if failed.certainly {
        refusal(failed.code)
    } else {
        SendError::Unknown { reason: KafkaError::MessageProduction(failed.code).to_string() }
    }
}

/// What the broker acknowledged. It gives no offset for a record that an idempotent producer had already sent
/// before its sequence left the broker's memory: written, but not known where.
fn position(partition: i32, offset: i64) -> Answer {
    match (u32::try_from(partition), u64::try_from(offset)) {
        (Ok(partition), Ok(offset)) => Ok(Position { partition: Partition(partition), offset: Offset::new(offset) }),
        _ => Err(SendError::Unknown { reason: format!("acknowledged at partition {partition} without an offset") }),
    }
}
