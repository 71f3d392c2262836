//! Blocks on their way into history, each in a task of its own, so that the log is read meanwhile. The consumer belongs
//! to the loop's thread; what a task wants of it, it asks for here.

use crate::commit::{Desk, Fenced, Intent, commit_block};
use crate::metrics::Meters;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::{Duration, Instant};
use tidemark_core::generation::Generation;
use tidemark_core::offset::{NextOffset, Partition};
use tidemark_history::History;
use tidemark_history::block::Block;
use tidemark_topic::{Committed, Control, Error, Waker};
use tokio::sync::oneshot;
use tokio::task::JoinError;

/// Pauses between failures: from this, doubled with each, up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(5);

/// What a task tells the loop.
#[derive(Debug)]
pub enum Message {
    Commit { partition: Partition, committed: Committed, answer: oneshot::Sender<Result<(), Error>> },
    Ended { partition: Partition, outcome: Result<Result<(), Fenced>, JoinError> },
}

/// The blocks under way: at most one of each partition, for a partition's blocks follow one another.
#[derive(Debug)]
pub struct InFlight {
    /// True once the task should give up rather than try again.
    leaving: BTreeMap<Partition, Arc<AtomicBool>>,
    inbox: Receiver<Message>,
    to_loop: Sender<Message>,
    waker: Waker,
    control: Control,
    meters: Meters,
    silence: Silence,
}

/// Since when history has not answered, of all that it has been asked. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Silence(Arc<Mutex<Option<Instant>>>);

impl Silence {
    /// Takes in why a question failed: a refusal is an answer, too.
    pub fn failed(&self, error: &tidemark_history::Error) {
        match error {
            tidemark_history::Error::Unavailable { .. } => drop(self.0.lock().get_or_insert_with(Instant::now)),
            _ => self.answered(),
        }
    }

    pub fn answered(&self) {
        *self.0.lock() = None;
    }

    pub fn lasts(&self) -> Duration {
        self.0.lock().map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl InFlight {
    pub fn new(waker: Waker, control: Control, meters: Meters, silence: Silence) -> Self {
        let (to_loop, inbox) = channel();
        Self { leaving: BTreeMap::new(), inbox, to_loop, waker, control, meters, silence }
    }

    pub fn len(&self) -> usize {
        self.leaving.len()
    }

    pub fn contains(&self, partition: Partition) -> bool {
        self.leaving.contains_key(&partition)
    }

    /// Sends a block on its way; its partition must have none.
    pub fn launch(
        &mut self,
        runtime: &tokio::runtime::Handle,
        history: &Arc<dyn History>,
        generation: Generation,
        block: Block,
        found: Option<Intent>,
        doubtful_below: NextOffset,
    ) {
        let partition = block.partition;
        let leaving = Arc::new(AtomicBool::new(false));
        self.leaving.insert(partition, Arc::clone(&leaving));
        let (to_loop, waker) = (self.to_loop.clone(), self.waker.clone());
        let mut desk = LoopDesk {
            to_loop: to_loop.clone(),
            waker: waker.clone(),
            control: self.control.clone(),
            leaving,
            meters: self.meters.clone(),
            silence: self.silence.clone(),
        };
        let (history, meters, began) = (Arc::clone(history), self.meters.clone(), Instant::now());
        let writing = runtime.spawn(async move {
            commit_block(&mut desk, &*history, generation, &block, found, doubtful_below).await?;
            desk.silence.answered();
            meters.rows.observe(block.rows() as f64);
            meters.writing.observe(began.elapsed().as_secs_f64());
            Ok(())
        });
        runtime.spawn(async move {
            let outcome = writing.await;
            // Nobody listens once the loop has ended.
            let _ = to_loop.send(Message::Ended { partition, outcome });
            waker.wake();
        });
    }

    /// Asks the tasks of these partitions to end: soon, as they wait for no more than one answer.
    pub fn leave(&self, partitions: &[Partition]) {
        for leaving in partitions.iter().filter_map(|partition| self.leaving.get(partition)) {
            leaving.store(true, Ordering::Release);
        }
    }

    /// What has come in, without waiting.
    pub fn arrived(&mut self) -> Option<Message> {
        self.inbox.try_recv().ok().inspect(|message| self.note(message))
    }

    /// Waits for the next message.
    pub fn next(&mut self) -> Message {
        let message = self.inbox.recv().expect("a sender is kept here");
        self.note(&message);
        message
    }

    /// The same for so long.
    pub fn next_within(&mut self, wait: Duration) -> Option<Message> {
        self.inbox.recv_timeout(wait).ok().inspect(|message| self.note(message))
    }

    fn note(&mut self, message: &Message) {
        if let Message::Ended { partition, .. } = message {
            self.leaving.remove(partition);
        }
    }
}

/// The commit protocol's outside: the consumer group by way of the loop, and the people who watch.
struct LoopDesk {
    to_loop: Sender<Message>,
    waker: Waker,
    control: Control,
    leaving: Arc<AtomicBool>,
    meters: Meters,
    silence: Silence,
}

impl LoopDesk {
    /// Says what holds history up, and waits before another try.
    async fn pause(&self, failures: u32, trouble: &impl std::fmt::Display) -> Result<(), Fenced> {
        self.control.trouble(Some(format!("history stands still: {trouble}")));
        tokio::time::sleep(FIRST_PAUSE.saturating_mul(1 << failures.min(10)).min(MAX_PAUSE)).await;
        if self.control.is_stopping() || self.leaving.load(Ordering::Acquire) {
            Err(Fenced("leaving with a block under way; its next owner finishes it".into()))
        } else {
            Ok(())
        }
    }
}

impl Desk for LoopDesk {
    async fn commit(&mut self, partition: Partition, committed: &Committed) -> Result<(), Fenced> {
        let gone = || Fenced("the batch layer has ended".into());
        let mut failures = 0;
        loop {
            let (answer, answered) = oneshot::channel();
            self.to_loop.send(Message::Commit { partition, committed: committed.clone(), answer }).map_err(|_| gone())?;
            self.waker.wake();
            match answered.await.map_err(|_| gone())? {
                Ok(()) => return Ok(()),
                Err(error @ Error::Fenced { .. }) => return Err(Fenced(error.to_string())),
                Err(error) => {
                    failures += 1;
                    self.pause(failures, &error).await?;
                }
            }
        }
    }

    async fn failed(&mut self, failures: u32, error: &tidemark_history::Error) -> Result<(), Fenced> {
        self.meters.errors.inc();
        self.silence.failed(error);
        self.pause(failures, error).await
    }
}
