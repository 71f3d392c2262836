//! The speed layer's snapshots, as a serving node sees them: their heads all the time, their cells when it is asked.

use crate::live::LiveError;
use parking_lot::RwLock;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tidemark_core::cell::{Cell, Tally};
use tidemark_core::cut::Cut;
use tidemark_core::generation::Rules;
use tidemark_core::offset::{NextOffset, Partition};
use tidemark_core::question::{Question, Rows, merge_rows};
use tidemark_core::view::ViewId;
use tidemark_core::window::{BucketError, TimeRange, WindowStart};
use tidemark_snapshot::{Error, Head, Store};
use tidemark_speed_layer::Snapshot;
use tidemark_speed_layer::run::PartitionStatus;
use tidemark_speed_layer::tide::Waterline;
use tidemark_topic::PartitionCount;
use tokio::sync::watch;

/// Between two looks at the heads.
const LOOK_EVERY: Duration = Duration::from_millis(25);

/// Before Redis is asked again after it did not answer.
const LOOK_AGAIN: Duration = Duration::from_millis(250);

/// What Redis has of all partitions. One for the process.
#[derive(Debug)]
pub struct Snapshots {
    store: Arc<Store>,
    rules: Arc<Rules>,
    partitions: PartitionCount,
    /// As of the last look, and held for no longer than it takes to look at them.
    seen: RwLock<Result<Arc<Vec<Option<Head>>>, String>>,
    changed: watch::Sender<u64>,
}

impl Snapshots {
    pub fn new(store: Arc<Store>, rules: Arc<Rules>, partitions: PartitionCount) -> Self {
        let seen = RwLock::new(Err("redis has not been asked yet".to_owned()));
        Self { store, rules, partitions, seen, changed: watch::Sender::new(0) }
    }

    /// Looks at the heads, again and again.
    pub async fn follow(self: Arc<Self>) {
        loop {
            let found = self.store.heads(self.partitions.get()).await;
            let pause = if found.is_ok() { LOOK_EVERY } else { LOOK_AGAIN };
            self.see(found);
            tokio::time::sleep(pause).await;
        }
    }

    fn see(&self, found: Result<Vec<Option<Head>>, Error>) {
        let now = found.map(Arc::new).map_err(|error| error.to_string());
        let before = {
            let mut seen = self.seen.write();
            if *seen == now {
                return;
            }
            std::mem::replace(&mut *seen, now.clone())
        };
        match (before, now) {
            (Ok(_), Err(error)) => tracing::warn!("answers come from history alone: {error}"),
            (Err(_), Ok(_)) => tracing::info!("snapshots of the open epochs can be read"),
            _ => {}
        }
        self.changed.send_modify(|n| *n = n.wrapping_add(1));
    }

    fn heads(&self) -> Result<Arc<Vec<Option<Head>>>, String> {
        self.seen.read().clone()
    }

    /// The partitions that have a snapshot.
    fn present<T>(&self, of: impl Fn(&Head) -> T) -> Vec<(Partition, T)> {
        let heads = self.heads().unwrap_or_default();
        (0..).map(Partition).zip(heads.iter()).filter_map(|(partition, head)| Some((partition, of(head.as_ref()?)))).collect()
    }

    pub(crate) fn positions(&self) -> Cut {
        self.present(|head| head.position).into_iter().collect()
    }

    pub(crate) fn ends(&self) -> Cut {
        self.present(|head| head.end.max(head.position)).into_iter().collect()
    }

    pub(crate) fn changes(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    pub(crate) fn is_still_at(&self, cut: &Cut, mark: &Cut, end: &Cut) -> bool {
        let heads = self.heads().unwrap_or_default();
        let still = |(partition, position): (Partition, NextOffset)| {
            let Some(Some(head)) = usize::try_from(partition.0).ok().and_then(|at| heads.get(at)) else { return false };
            let at = (head.position, head.mark.position(self.rules.epoch_bits), head.end.max(head.position));
            at == (position, mark.get(partition), end.get(partition))
        };
        heads.len() == cut.iter().len() && cut.iter().all(still)
    }

    pub(crate) fn status(&self) -> BTreeMap<Partition, PartitionStatus> {
        let status = |head: &Head| PartitionStatus {
            waterline: Waterline { mark: head.mark, position: head.position },
            end: head.end.max(head.position),
            taught: true,
            open_epochs: head.epochs.len(),
            tally: head.epochs.iter().fold(Tally::default(), |mut tally, epoch| {
                tally.merge(&epoch.tally);
                tally
            }),
            cells: usize::try_from(head.cells).unwrap_or(usize::MAX),
            counted_ms: head.counted_ms,
            caught_up_ms: None,
            event_ms: head.event_ms,
        };
        self.present(status).into_iter().collect()
    }

    pub(crate) fn trouble(&self) -> Option<String> {
        match self.heads() {
            Err(error) => Some(error),
            Ok(heads) => {
                let missing: Vec<String> =
                    (0..).zip(heads.iter()).filter(|(_, head)| head.is_none()).map(|(p, _): (u32, _)| p.to_string()).collect();
                (!missing.is_empty())
                    .then(|| format!("redis has no snapshot of partition {}: is a speed layer running?", missing.join(", ")))
            }
        }
    }

    /// Reads the cells of the question's range, each partition's at one instant.
    pub(crate) async fn snapshot(&self, view: ViewId, question: &Question) -> Result<Snapshot, LiveError> {
        // What is known to be missing is not asked for again by every query.
        if let Some(trouble) = self.trouble() {
            return Err(LiveError::Elsewhere(trouble));
        }
        let partitions = self.partitions.get();
        let read = (0..partitions).map(|partition| self.read(Partition(partition), view, question));
        let mut snapshot = Snapshot::default();
        for (partition, read) in (0..partitions).map(Partition).zip(futures_util::future::join_all(read).await) {
            let (head, rows) = read?;
            merge_rows(&mut snapshot.rows, rows);
            snapshot.waterlines.insert(partition, Waterline { mark: head.mark, position: head.position });
            snapshot.ends.set(partition, head.end.max(head.position));
        }
        Ok(snapshot)
    }

    async fn read(&self, partition: Partition, view: ViewId, question: &Question) -> Result<(Head, Rows), LiveError> {
        let dimensions = self.rules.views.get(view).dimensions();
        let place = |d| dimensions.iter().position(|own| *own == d).unwrap_or_default();
        let (mut rows, mut sum, mut outside) = (Rows::new(), Cell::EMPTY, None::<BucketError>);
        let mut visit = |window: WindowStart, values: &[&str], cell: &Cell| {
            sum.merge(cell);
            match question.row_of(window, |d| values[place(d)]) {
                Ok(Some(row)) => rows.entry(row).or_default().merge(cell),
                Ok(None) => {}
                Err(error) => outside = Some(error),
            }
        };
        let elsewhere = |error: Error| LiveError::Elsewhere(error.to_string());
        let head = self.store.read(partition, view, question.range, &mut visit).await.map_err(elsewhere)?;
        if let Some(error) = outside {
            return Err(error.into());
        }
        let head = head.ok_or_else(|| LiveError::Elsewhere(format!("redis has no snapshot of partition {partition}")))?;
        let counted = |head: &Head| head.epochs.iter().fold((0, 0u64), |(n, fold), e| (n + e.tally.events, fold.wrapping_add(e.fold)));
        if question.range == TimeRange::default() && (sum.count, sum.fold) != counted(&head) {
            return Err(LiveError::Elsewhere(format!(
                "the snapshot of partition {partition} is torn: its cells are not those of its events"
            )));
        }
        Ok((head, rows))
    }
}
