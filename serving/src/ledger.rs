//! What status says of closed epochs, and of those that are being repaired.
//!
//! Closed epochs never change. So what became of their records is kept by the mark, and when that has moved, the ledger is
//! asked for what has been closed since; it is not asked at every look.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidemark_core::cell::Tally;
use tidemark_core::epoch::{Epoch, Mark};
use tidemark_core::generation::Rules;
use tidemark_core::offset::{NextOffset, Partition};
use tidemark_history::{Error, History, Marks, Tallies};
use tidemark_speed_layer::run::PartitionStatus;

/// How long history may take: a status that waits is none.
const PATIENCE: Duration = Duration::from_secs(1);

/// How long what has been heard of repairs stands, and that history did not answer.
const STANDS: Duration = Duration::from_secs(2);

/// Open epochs that are being repaired.
pub(crate) type Repairs = Vec<(Partition, Epoch)>;

/// What became of the records of a partition from where counting began up to S. Invariant I3: they add up to the span.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Account {
    pub(crate) from: NextOffset,
    pub(crate) to: NextOffset,
    pub(crate) tally: Tally,
}

/// What has been heard of the ledger. Each lock guards what was heard last, and is not held while it is asked.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    closed: Mutex<Arc<Closed>>,
    repairing: Mutex<Option<(Instant, Result<Repairs, String>)>>,
    /// When history did not answer, and its words.
    refused: Mutex<Option<(Instant, String)>>,
}

/// What the epochs below these marks come to.
#[derive(Debug, Default)]
struct Closed {
    /// History's.
    revision: u64,
    marks: Marks,
    tallies: Tallies,
}

impl Closed {
    /// With what has been closed since.
    fn and(&self, since: Tallies, marks: Marks, revision: u64) -> Self {
        let mut closed = self.tallies.closed.clone();
        for (partition, tally) in &since.closed {
            closed.entry(*partition).or_default().merge(tally);
        }
        Self { revision, marks, tallies: Tallies { begun: since.begun, closed } }
    }

    fn account(&self, rules: &Rules, partition: Partition, at: &PartitionStatus) -> Account {
        let open_from = at.waterline.mark.position(rules.epoch_bits);
        // Holes are offsets that no record stands at: of open epochs, what is left of the span.
        let mut tally = at.tally;
        tally.holes = at.waterline.position.since(open_from).saturating_sub(tally.span());
        tally.merge(&self.tallies.closed.get(&partition).copied().unwrap_or_default());
        let begun = self.tallies.begun.get(&partition).copied().unwrap_or(Mark::START);
        Account { from: begun.position(rules.epoch_bits), to: at.waterline.position, tally }
    }
}

impl Ledger {
    /// Accounts for all records of these partitions, at the cut that they stand at.
    pub(crate) async fn accounts(
        &self,
        history: &dyn History,
        rules: &Rules,
        status: &BTreeMap<Partition, PartitionStatus>,
    ) -> Result<BTreeMap<Partition, Account>, String> {
        let marks: Marks = status.iter().map(|(&partition, at)| (partition, at.waterline.mark)).collect();
        let closed = self.closed(history, marks).await?;
        Ok(status.iter().map(|(&partition, at)| (partition, closed.account(rules, partition, at))).collect())
    }

    async fn closed(&self, history: &dyn History, marks: Marks) -> Result<Arc<Closed>, String> {
        let (known, revision) = (Arc::clone(&self.closed.lock()), history.revision());
        if known.marks == marks && known.revision == revision {
            return Ok(known);
        }
        if let Some((_, why)) = self.refused.lock().as_ref().filter(|(at, _)| at.elapsed() < STANDS) {
            return Err(why.clone());
        }
        // Redis may tell of a mark that is behind: what is above it is not taken away, but counted anew.
        let is_below = |(partition, mark): (&Partition, &Mark)| marks.get(partition).is_some_and(|now| mark <= now);
        let known = if known.revision == revision && known.marks.iter().all(is_below) { known } else { Arc::default() };
        match within(history.tallies(&known.marks, &marks)).await {
            Ok(since) => {
                let closed = Arc::new(known.and(since, marks, revision));
                *self.closed.lock() = Arc::clone(&closed);
                Ok(closed)
            }
            Err(why) => {
                *self.refused.lock() = Some((Instant::now(), why.clone()));
                Err(why)
            }
        }
    }

    /// Epochs that are being repaired.
    pub(crate) async fn repairing(&self, history: &dyn History) -> Result<Repairs, String> {
        if let Some((_, heard)) = self.repairing.lock().as_ref().filter(|(at, _)| at.elapsed() < STANDS) {
            return heard.clone();
        }
        let heard = within(history.repairing()).await;
        *self.repairing.lock() = Some((Instant::now(), heard.clone()));
        heard
    }
}

async fn within<T>(asking: impl Future<Output = Result<T, Error>>) -> Result<T, String> {
    match tokio::time::timeout(PATIENCE, asking).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("history has not answered within {} s", PATIENCE.as_secs())),
    }
}
