//! The engine's twin in memory: for unit tests, and, step by step, for the simulator.
//!
//! It keeps what matters about the engine, the bad sides too: an insert lands part by part, each first as a token, then
//! as rows, then as a token and rows of the roll-ups; a kill may fall between any two of these, and leaves tokens whose
//! rows were never written.

use crate::audit::{Change, Damage, Damaged, EpochSums, RollupSums, Sums};
use crate::block::DUPLICATE;
use crate::evidence::{Counted, Origin, Page, Placed, Places, Uncounted};
use crate::ledger::{Entry, LedgerRow};
use crate::raw::Epochs;
use crate::rows::{Found, Month, PartKey, RawEvent, RawKind, RawPayload, RawRecord, RowBlock, RowCount, Table};
use crate::{Contents, DeadLetter, DeadLetterQuery, Digest, EpochCells, Error, History, Marks, Tallies, VisitCell, Wiped};
use async_trait::async_trait;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::Poll;
use tidemark_core::amount::Amount;
use tidemark_core::cell::{Cell, fold_of};
use tidemark_core::cut::Cut;
use tidemark_core::epoch::{Epoch, Mark};
use tidemark_core::event::Reject;
use tidemark_core::generation::Rules;
use tidemark_core::offset::{Offset, OffsetRange, Partition};
use tidemark_core::question::{Groups, Question, RowKey, Rows};
use tidemark_core::view::{Dimension, View, ViewId};
use tidemark_core::window::{Level, TimeRange, WindowStart};

/// One stored row.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Stored {
    Event {
        partition: Partition,
        offset: Offset,
        timestamp_ms: i64,
        event_id: String,
        values: [String; Dimension::COUNT],
        amount: Option<Amount>,
    },
    DeadLetter {
        partition: Partition,
        offset: Offset,
        record_timestamp_ms: i64,
        reason: String,
        payload: Vec<u8>,
    },
}

impl Stored {
    fn place(&self) -> (Partition, Offset) {
        match self {
            Self::Event { partition, offset, .. } | Self::DeadLetter { partition, offset, .. } => (*partition, *offset),
        }
    }

    fn part(&self) -> PartKey {
        match self {
            Self::Event { timestamp_ms, .. } => PartKey::Events(Month::of(*timestamp_ms)),
            Self::DeadLetter { .. } => PartKey::DeadLetters,
        }
    }
}

/// What rolls raw events up: a view's, from there on.
#[derive(Clone, Debug)]
struct Filler {
    view: View,
    since: Cut,
}

/// By the place of its filler.
type RollupKey = (usize, Level, Partition, Epoch);

#[derive(Debug, Default)]
struct State {
    base: Vec<Stored>,
    staged: Vec<Stored>,
    /// Of what has been staged.
    staging_tokens: BTreeSet<String>,
    fillers: Vec<Filler>,
    rollups: BTreeMap<RollupKey, Rows>,
    tokens: BTreeSet<(String, PartKey)>,
    /// Of fills, by filler and token.
    fills: BTreeSet<(usize, String)>,
    rollup_tokens: BTreeSet<(String, PartKey)>,
    ledger: Vec<LedgerRow>,
    /// What raw rows came to when an epoch was closed.
    noted: BTreeMap<(Partition, Epoch), u64>,
    changes: Vec<Change>,
    checked: BTreeMap<Partition, Epoch>,
    inserts: Vec<Insert>,
    outcomes: BTreeMap<u64, bool>,
    next_insert: u64,
}

/// An insert on its way: the parts still to land, and how far the first of them is.
#[derive(Debug)]
struct Insert {
    id: u64,
    token: String,
    parts: Vec<(PartKey, Vec<Stored>)>,
    stage: Stage,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    Token,
    Rows { fresh: bool },
    RollupToken,
    RollupRows { fresh: bool },
}

/// A history in memory. Clones share it.
#[derive(Clone, Debug)]
pub struct MemoryHistory {
    rules: Arc<Rules>,
    /// The filler of each view.
    fillers: Vec<usize>,
    state: Arc<Mutex<State>>,
    /// In steps: every call waits for its turn, and inserts wait for [`MemoryHistory::step`].
    stepped: bool,
}

impl MemoryHistory {
    /// Everything happens at once.
    pub fn new(rules: Arc<Rules>) -> Self {
        let fillers: Vec<Filler> = rules.views.iter().map(|view| Filler { view: view.clone(), since: Cut::default() }).collect();
        let places = (0..fillers.len()).collect();
        Self { rules, fillers: places, state: Arc::new(Mutex::new(State { fillers, ..State::default() })), stepped: false }
    }

    /// The same, as a generation sees it that widens this one.
    pub fn widened(&self, rules: Arc<Rules>) -> Self {
        let since = rules.widens.as_ref().map(|widened| widened.since.clone()).unwrap_or_default();
        let place = |view: &View| match self.rules.views.find(view) {
            Some(ViewId(shared)) => self.fillers[shared],
            None => {
                let fillers = &mut self.state().fillers;
                fillers.push(Filler { view: view.clone(), since: since.clone() });
                fillers.len() - 1
            }
        };
        Self { fillers: rules.views.iter().map(place).collect(), rules, ..self.clone() }
    }

    /// Everything happens when the simulator says so.
    pub fn stepped(rules: Arc<Rules>) -> Self {
        Self { stepped: true, ..Self::new(rules) }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Inserts that have not been answered yet.
    pub fn inserts(&self) -> usize {
        self.state().inserts.len()
    }

    /// Takes insert number `at` one step further; when it is done, answers, or loses the answer.
    pub fn step(&self, at: usize, lose_answer: bool) {
        let state = &mut *self.state();
        let Some(insert) = state.inserts.get_mut(at) else { return };
        if let Some((part, rows)) = insert.parts.first() {
            let token = (insert.token.clone(), *part);
            match insert.stage {
                Stage::Token => insert.stage = Stage::Rows { fresh: state.tokens.insert(token) },
                Stage::Rows { fresh } => {
                    if fresh {
                        state.base.extend(rows.iter().cloned());
                    }
                    insert.stage = Stage::RollupToken;
                }
                Stage::RollupToken => insert.stage = Stage::RollupRows { fresh: state.rollup_tokens.insert(token) },
                Stage::RollupRows { fresh } => {
                    if fresh {
                        for place in 0..state.fillers.len() {
                            roll_up(&self.rules, (place, &state.fillers[place]), &mut state.rollups, rows.iter());
                        }
                    }
                    insert.parts.remove(0);
                    insert.stage = Stage::Token;
                }
            }
        }
        if insert.parts.is_empty() {
            let id = state.inserts.remove(at).id;
            state.outcomes.insert(id, !lose_answer);
        }
    }

    /// Kills the engine: what was on its way stays where it is, and nobody hears of it.
    pub fn kill(&self) {
        let state = &mut *self.state();
        for insert in state.inserts.drain(..) {
            state.outcomes.insert(insert.id, false);
        }
    }

    /// Waits until the simulator polls again: a place where a crash can fall.
    async fn turn(&self) {
        if self.stepped {
            let mut waited = false;
            std::future::poll_fn(|_| if std::mem::replace(&mut waited, true) { Poll::Ready(()) } else { Poll::Pending }).await;
        }
    }

    /// Puts an insert on its way, and waits for its outcome.
    async fn land(&self, rows: Vec<Stored>, token: &str) -> Result<(), Error> {
        let id = self.begin(rows, token);
        if !self.stepped {
            while let Some(at) = { self.state().inserts.iter().position(|insert| insert.id == id) } {
                self.step(at, false);
            }
        }
        std::future::poll_fn(|_| self.outcome(id).map_or(Poll::Pending, Poll::Ready)).await
    }

    fn begin(&self, rows: Vec<Stored>, token: &str) -> u64 {
        let mut parts: BTreeMap<PartKey, Vec<Stored>> = BTreeMap::new();
        for row in rows {
            parts.entry(row.part()).or_default().push(row);
        }
        let mut state = self.state();
        let id = state.next_insert;
        state.next_insert += 1;
        state.inserts.push(Insert { id, token: token.to_owned(), parts: parts.into_iter().collect(), stage: Stage::Token });
        id
    }

    fn outcome(&self, id: u64) -> Option<Result<(), Error>> {
        let answered = self.state().outcomes.remove(&id)?;
        Some(if answered { Ok(()) } else { Err(Error::Unavailable { url: "memory".into(), reason: "the answer was lost".into() }) })
    }

    /// A number's events, each once, in order.
    fn placed(&self, Counted { question, cut }: Counted<'_>) -> Result<Vec<Placed>, Error> {
        let mut events: BTreeMap<(Partition, Offset), RawEvent> = BTreeMap::new();
        for row in &self.state().base {
            let Stored::Event { partition, offset, timestamp_ms, values, .. } = row else { continue };
            let counted = question.row_of(WindowStart::containing(*timestamp_ms), |d| &*values[d.index()]);
            let counted = counted.map_err(|e| Error::Nonsense(e.to_string()))?.is_some();
            if let (true, RawKind::Event(event)) = (counted && cut.get(*partition).includes(*offset), raw_record(row.clone()).kind) {
                events.insert((*partition, *offset), event);
            }
        }
        Ok(events.into_iter().map(|((partition, offset), event)| (partition, offset, event)).collect())
    }

    fn in_range(&self, partition: Partition, range: OffsetRange) -> Vec<Stored> {
        within(&self.state().base, partition, range)
    }
}

/// Damage done to history, as accidents do it.
impl MemoryHistory {
    /// Removes the raw row at an offset.
    pub fn lose_raw(&self, partition: Partition, offset: Offset) {
        self.state().base.retain(|row| row.place() != (partition, offset));
    }

    /// Has the raw row at an offset say another amount.
    pub fn alter_raw(&self, partition: Partition, offset: Offset) {
        for row in &mut self.state().base {
            if row.place() == (partition, offset)
                && let Stored::Event { amount, .. } = row
            {
                *amount = Some(Amount::from_ten_thousandths(amount.map_or(1, |amount| amount.ten_thousandths() + 1)));
            }
        }
    }

    /// Removes the cells of an epoch from a roll-up.
    pub fn lose_cells(&self, EpochCells { view, level, partition, epoch }: EpochCells) {
        self.state().rollups.remove(&(self.fillers[view.0], level, partition, epoch));
    }

    fn known_damage(&self) -> Damage {
        Damage::new(self.state().changes.clone(), |_, _| TimeRange::default())
    }

    fn sums_of(rows: &[Stored]) -> (Sums, u64) {
        let (mut sums, mut dead_letters) = (Sums::default(), 0);
        for row in rows {
            sums.hash = sums.hash.wrapping_add(hash_of(&format!("{row:?}")));
            match row {
                Stored::Event { offset, .. } => {
                    sums.events += 1;
                    sums.fold = sums.fold.wrapping_add(fold_of(*offset));
                }
                Stored::DeadLetter { .. } => dead_letters += 1,
            }
        }
        (sums, dead_letters)
    }

    fn sums_of_cells(cells: Option<&Rows>) -> Sums {
        let mut sums = Sums::default();
        for (key, cell) in cells.into_iter().flatten() {
            sums.events += cell.count;
            sums.fold = sums.fold.wrapping_add(cell.fold);
            sums.hash = sums.hash.wrapping_add(hash_of(&format!("{key:?} {cell:?}")));
        }
        sums
    }

    /// A view's cells of an epoch at all levels, as raw rows have them.
    fn counted(&self, view: ViewId, partition: Partition, epoch: Epoch) -> BTreeMap<RollupKey, Rows> {
        let state = &*self.state();
        let place = self.fillers[view.0];
        let filler = Filler { since: Cut::default(), ..state.fillers[place].clone() };
        let mut counted = BTreeMap::new();
        let rows = within(&state.base, partition, self.rules.epoch_bits.range_of(epoch));
        roll_up(&self.rules, (place, &filler), &mut counted, rows.iter());
        counted
    }

    fn sums_of_epoch(&self, partition: Partition, epoch: Epoch) -> EpochSums {
        let counted: Vec<_> = self.rules.views.ids().map(|view| self.counted(view, partition, epoch)).collect();
        let state = &*self.state();
        let rows = within(&state.base, partition, self.rules.epoch_bits.range_of(epoch));
        let (raw, dead_letters) = Self::sums_of(&rows);
        let ours = |row: &&LedgerRow| (row.generation, row.partition, row.epoch) == (self.rules.generation, partition, epoch);
        let closed = state.ledger.iter().filter(ours).filter(|row| row.entry == Entry::Closed).max_by_key(|row| row.at_ms);
        let mut rollups = Vec::new();
        for (view, counted) in self.rules.views.ids().zip(&counted) {
            for level in Level::ALL {
                let key = (self.fillers[view.0], level, partition, epoch);
                let [held, counted] = [&state.rollups, counted].map(|cells| Self::sums_of_cells(cells.get(&key)));
                rollups.push(RollupSums { view, level, held, counted });
            }
        }
        let noted = state.noted.get(&(partition, epoch)).copied();
        EpochSums { epoch, closed: closed.map(|row| (row.tally, row.fold)), noted, raw, dead_letters, rollups }
    }
}

fn within(rows: &[Stored], partition: Partition, range: OffsetRange) -> Vec<Stored> {
    rows.iter().filter(|row| row.place().0 == partition && range.contains(row.place().1)).cloned().collect()
}

fn rows_of(block: &RowBlock) -> Result<Vec<Stored>, Error> {
    let pieces: Vec<Vec<Stored>> = block.pieces.iter().map(|piece| decode_rows(block.table, piece)).collect::<Result<_, _>>()?;
    Ok(pieces.concat())
}

fn counted(rows: &[Stored]) -> Found {
    let mut found = Found::new();
    rows.iter().for_each(|row| found.entry(row.part()).or_default().add(row.place().1));
    found
}

fn records(rows: Vec<Stored>) -> Vec<RawRecord> {
    let mut records: Vec<RawRecord> = rows.into_iter().map(raw_record).collect();
    records.sort_by_key(|record| record.offset);
    records
}

fn show(cells: Option<&Rows>, visit: VisitCell<'_>) {
    for (key, cell) in cells.into_iter().flatten() {
        visit(key.bucket_ms, &key.values.iter().map(|value| &**value).collect::<Vec<_>>(), cell);
    }
}

fn roll_up<'r>(
    rules: &Rules,
    (place, filler): (usize, &Filler),
    rollups: &mut BTreeMap<RollupKey, Rows>,
    rows: impl Iterator<Item = &'r Stored>,
) {
    for row in rows {
        let Stored::Event { partition, offset, timestamp_ms, values, amount, .. } = row else { continue };
        let epoch = rules.epoch_bits.epoch_of(*offset);
        if filler.since.get(*partition).includes(*offset) {
            continue;
        }
        let window = WindowStart::containing(*timestamp_ms);
        let values: Vec<Box<str>> = filler.view.dimensions().iter().map(|d| values[d.index()].as_str().into()).collect();
        for level in Level::ALL {
            let rows = rollups.entry((place, level, *partition, epoch)).or_default();
            rows.entry(RowKey { bucket_ms: window.at(level).ms(), values: values.clone() }).or_default().add(fold_of(*offset), *amount);
        }
    }
}

/// Reads back what [`crate::rows`] wrote.
fn decode_rows(table: Table, mut bytes: &[u8]) -> Result<Vec<Stored>, Error> {
    let mut rows = Vec::new();
    while !bytes.is_empty() {
        let row = match table {
            Table::Events => take_event(&mut bytes),
            Table::DeadLetters => take_dead_letter(&mut bytes),
        };
        rows.push(row.ok_or_else(|| Error::Nonsense("rows that cannot be read back".into()))?);
    }
    Ok(rows)
}

fn take<const N: usize>(bytes: &mut &[u8]) -> Option<[u8; N]> {
    let (head, rest) = bytes.split_first_chunk::<N>()?;
    *bytes = rest;
    Some(*head)
}

fn take_str(bytes: &mut &[u8]) -> Option<Vec<u8>> {
    let mut len = 0usize;
    for shift in (0..).step_by(7) {
        let [byte] = take(bytes)?;
        len |= usize::from(byte & 0x7F) << shift;
        if byte < 0x80 {
            break;
        }
    }
    let (text, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    Some(text.to_vec())
}

fn take_text(bytes: &mut &[u8]) -> Option<String> {
    String::from_utf8(take_str(bytes)?).ok()
}

fn take_place(bytes: &mut &[u8]) -> Option<(Partition, Offset)> {
    Some((Partition(u32::from_le_bytes(take(bytes)?)), Offset::new(u64::from_le_bytes(take(bytes)?))))
}

fn take_event(bytes: &mut &[u8]) -> Option<Stored> {
    let (partition, offset) = take_place(bytes)?;
    let (event_id, event_type) = (take_text(bytes)?, take_text(bytes)?);
    let timestamp_ms = i64::from_le_bytes(take(bytes)?);
    let (product_id, user_id) = (take_text(bytes)?, take_text(bytes)?);
    let amount = match take(bytes)? {
        [0u8] => Some(Amount::from_ten_thousandths(i64::from_le_bytes(take(bytes)?))),
        _ => None,
    };
    let [properties] = take::<1>(bytes)?;
    for _ in 0..2 * properties {
        take_str(bytes)?;
    }
    Some(Stored::Event { partition, offset, timestamp_ms, event_id, values: [event_type, product_id, user_id], amount })
}

fn take_dead_letter(bytes: &mut &[u8]) -> Option<Stored> {
    let (partition, offset) = take_place(bytes)?;
    let record_timestamp_ms = i64::from_le_bytes(take(bytes)?);
    Some(Stored::DeadLetter { partition, offset, record_timestamp_ms, reason: take_text(bytes)?, payload: take_str(bytes)? })
}

#[async_trait]
impl History for MemoryHistory {
    async fn insert(&self, block: &RowBlock, token: &str) -> Result<(), Error> {
        self.turn().await;
        self.land(rows_of(block)?, token).await
    }

    async fn stage(&self, block: &RowBlock, token: &str) -> Result<(), Error> {
        self.turn().await;
        let (rows, state) = (rows_of(block)?, &mut *self.state());
        if state.staging_tokens.insert(format!("{:?} {token}", block.table)) {
            state.staged.extend(rows);
        }
        Ok(())
    }

    async fn staged(&self, partition: Partition, range: OffsetRange) -> Result<Found, Error> {
        self.turn().await;
        Ok(counted(&within(&self.state().staged, partition, range)))
    }

    async fn staged_raw(&self, partition: Partition, range: OffsetRange) -> Result<Vec<RawRecord>, Error> {
        self.turn().await;
        Ok(records(within(&self.state().staged, partition, range)))
    }

    async fn insert_staged(&self, partition: Partition, range: OffsetRange, token: &str) -> Result<(), Error> {
        self.turn().await;
        let rows = within(&self.state().staged, partition, range);
        self.land(rows, token).await
    }

    async fn unstage(&self, partition: Partition, range: OffsetRange) -> Result<(), Error> {
        self.turn().await;
        self.state().staged.retain(|row| row.place().0 != partition || !range.contains(row.place().1));
        Ok(())
    }

    async fn found(&self, partition: Partition, range: OffsetRange) -> Result<Found, Error> {
        self.turn().await;
        Ok(counted(&self.in_range(partition, range)))
    }

    async fn visit_cells(&self, of: EpochCells, visit: VisitCell<'_>) -> Result<(), Error> {
        self.turn().await;
        let EpochCells { view, level, partition, epoch } = of;
        show(self.state().rollups.get(&(self.fillers[view.0], level, partition, epoch)), visit);
        Ok(())
    }

    async fn visit_counted_cells(
        &self,
        EpochCells { view, level, partition, epoch }: EpochCells,
        visit: VisitCell<'_>,
    ) -> Result<(), Error> {
        self.turn().await;
        show(self.counted(view, partition, epoch).get(&(self.fillers[view.0], level, partition, epoch)), visit);
        Ok(())
    }

    async fn wipe(&self, partition: Partition, epoch: Epoch, what: Wiped, _deadline_secs: u32) -> Result<(), Error> {
        let views: Vec<ViewId> = match what {
            Wiped::Everything | Wiped::Rollups => self.rules.views.ids().collect(),
            Wiped::AddedSince(generation) => self.rules.added_since(generation).collect(),
        };
        for view in views {
            for level in Level::ALL {
                self.turn().await;
                self.state().rollups.remove(&(self.fillers[view.0], level, partition, epoch));
            }
        }
        self.turn().await;
        if what == Wiped::Everything {
            let range = self.rules.epoch_bits.range_of(epoch);
            self.state().base.retain(|row| row.place().0 != partition || !range.contains(row.place().1));
        }
        Ok(())
    }

    async fn fill(&self, view: ViewId, partition: Partition, epoch: Epoch, token: &str) -> Result<(), Error> {
        self.turn().await;
        let range = self.rules.epoch_bits.range_of(epoch);
        let (place, state) = (self.fillers[view.0], &mut *self.state());
        if state.fills.insert((place, token.to_owned())) {
            let filler = Filler { since: Cut::default(), ..state.fillers[place].clone() };
            let rows = state.base.iter().filter(|row| row.place().0 == partition && range.contains(row.place().1));
            roll_up(&self.rules, (place, &filler), &mut state.rollups, rows);
        }
        Ok(())
    }

    async fn answer(&self, view: ViewId, question: &Question, groups: &Groups, marks: &Marks) -> Result<Rows, Error> {
        self.turn().await;
        let damage = self.known_damage();
        let is_closed = |of: &Damaged| marks.get(&of.partition).is_some_and(|mark| mark.is_closed(of.epoch));
        damage.must_be_sound(question.range, is_closed)?;
        let dimensions = self.rules.views.get(view).dimensions();
        let place = |d| dimensions.iter().position(|own| *own == d).unwrap_or_default();
        let mut answer = Rows::new();
        for row in &self.state().base {
            let Stored::Event { partition, offset, timestamp_ms, values, amount, .. } = row else { continue };
            let damaged = damage.of(*partition, self.rules.epoch_bits.epoch_of(*offset));
            if damaged.is_some_and(|of| of.is_raw_sound() && is_closed(of)) {
                let row = question.row_of(WindowStart::containing(*timestamp_ms), |d| &*values[d.index()]);
                if let Some(row) = row.map_err(|e| Error::Nonsense(e.to_string()))? {
                    answer.entry(row).or_insert(Cell::EMPTY).add(fold_of(*offset), *amount);
                }
            }
        }
        for ((id, level, partition, epoch), rows) in &self.state().rollups {
            let closed = marks.get(partition).is_some_and(|mark| mark.is_closed(*epoch)) && damage.of(*partition, *epoch).is_none();
            if *id != self.fillers[view.0] || *level != Level::FiveMinutes || !closed {
                continue;
            }
            for (key, cell) in rows {
                let row = question.row_of(WindowStart::containing(key.bucket_ms), |d| &*key.values[place(d)]);
                if let Some(row) = row.map_err(|e| Error::Nonsense(e.to_string()))? {
                    answer.entry(row).or_insert(Cell::EMPTY).merge(cell);
                }
            }
        }
        groups.keep(&mut answer);
        Ok(answer)
    }

    async fn marks(&self) -> Result<Marks, Error> {
        let mut marks = Marks::new();
        let state = self.state();
        let ours = state.ledger.iter().filter(|row| row.generation == self.rules.generation);
        for (partition, put) in ours.filter_map(|row| Some((row.partition, row.mark()?))) {
            let mark = marks.entry(partition).or_insert(put);
            *mark = (*mark).max(put);
        }
        Ok(marks)
    }

    async fn closed_by_any(&self) -> Result<Marks, Error> {
        self.turn().await;
        let mut marks = Marks::new();
        for row in self.state().ledger.iter().filter(|row| row.entry == Entry::Closed) {
            let (mark, closed) = (marks.entry(row.partition).or_insert(Mark::START), Mark::at(row.epoch.next()));
            *mark = (*mark).max(closed);
        }
        Ok(marks)
    }

    async fn tallies(&self, known: &Marks, marks: &Marks) -> Result<Tallies, Error> {
        self.turn().await;
        let is_between = |row: &LedgerRow| {
            let mark = |of: &Marks| of.get(&row.partition).copied().unwrap_or(Mark::START);
            mark(marks).is_closed(row.epoch) && !mark(known).is_closed(row.epoch)
        };
        let state = self.state();
        let (mut tallies, mut seen) = (Tallies::default(), BTreeSet::new());
        for row in state.ledger.iter().filter(|row| row.generation == self.rules.generation) {
            match row.entry {
                Entry::Begun => drop(tallies.begun.insert(row.partition, Mark::at(row.epoch))),
                Entry::Closed if is_between(row) && seen.insert((row.partition, row.epoch)) => {
                    tallies.closed.entry(row.partition).or_default().merge(&row.tally);
                }
                Entry::Closed | Entry::Repair { .. } => {}
            }
        }
        Ok(tallies)
    }

    /// The twin has no clock: the caller decides whether the row comes in time, and it is written immediately.
    async fn record(&self, row: &LedgerRow, _: Option<i64>) -> Result<(), Error> {
        self.state().ledger.push(*row);
        self.turn().await;
        Ok(())
    }

    async fn ledger(&self, partition: Partition, epoch: Epoch) -> Result<Vec<LedgerRow>, Error> {
        self.turn().await;
        let about = |row: &&LedgerRow| row.partition == partition && row.epoch == epoch;
        Ok(self.state().ledger.iter().filter(about).copied().collect())
    }

    async fn sums(&self, partition: Partition, epochs: Range<Epoch>) -> Result<Vec<EpochSums>, Error> {
        self.turn().await;
        Ok((epochs.start.0..epochs.end.0).map(|epoch| self.sums_of_epoch(partition, Epoch(epoch))).collect())
    }

    async fn staged_content(&self, partition: Partition, range: OffsetRange) -> Result<u64, Error> {
        self.turn().await;
        Ok(Self::sums_of(&within(&self.state().staged, partition, range)).0.hash)
    }

    async fn note_content(&self, partition: Partition, epoch: Epoch, is_closed: bool) -> Result<(), Error> {
        self.turn().await;
        let sums = self.sums_of_epoch(partition, epoch);
        if is_closed || sums.closed.is_none() {
            self.state().noted.insert((partition, epoch), sums.raw.hash);
        }
        Ok(())
    }

    fn is_heard(&self) -> bool {
        true
    }

    fn revision(&self) -> u64 {
        self.known_damage().revision()
    }

    /// Known at once.
    async fn damage(&self) -> Result<Arc<Damage>, Error> {
        Ok(Arc::new(self.known_damage()))
    }

    async fn damage_now(&self) -> Result<Arc<Damage>, Error> {
        self.turn().await;
        self.damage().await
    }

    /// The twin has no clock, as for a row of the ledger.
    async fn record_change(&self, change: &Change, _: Option<i64>) -> Result<(), Error> {
        self.turn().await;
        self.state().changes.push(change.clone());
        Ok(())
    }

    async fn checked(&self, partition: Partition) -> Result<Option<Epoch>, Error> {
        self.turn().await;
        Ok(self.state().checked.get(&partition).copied())
    }

    async fn record_checked(&self, partition: Partition, up_to: Epoch) -> Result<(), Error> {
        self.turn().await;
        self.state().checked.insert(partition, up_to);
        Ok(())
    }

    async fn repairing(&self) -> Result<Vec<(Partition, Epoch)>, Error> {
        self.turn().await;
        let state = self.state();
        let closed: BTreeSet<_> =
            state.ledger.iter().filter(|row| row.entry == Entry::Closed).map(|row| (row.partition, row.epoch)).collect();
        let repairs = state.ledger.iter().filter(|row| matches!(row.entry, Entry::Repair { .. })).map(|row| (row.partition, row.epoch));
        Ok(repairs.filter(|place| !closed.contains(place)).collect())
    }

    async fn answer_raw(&self, question: &Question, epochs: Epochs, marks: &Marks, cut: &Cut) -> Result<Rows, Error> {
        self.turn().await;
        let is_open = |of: &Damaged| !marks.get(&of.partition).is_some_and(|mark| mark.is_closed(of.epoch));
        let is_asked = |of: &Damaged| of.begins_below(self.rules.epoch_bits, cut) && (epochs == Epochs::All || is_open(of));
        self.known_damage().must_be_sound(question.range, is_asked)?;
        let (mut answer, mut seen) = (Rows::new(), BTreeSet::new());
        for row in &self.state().base {
            let Stored::Event { partition, offset, timestamp_ms, values, amount, .. } = row else { continue };
            let is_closed = marks.get(partition).is_some_and(|mark| mark.is_closed(self.rules.epoch_bits.epoch_of(*offset)));
            let asked = if is_closed { epochs == Epochs::All } else { seen.insert((*partition, *offset)) };
            if !asked {
                continue;
            }
            let row = question.row_of(WindowStart::containing(*timestamp_ms), |d| &*values[d.index()]);
            let row = row.map_err(|e| Error::Nonsense(e.to_string()))?.filter(|_| cut.get(*partition).includes(*offset));
            if let Some(row) = row {
                answer.entry(row).or_insert(Cell::EMPTY).add(fold_of(*offset), *amount);
            }
        }
        Ok(answer)
    }

    async fn dead_letters(&self, query: &DeadLetterQuery) -> Result<Vec<DeadLetter>, Error> {
        let letter = |row: &Stored| match row {
            Stored::DeadLetter { partition, offset, record_timestamp_ms, reason, payload } => Some(DeadLetter {
                partition: *partition,
                offset: *offset,
                record_timestamp_ms: *record_timestamp_ms,
                reason: reason.clone(),
                payload: payload.clone(),
            }),
            Stored::Event { .. } => None,
        };
        let mut letters: Vec<DeadLetter> = self.state().base.iter().filter_map(letter).collect();
        let place = |l: &DeadLetter| (l.record_timestamp_ms, l.partition, l.offset);
        letters.retain(|l| {
            query.partition.is_none_or(|p| p == l.partition)
                && query.reason.as_ref().is_none_or(|r| *r == l.reason)
                && query.before.is_none_or(|b| place(l) < b)
        });
        letters.sort_by_key(|l| std::cmp::Reverse(place(l)));
        letters.truncate(query.limit as usize);
        Ok(letters)
    }

    async fn contents(&self, partition: Partition, range: OffsetRange, bits: u8) -> Result<Contents, Error> {
        self.turn().await;
        let (mut contents, mut seen) = (Contents::new(), BTreeSet::new());
        for row in self.in_range(partition, range) {
            let offset = row.place().1;
            if seen.insert(offset) {
                let run = contents.entry(offset.get() >> bits).or_default();
                run.merge(RowCount { rows: 1, fold: hash_of(&format!("{row:?}")) });
            }
        }
        Ok(contents)
    }

    async fn digest(&self, view: ViewId, range: TimeRange, marks: &Marks) -> Result<Digest, Error> {
        self.turn().await;
        let (mut cells, state) = (Rows::new(), self.state());
        for ((id, level, partition, epoch), rows) in &state.rollups {
            let closed = marks.get(partition).is_some_and(|mark| mark.is_closed(*epoch));
            if *id == self.fillers[view.0] && *level == Level::FiveMinutes && closed {
                let within = rows.iter().filter(|(key, _)| range.contains(WindowStart::containing(key.bucket_ms)));
                within.for_each(|(key, cell)| cells.entry(key.clone()).or_insert(Cell::EMPTY).merge(cell));
            }
        }
        let mut digest = Digest::default();
        for said in &cells {
            digest.cells += 1;
            digest.events += said.1.count;
            digest.hash = digest.hash.wrapping_add(hash_of(&format!("{said:?}")));
        }
        Ok(digest)
    }

    async fn raw(&self, partition: Partition, range: OffsetRange) -> Result<Vec<RawRecord>, Error> {
        self.turn().await;
        Ok(records(self.in_range(partition, range)))
    }

    async fn origins(&self, of: Counted<'_>, behind: &Places, limit: u32) -> Result<Vec<Origin>, Error> {
        self.turn().await;
        let mut origins: BTreeMap<(Partition, Epoch), Origin> = BTreeMap::new();
        for (partition, offset, event) in self.placed(of)? {
            let epoch = self.rules.epoch_bits.epoch_of(offset);
            let new = Origin { partition, epoch, first: offset, last: offset, cell: Cell::EMPTY, behind: 0 };
            let origin = origins.entry((partition, epoch)).or_insert(new);
            origin.last = offset;
            origin.cell.add(fold_of(offset), event.order_amount);
            origin.behind += u64::from(behind.get(&partition).is_some_and(|place| *place < offset));
        }
        Ok(origins.into_values().take(limit as usize).collect())
    }

    async fn reached(&self, at_ms: i64, cut: &Cut) -> Result<Places, Error> {
        self.turn().await;
        let mut places = Places::new();
        for row in &self.state().base {
            let Stored::Event { partition, offset, timestamp_ms, .. } = row else { continue };
            if *timestamp_ms >= at_ms && cut.get(*partition).includes(*offset) {
                let place = places.entry(*partition).or_insert(*offset);
                *place = (*place).min(*offset);
            }
        }
        Ok(places)
    }

    async fn events_of(&self, of: Counted<'_>, page: Page) -> Result<Vec<Placed>, Error> {
        self.turn().await;
        let mut events = self.placed(of)?;
        events.retain(|(partition, offset, _)| page.after.is_none_or(|after| (*partition, *offset) > after));
        events.truncate(page.limit as usize);
        Ok(events)
    }

    async fn uncounted(&self, ranges: &[(Partition, OffsetRange)]) -> Result<Vec<Uncounted>, Error> {
        self.turn().await;
        let mut offsets: BTreeMap<(Partition, String), BTreeSet<Offset>> = BTreeMap::new();
        for (partition, range) in ranges {
            for row in self.in_range(*partition, *range) {
                let Stored::DeadLetter { offset, reason, .. } = row else { continue };
                offsets.entry((*partition, reason)).or_default().insert(offset);
            }
        }
        let uncounted = |((partition, reason), offsets): ((Partition, String), BTreeSet<Offset>)| Uncounted {
            partition,
            reason,
            records: offsets.len() as u64,
        };
        Ok(offsets.into_iter().map(uncounted).collect())
    }
}

fn hash_of(text: &str) -> u64 {
    std::hash::BuildHasher::hash_one(&std::hash::BuildHasherDefault::<std::hash::DefaultHasher>::default(), text)
}

fn raw_record(row: Stored) -> RawRecord {
    let (_, offset) = row.place();
    let kind = match row {
        Stored::Event { timestamp_ms, event_id, values: [event_type, product_id, user_id], amount, .. } => {
            // Properties are not kept here: nothing counts them.
            let properties = Vec::new();
            RawKind::Event(RawEvent { event_id, event_type, timestamp_ms, product_id, user_id, order_amount: amount, properties })
        }
        Stored::DeadLetter { reason, payload, record_timestamp_ms, .. } if reason == DUPLICATE => {
            RawKind::Duplicate(RawPayload { payload, record_timestamp_ms })
        }
        Stored::DeadLetter { reason, payload, record_timestamp_ms, .. } => {
            let reject = Reject::of_reason(&reason).expect("a reason that a reject has given");
            RawKind::DeadLetter(reject, RawPayload { payload, record_timestamp_ms })
        }
    };
    RawRecord { offset, kind }
}
