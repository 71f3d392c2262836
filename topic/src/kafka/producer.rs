//! Writes to the topic: idempotent, acknowledged by all in-sync replicas, one completion a batch.

use super::{Journal, Kafka, is_transient, native, number};
use crate::{Error, Offset, Outgoing, Partition, Position, Producer, SendError};
use parking_lot::Mutex;
use rdkafka::config::FromClientConfigAndContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _};
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _, ProducerContext};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// How long the producer's thread waits in one call; also how late it sees that it is to stop.
const POLL: Duration = Duration::from_millis(50);
/// What a record costs in librdkafka's queue besides its bytes.
const RECORD_OVERHEAD: usize = 160;
/// Between two attempts to hand over a record that librdkafka's queue has no room for, which the budget below is there
/// to prevent.
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
    client: Arc<BaseProducer<Journal>>,
    /// Kbytes that may still be handed to the client.
    budget: Arc<Semaphore>,
    budget_kbytes: u32,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
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
        let fixed = [("acks", "all"), ("enable.idempotence", "true"), ("partitioner", "murmur2_random")];
        let config = kafka.config(&defaults, &fixed)?;
        let client = BaseProducer::from_config_and_context(&config, Journal::default())
            .map_err(|error| refused(format!("making a producer: {error}")))?;
        let (client, stop) = (Arc::new(client), Arc::new(AtomicBool::new(false)));
        let thread = std::thread::Builder::new().name("kafka-producer".to_owned()).spawn({
            let (client, stop) = (Arc::clone(&client), Arc::clone(&stop));
            move || {
                while !stop.load(Ordering::Relaxed) {
                    client.poll(POLL);
                }
            }
        });
        let thread = thread.map_err(|error| refused(format!("starting the producer's thread: {error}")))?;
        let budget_kbytes = options.buffer_kbytes.max(1);
        let budget = Arc::new(Semaphore::new(usize::try_from(budget_kbytes).unwrap_or(Semaphore::MAX_PERMITS)));
        Ok(Self { kafka: kafka.clone(), client, budget, budget_kbytes, stop, thread: Some(thread) })
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
            if let Err(error) = self.client.flush(patience) {
                tracing::warn!(target: "kafka", records = self.client.in_flight_count(), "records unacknowledged at the end: {error}");
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

    /// Hands one record to the client; waits if it has no room.
    async fn hand_over(&self, batch: &Arc<Batch>, index: usize, record: &Outgoing<'_>) {
        let mut attempt = BaseRecord::with_opaque_to(&self.kafka.topic, Box::new(Slot { batch: Arc::clone(batch), index }));
        attempt.key = record.key;
        attempt.payload = record.payload;
        attempt.partition = record.partition.map(number);
        while let Err((error, back)) = self.client.send(attempt) {
            if error.rdkafka_error_code() != Some(RDKafkaErrorCode::QueueFull) {
                batch.complete(index, Err(refusal(&error)));
                return;
            }
            attempt = back;
            tokio::time::sleep(QUEUE_FULL_PAUSE).await;
        }
    }
}

impl Producer for KafkaProducer {
    async fn send_batch(&self, records: &[Outgoing<'_>]) -> Vec<Result<Position, SendError>> {
        if records.is_empty() {
            return Vec::new();
        }
        let closed = || SendError::Unavailable { reason: "the producer is closed".to_owned() };
        let Some(room) = self.room_for(records).await else {
            return vec![Err(closed()); records.len()];
        };
        let (batch, answered) = Batch::new(records.len(), room);
        for (index, record) in records.iter().enumerate() {
            self.hand_over(&batch, index, record).await;
        }
        drop(batch);
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

/// Why the client would not even take a record: it is certainly not written.
fn refusal(error: &KafkaError) -> SendError {
    let reason = error.to_string();
    match error.rdkafka_error_code() {
        Some(code) if is_transient(code) => SendError::Unavailable { reason },
        _ => SendError::Refused { reason },
    }
}

/// `None` until the answer is in.
type Answers = Vec<Option<Result<Position, SendError>>>;

/// The answers of one batch, as they come in.
#[derive(Debug)]
struct Batch {
    /// Guards the answers; held for one assignment at a time, by the producer's thread and by nobody else, but for
    /// records that the client refuses at once.
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    answers: Answers,
    missing: usize,
    /// Taken when the last answer is in.
    done: Option<(oneshot::Sender<Answers>, OwnedSemaphorePermit)>,
}

impl Batch {
    fn new(records: usize, room: OwnedSemaphorePermit) -> (Arc<Self>, oneshot::Receiver<Answers>) {
        let (sender, answered) = oneshot::channel();
        let state = State { answers: vec![None; records], missing: records, done: Some((sender, room)) };
        (Arc::new(Self { state: Mutex::new(state) }), answered)
    }

    fn complete(&self, index: usize, answer: Result<Position, SendError>) {
        let mut state = self.state.lock();
        state.answers[index] = Some(answer);
        state.missing -= 1;
        if state.missing == 0
            && let Some((sender, _room)) = state.done.take()
        {
            // Nobody is waiting if the sender's future was dropped.
            sender.send(std::mem::take(&mut state.answers)).ok();
        }
    }
}

/// Where a record's answer goes.
#[derive(Debug)]
pub(super) struct Slot {
    batch: Arc<Batch>,
    index: usize,
}

impl ProducerContext for Journal {
    type DeliveryOpaque = Box<Slot>;

    fn delivery(&self, delivered: &DeliveryResult<'_>, slot: Box<Slot>) {
        let answer = match delivered {
            Ok(message) => {
                self.reached();
                position(message.partition(), message.offset())
            }
            Err((error, message)) => {
                let reason = error.to_string();
                Err(match error.rdkafka_error_code() {
                    _ if !native::certainly_not_written(message) => SendError::Unknown { reason },
                    Some(code) if is_transient(code) => SendError::Unavailable { reason },
                    _ => SendError::Refused { reason },
                })
            }
        };
        slot.batch.complete(slot.index, answer);
    }
}

/// What the broker acknowledged. It gives no offset for a record that an idempotent producer had already sent
/// before its sequence left the broker's memory: written, but not known where.
fn position(partition: i32, offset: i64) -> Result<Position, SendError> {
    match (u32::try_from(partition), u64::try_from(offset)) {
        (Ok(partition), Ok(offset)) => Ok(Position { partition: Partition(partition), offset: Offset::new(offset) }),
        _ => Err(SendError::Unknown { reason: format!("acknowledged at partition {partition} without an offset") }),
    }
}
