//! The history engine as the layers meet it: the twin in memory, with answers that get lost, statements that go on when
//! nobody waits for them any more, and deadlines after which they do not.

use crate::executor::{Task, at_once, pause};
use crate::ground::{Ground, lock};
use async_trait::async_trait;
use std::collections::BTreeMap;
use std::future::{Future, poll_fn};
use std::ops::Range;
use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::Poll;
use tidemark_core::cut::Cut;
use tidemark_core::epoch::Epoch;
use tidemark_core::offset::{OffsetRange, Partition};
use tidemark_core::question::{Groups, Question, Rows};
use tidemark_core::view::ViewId;
use tidemark_core::window::TimeRange;
use tidemark_history::audit::{Change, Damage, Entry as Record, EpochSums, Part};
use tidemark_history::evidence::{Counted, Origin, Page, Placed, Places, Uncounted};
use tidemark_history::ledger::{CLOSE_WITHIN_MS, Entry, LedgerRow};
use tidemark_history::memory::MemoryHistory;
use tidemark_history::raw::Epochs;
use tidemark_history::rows::{Found, RawRecord, RowBlock};
use tidemark_history::{Contents, DeadLetter, DeadLetterQuery, Digest, EpochCells, Error, History, Marks, Tallies, VisitCell, Wiped};

/// How long after it was sent an insert may end (`clickhouse::INSERT_ENDS_WITHIN`).
const INSERT_MS: i64 = 25_000;

/// After that, who answers has heard of damage, and has answered what was asked before (`audit::HEARD_FOR` and half a minute).
const HEARD_BY_ALL_MS: i64 = 33_000;

/// The chance that an insert is on its way for as long as it may be.
const LATE_PER_MILLE: usize = 30;

/// In each poll of a call that waits, the chance that the caller hears no more of it.
const UNHEARD_PER_MILLE: usize = 4;

#[derive(Debug, Default)]
struct Running {
    /// Of the twin, in its order.
    inserts: Vec<Insert>,
    wipes: BTreeMap<u64, Wipe>,
    /// Of wipes that are over.
    outcomes: BTreeMap<u64, Result<(), Error>>,
    next_wipe: u64,
    /// When each repair's announcement was written, by its deadline.
    announced: BTreeMap<(Partition, Epoch, i64), i64>,
}

#[derive(Clone, Copy, Debug)]
struct Insert {
    sent_ms: i64,
    /// It arrives at the last moment.
    is_late: bool,
}

#[derive(Debug)]
struct Wipe {
    until_ms: i64,
    task: Task<Result<(), Error>>,
}

/// Clones share it.
#[derive(Clone, Debug)]
pub struct Engine {
    pub twin: MemoryHistory,
    ground: Ground,
    running: Arc<Mutex<Running>>,
}

fn unheard() -> Error {
    Error::Unavailable { url: "simulated".into(), reason: "no answer".into() }
}

impl Engine {
    pub fn new(ground: Ground) -> Self {
        Self { twin: MemoryHistory::stepped(Arc::clone(&ground.rules)), ground, running: Arc::default() }
    }

    /// Takes something that is running one step further.
    pub fn step(&self) {
        let (inserts, wipes) = (self.twin.inserts(), lock(&self.running).wipes.len());
        if inserts + wipes == 0 {
            return;
        }
        match self.ground.below(inserts + wipes).checked_sub(inserts) {
            Some(nth) => self.step_wipe(nth),
            None => self.step_insert(self.ground.below(inserts)),
        }
    }

    fn step_insert(&self, at: usize) {
        self.notice();
        if lock(&self.running).inserts[at].is_late {
            return;
        }
        let before = self.twin.inserts();
        let lose = self.ground.fault(30);
        self.twin.step(at, lose);
        if self.twin.inserts() < before {
            lock(&self.running).inserts.remove(at);
            self.ground.count(|totals| totals.lost_answers += u64::from(lose));
            self.ground.say(format_args!("engine: insert {at} of {before} is done{}", if lose { ", and its answer lost" } else { "" }));
        } else {
            self.ground.say(format_args!("engine: insert {at} of {before} one step further"));
        }
    }

    fn step_wipe(&self, nth: usize) {
        let running = &mut *lock(&self.running);
        let Some((&id, wipe)) = running.wipes.iter_mut().nth(nth) else { return };
        let outcome = wipe.task.step();
        self.ground.say(format_args!("engine: wipe #{id} {}", if outcome.is_some() { "is done" } else { "one step further" }));
        if let Some(outcome) = outcome {
            running.wipes.remove(&id);
            running.outcomes.insert(id, outcome);
        }
    }

    pub fn kill(&self) {
        self.ground.say(format_args!("engine: killed with {} inserts and {} wipes", self.twin.inserts(), lock(&self.running).wipes.len()));
        self.ground.count(|totals| totals.kills += 1);
        self.twin.kill();
        let running = &mut *lock(&self.running);
        running.inserts.clear();
        for (id, _) in std::mem::take(&mut running.wipes) {
            running.outcomes.insert(id, Err(unheard()));
        }
    }

    /// Notes when the inserts that have begun since the last look began.
    pub fn notice(&self) {
        let insert = |_| Insert { sent_ms: self.ground.now_ms(), is_late: self.ground.fault(LATE_PER_MILLE) };
        let running = &mut *lock(&self.running);
        let known = running.inserts.len();
        running.inserts.extend((known..self.twin.inserts()).map(insert));
    }

    /// Lets time pass. No statement outlives its deadline: it ends before, or is cancelled.
    pub fn advance(&self, ms: i64) {
        let then = self.ground.now_ms() + ms;
        loop {
            let late = lock(&self.running).inserts.iter().position(|insert| insert.sent_ms + INSERT_MS <= then);
            let Some(at) = late else { break };
            lock(&self.running).inserts[at].is_late = false;
            self.step_insert(at);
        }
        let running = &mut *lock(&self.running);
        let late: Vec<u64> = running.wipes.iter().filter(|(_, wipe)| wipe.until_ms <= then).map(|(id, _)| *id).collect();
        for id in late {
            self.ground.say(format_args!("engine: wipe #{id} is out of time"));
            running.wipes.remove(&id);
            running.outcomes.insert(id, Err(unheard()));
        }
        self.ground.advance(ms);
        self.ground.say(format_args!("clock +{ms} ms"));
    }

    /// A call whose answer may never come, whatever becomes of the call itself.
    async fn heard<T>(&self, what: &str, call: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let mut call = pin!(call);
        let mut sent = false;
        poll_fn(|context| {
            // The twin's calls begin with a turn of their own; here a call is sent when it is made.
            if !std::mem::replace(&mut sent, true)
                && let Poll::Ready(answer) = call.as_mut().poll(context)
            {
                return Poll::Ready(answer);
            }
            if self.ground.fault(UNHEARD_PER_MILLE) {
                self.ground.say(format_args!("engine: nobody hears the answer to {what}"));
                self.ground.count(|totals| totals.lost_answers += 1);
                return Poll::Ready(Err(unheard()));
            }
            call.as_mut().poll(context)
        })
        .await
    }
}

/// What the ledger forbids: touching a closed epoch, and closing one that is being repaired.
impl Engine {
    fn entries(&self, partition: Partition, epoch: Epoch) -> Vec<Entry> {
        let rows = at_once(self.twin.ledger(partition, epoch)).expect("the twin has a ledger");
        rows.iter().map(|row| row.entry).collect()
    }

    fn check_may_close(&self, row: &LedgerRow) {
        let now_ms = self.ground.now_ms();
        let entries = self.entries(row.partition, row.epoch);
        // A closer that looked before the announcement may still write its row; the repairer waits for that.
        let announced =
            |deadline_ms| lock(&self.running).announced.get(&(row.partition, row.epoch, deadline_ms)).copied().unwrap_or(now_ms);
        let binds = |deadline_ms: i64| deadline_ms > now_ms && announced(deadline_ms) + CLOSE_WITHIN_MS <= now_ms;
        let repairing = entries.iter().any(|entry| matches!(entry, Entry::Repair { deadline_ms } if binds(*deadline_ms)));
        let again = entries.contains(&Entry::Closed);
        assert!(
            row.entry != Entry::Closed || !repairing || again,
            "{} epoch {} is closed while it is being repaired",
            row.partition,
            row.epoch
        );
    }

    fn check_may_wipe(&self, partition: Partition, epoch: Epoch, what: Wiped) {
        let damage = at_once(self.twin.damage()).expect("the twin tells of damage");
        let is_closed = self.entries(partition, epoch).contains(&Entry::Closed);
        // All that is known and not repaired; raw rows answer until they are known to be damaged too.
        let of_epoch = || damage.changes.iter().filter(|change| (change.partition, change.epoch) == (partition, epoch));
        let covered_ms = of_epoch().map(|change| change.covers_ms).max().unwrap_or_default();
        let is_known = of_epoch().filter(|change| change.at_ms > covered_ms).any(|change| match &change.entry {
            Record::Damaged(finding) => {
                (what != Wiped::Everything || finding.part == Part::Raw) && change.at_ms + HEARD_BY_ALL_MS <= self.ground.now_ms()
            }
            Record::Repaired(_) | Record::LossAccepted(_) => false,
        });
        assert!(!is_closed || is_known, "{partition} epoch {epoch} is wiped, but it is closed, and not everybody knows of damage");
    }
}

#[async_trait]
impl History for Engine {
    async fn insert(&self, block: &RowBlock, token: &str) -> Result<(), Error> {
        self.ground.say(format_args!("insert into {:?} under {token}", block.table));
        self.heard(token, self.twin.insert(block, token)).await
    }

    async fn found(&self, partition: Partition, range: OffsetRange) -> Result<Found, Error> {
        self.heard("found", self.twin.found(partition, range)).await
    }

    async fn stage(&self, block: &RowBlock, token: &str) -> Result<(), Error> {
        self.ground.say(format_args!("stage {:?} under {token}", block.table));
        self.heard(token, self.twin.stage(block, token)).await
    }

    async fn staged(&self, partition: Partition, range: OffsetRange) -> Result<Found, Error> {
        self.heard("what is staged", self.twin.staged(partition, range)).await
    }

    async fn staged_raw(&self, partition: Partition, range: OffsetRange) -> Result<Vec<RawRecord>, Error> {
        self.heard("staged rows", self.twin.staged_raw(partition, range)).await
    }

    async fn insert_staged(&self, partition: Partition, range: OffsetRange, token: &str) -> Result<(), Error> {
        self.ground.say(format_args!("insert what is staged of {partition} {range} under {token}"));
        self.heard(token, self.twin.insert_staged(partition, range, token)).await
    }

    async fn unstage(&self, partition: Partition, range: OffsetRange) -> Result<(), Error> {
        self.heard("unstaging", self.twin.unstage(partition, range)).await
    }

    async fn visit_cells(&self, of: EpochCells, visit: VisitCell<'_>) -> Result<(), Error> {
        self.heard("cells", self.twin.visit_cells(of, visit)).await
    }

    async fn visit_counted_cells(&self, of: EpochCells, visit: VisitCell<'_>) -> Result<(), Error> {
        self.heard("counted cells", self.twin.visit_counted_cells(of, visit)).await
    }

    async fn wipe(&self, partition: Partition, epoch: Epoch, what: Wiped, deadline_secs: u32) -> Result<(), Error> {
        self.check_may_wipe(partition, epoch, what);
        let id = {
            let running = &mut *lock(&self.running);
            let id = running.next_wipe;
            running.next_wipe += 1;
            let twin = self.twin.clone();
            let task = Task::new(async move { twin.wipe(partition, epoch, what, deadline_secs).await });
            running.wipes.insert(id, Wipe { until_ms: self.ground.now_ms() + i64::from(deadline_secs) * 1000, task });
            id
        };
        self.ground.say(format_args!("wipe #{id} of {partition} epoch {epoch}"));
        let outcome = poll_fn(|_| lock(&self.running).outcomes.remove(&id).map_or(Poll::Pending, Poll::Ready));
        self.heard("a wipe", outcome).await
    }

    async fn fill(&self, view: ViewId, partition: Partition, epoch: Epoch, token: &str) -> Result<(), Error> {
        self.heard("a fill", self.twin.fill(view, partition, epoch, token)).await
    }

    async fn answer(&self, view: ViewId, question: &Question, groups: &Groups, marks: &Marks) -> Result<Rows, Error> {
        self.heard("a query", self.twin.answer(view, question, groups, marks)).await
    }

    async fn answer_raw(&self, question: &Question, epochs: Epochs, marks: &Marks, cut: &Cut) -> Result<Rows, Error> {
        self.heard("a raw query", self.twin.answer_raw(question, epochs, marks, cut)).await
    }

    async fn repairing(&self) -> Result<Vec<(Partition, Epoch)>, Error> {
        self.heard("what is being repaired", self.twin.repairing()).await
    }

    async fn tallies(&self, known: &Marks, marks: &Marks) -> Result<Tallies, Error> {
        self.twin.tallies(known, marks).await
    }

    async fn marks(&self) -> Result<Marks, Error> {
        self.twin.marks().await
    }

    async fn closed_by_any(&self) -> Result<Marks, Error> {
        self.heard("what is closed", self.twin.closed_by_any()).await
    }

    async fn record(&self, row: &LedgerRow, until_ms: Option<i64>) -> Result<(), Error> {
        self.ground.say(format_args!("ledger {} epoch {}: {:?} {:?}", row.partition, row.epoch, row.entry, row.tally));
        // The statement may arrive late: only then is the clock looked at.
        let polls = 1 + self.ground.below(if self.ground.is_calm() { 1 } else { 12 });
        let arrived = async {
            for _ in 0..polls {
                pause().await;
            }
            if until_ms.is_some_and(|until_ms| self.ground.now_ms() >= until_ms) {
                self.ground.say(format_args!("ledger {} epoch {}: too late", row.partition, row.epoch));
                return Ok(());
            }
            self.check_may_close(row);
            if let Entry::Repair { deadline_ms } = row.entry {
                lock(&self.running).announced.insert((row.partition, row.epoch, deadline_ms), self.ground.now_ms());
            }
            self.twin.record(row, until_ms).await
        };
        self.heard("a ledger row", arrived).await
    }

    async fn ledger(&self, partition: Partition, epoch: Epoch) -> Result<Vec<LedgerRow>, Error> {
        self.heard("the ledger", self.twin.ledger(partition, epoch)).await
    }

    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetter>, Error> {
        self.twin.dead_letters(query).await
    }

    async fn contents(&self, partition: Partition, range: OffsetRange, bits: u8) -> Result<Contents, Error> {
        self.twin.contents(partition, range, bits).await
    }

    async fn sums(&self, partition: Partition, epochs: Range<Epoch>) -> Result<Vec<EpochSums>, Error> {
        self.heard("sums of epochs", self.twin.sums(partition, epochs)).await
    }

    async fn staged_content(&self, partition: Partition, range: OffsetRange) -> Result<u64, Error> {
        self.heard("what staged rows say", self.twin.staged_content(partition, range)).await
    }

    async fn note_content(&self, partition: Partition, epoch: Epoch, is_closed: bool) -> Result<(), Error> {
        self.heard("a note", self.twin.note_content(partition, epoch, is_closed)).await
    }

    fn is_heard(&self) -> bool {
        self.twin.is_heard()
    }

    fn revision(&self) -> u64 {
        self.twin.revision()
    }

    async fn damage(&self) -> Result<Arc<Damage>, Error> {
        self.twin.damage().await
    }

    async fn damage_now(&self) -> Result<Arc<Damage>, Error> {
        self.heard("damage", self.twin.damage_now()).await
    }

    async fn record_change(&self, change: &Change, until_ms: Option<i64>) -> Result<(), Error> {
        let polls = 1 + self.ground.below(if self.ground.is_calm() { 1 } else { 12 });
        let arrived = async {
            for _ in 0..polls {
                pause().await;
            }
            let Change { partition, epoch, entry, .. } = change;
            if until_ms.is_some_and(|until_ms| self.ground.now_ms() >= until_ms) {
                self.ground.say(format_args!("audit {partition} epoch {epoch}: {entry:?}: too late"));
                return Ok(());
            }
            self.ground.say(format_args!("audit {partition} epoch {epoch}: {entry:?}"));
            self.twin.record_change(change, until_ms).await
        };
        self.heard("a change", arrived).await
    }

    async fn checked(&self, partition: Partition) -> Result<Option<Epoch>, Error> {
        self.heard("what is checked", self.twin.checked(partition)).await
    }

    async fn record_checked(&self, partition: Partition, up_to: Epoch) -> Result<(), Error> {
        self.heard("that it is checked", self.twin.record_checked(partition, up_to)).await
    }

    async fn digest(&self, view: ViewId, range: TimeRange, marks: &Marks) -> Result<Digest, Error> {
        self.twin.digest(view, range, marks).await
    }

    async fn raw(&self, partition: Partition, range: OffsetRange) -> Result<Vec<RawRecord>, Error> {
        self.twin.raw(partition, range).await
    }

    async fn origins(&self, of: Counted<'_>, behind: &Places, limit: u32) -> Result<Vec<Origin>, Error> {
        self.twin.origins(of, behind, limit).await
    }

    async fn reached(&self, at_ms: i64, cut: &Cut) -> Result<Places, Error> {
        self.twin.reached(at_ms, cut).await
    }

    async fn events_of(&self, of: Counted<'_>, page: Page) -> Result<Vec<Placed>, Error> {
        self.twin.events_of(of, page).await
    }

    async fn uncounted(&self, ranges: &[(Partition, OffsetRange)]) -> Result<Vec<Uncounted>, Error> {
        self.twin.uncounted(ranges).await
    }
}
