//! Audits: closed epochs are compared again with what they were, and what differs is written again.
//!
//! Found damage is recorded first. Until it is repaired, answers leave the damaged rows out ([`tidemark_history::audit`]): the
//! epoch is told from sound raw rows, or not at all. So a repair below the mark need not be atomic, if it begins when every
//! server knows of the damage. Then it is a repair like any other: announced in the ledger with a deadline, staged, read back.

use crate::reconcile::{REPAIR_SECS, Yard};
use crate::rewrite::Rewrite;
use crate::run::Speed;
use futures_util::future::try_join_all;
use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tidemark_core::cell::Tally;
use tidemark_core::epoch::{Epoch, Mark};
use tidemark_core::generation::Rules;
use tidemark_core::offset::{OffsetRange, Partition};
use tidemark_history::audit::{Change, Damaged, Entry as Record, EpochSums, Finding, HEARD_FOR_MS, Part};
use tidemark_history::block::DUPLICATE;
use tidemark_history::ledger::{Entry as LedgerEntry, LedgerRow, announce_repair, look};
use tidemark_history::{Error, History, Marks, Wiped};

/// Raw rows that are compared by one statement, about.
const ROWS_AT_ONCE: u64 = 1 << 18;

/// Epochs that are repaired at a time: each waits most of the time.
const REPAIRED_AT_ONCE: usize = 4;

/// After damage was recorded, until every server knows of it and has answered what it was asked before: as long as a question may
/// take.
const HEARD_BY_ALL_MS: i64 = HEARD_FOR_MS + 30_000;

/// What is done about damage.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// Nothing, not even a note.
    Look,
    /// It is recorded, so that no answer comes from it.
    Record,
    /// It is written again from the topic, or from raw rows.
    Repair,
    /// The same, and where that cannot be done, what is left counts.
    AcceptLoss,
}

/// What has come of a damaged epoch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Audited {
    pub partition: Partition,
    pub epoch: Epoch,
    pub finding: Finding,
    pub outcome: Outcome,
}

#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// Nothing has been tried.
    Found,
    Repaired(String),
    LossAccepted(String),
    /// Another process repairs it, until then.
    Busy {
        until_ms: i64,
    },
    /// Why it is as it was.
    Unrepaired(String),
}

/// Compares closed epochs of a partition, and does about damage what it is to.
#[derive(Debug)]
pub struct Auditor<'a, Y> {
    pub yard: &'a Y,
    pub history: &'a dyn History,
    pub rules: &'a Rules,
    pub mode: Mode,
}

/// How many epochs of these rules are compared at a time.
pub fn epochs_at_once(rules: &Rules) -> u64 {
    (ROWS_AT_ONCE / rules.epoch_bits.span()).max(1)
}

impl<Y: Yard> Auditor<'_, Y> {
    /// What is damaged of these epochs, all of which are closed.
    pub async fn audit(&self, partition: Partition, epochs: Range<Epoch>) -> Result<Vec<Audited>, Error> {
        let (mut damaged, mut again) = (Vec::new(), Vec::new());
        let known = self.history.damage().await?;
        for sums in self.history.sums(partition, epochs).await? {
            // Looked at twice: what is only under way is no damage.
            if self.finding(&sums).is_some()
                && let Some(sums) = self.sums(partition, sums.epoch).await?
                && let Some(finding) = self.finding(&sums)
            {
                self.record_damage(partition, sums.epoch, &finding).await?;
                damaged.push((sums.epoch, finding));
            } else if self.mode != Mode::Look {
                if sums.noted.is_none() {
                    self.history.note_content(partition, sums.epoch, true).await?;
                }
                again.extend(known.of(partition, sums.epoch).map(|of| (of.epoch, of.finding.clone())));
            }
        }
        // By then every server knows of it, and has answered what it was asked before.
        let begin_ms = self.yard.now_ms() + HEARD_BY_ALL_MS;
        let is_repaired = matches!(self.mode, Mode::Repair | Mode::AcceptLoss);
        let each = damaged.into_iter().map(|(epoch, finding)| (epoch, finding, is_repaired));
        let each: Vec<_> = each.chain(again.into_iter().map(|(epoch, finding)| (epoch, finding, true))).collect();
        let attended = async |(epoch, finding, is_repaired): &(Epoch, Finding, bool)| {
            let outcome = if *is_repaired { self.repair(partition, *epoch, begin_ms).await? } else { Outcome::Found };
            Ok::<_, Error>(Audited { partition, epoch: *epoch, finding: finding.clone(), outcome })
        };
        let mut audited = Vec::new();
        for some in each.chunks(REPAIRED_AT_ONCE) {
            audited.extend(try_join_all(some.iter().map(attended)).await?);
        }
        Ok(audited)
    }

    async fn sums(&self, partition: Partition, epoch: Epoch) -> Result<Option<EpochSums>, Error> {
        Ok(self.history.sums(partition, epoch..epoch.next()).await?.pop())
    }

    fn finding(&self, sums: &EpochSums) -> Option<Finding> {
        sums.finding(|view, level| format!("{}_{}", self.rules.views.get(view).name(), level.suffix()))
    }

    async fn record_damage(&self, partition: Partition, epoch: Epoch, finding: &Finding) -> Result<(), Error> {
        let damage = self.history.damage().await?;
        if self.mode == Mode::Look || damage.of(partition, epoch).is_some_and(|known| known.finding == *finding) {
            return Ok(());
        }
        // After all that has been recorded, so that no repair of before covers it.
        let at_ms = damage.last_ms(partition, epoch).map_or(i64::MIN, |last| last + 1).max(self.yard.now_ms());
        let change = Change { partition, epoch, entry: Record::Damaged(finding.clone()), at_ms, covers_ms: 0 };
        self.history.record_change(&change, None).await
    }

    /// Writes a damaged epoch again, from this time on, or finds that it is sound again. One process at a time, as the ledger
    /// orders it: after its announced deadline no process records a repair, for the next one may be deleting rows.
    async fn repair(&self, partition: Partition, epoch: Epoch, begin_ms: i64) -> Result<Outcome, Error> {
        let unrepaired = |why: &str| Ok(Outcome::Unrepaired(why.to_owned()));
        // An announcement keeps others out for long, so it is not made in vain.
        if let Some(until_ms) = look(self.history, self.yard, (partition, epoch), None).await?.busy_until_ms {
            return Ok(Outcome::Busy { until_ms });
        }
        let until_ms = begin_ms.max(self.yard.now_ms()) + i64::from(REPAIR_SECS) * 1000;
        let row = self.row(partition, epoch, LedgerEntry::Repair { deadline_ms: until_ms }, Tally::default(), 0);
        let state = announce_repair(self.history, self.yard, row, until_ms).await?;
        if let Some(until_ms) = state.busy_until_ms {
            return Ok(Outcome::Busy { until_ms });
        }
        if let Some(&by) = state.closed_by.last().filter(|by| **by > self.rules.generation) {
            return unrepaired(&format!("generation {by} shares its raw events, and repairs it"));
        }
        let Some(sums) = self.sums(partition, epoch).await? else { return unrepaired("it is not there") };
        let finding = self.finding(&sums);
        let Some(recorded) = self.history.damage_now().await?.of(partition, epoch).cloned() else {
            return unrepaired("another process has repaired it");
        };
        let repaired = match &finding {
            None => Ok("by itself: it is again what it was when it was closed"),
            Some(finding) if self.mode == Mode::Record => return unrepaired(&finding.what),
            // What is recorded says from where it is answered now: from raw rows, until they are known to be damaged too.
            Some(finding) if finding.part == Part::Raw && recorded.finding.part != Part::Raw => {
                self.record_damage(partition, epoch, finding).await?;
                return unrepaired("it has been damaged again");
            }
            Some(finding) => {
                self.yard.sleep_until(begin_ms).await;
                let is_still = self.history.damage_now().await?.of(partition, epoch) == Some(&recorded);
                if !is_still || recorded.at_ms + HEARD_BY_ALL_MS > self.yard.now_ms() {
                    return unrepaired("it has been damaged again");
                }
                match finding.part {
                    Part::Ledger => self.rewrite_ledger(partition, &sums).await,
                    Part::Rollups => self.refill(partition, &sums, until_ms).await,
                    Part::Raw => self.rewrite_rows(partition, &sums, until_ms).await,
                }
            }
        };
        let why = match repaired {
            Ok(how) => match self.sums(partition, epoch).await?.as_ref().and_then(|sums| self.finding(sums)) {
                None => return self.say(&recorded, Record::Repaired(how.to_owned()), Outcome::Repaired(how.to_owned()), until_ms).await,
                Some(finding) => format!("it has been written again {how}, and still {}", finding.what),
            },
            Err(Unrepaired::History(error)) => return Err(error),
            Err(Unrepaired::Because(why)) => why,
        };
        if self.mode != Mode::AcceptLoss {
            return Ok(Outcome::Unrepaired(why));
        }
        self.accept_loss(&recorded, &sums, until_ms).await
    }

    /// Records the outcome of a repair, before another process may begin one. It is over what it was made for, and nothing else.
    async fn say(&self, of: &Damaged, entry: Record, outcome: Outcome, until_ms: i64) -> Result<Outcome, Error> {
        let Damaged { partition, epoch, .. } = *of;
        let change = Change { partition, epoch, entry, at_ms: self.yard.now_ms(), covers_ms: of.at_ms };
        self.history.record_change(&change, Some(until_ms)).await?;
        let is_over = self.history.damage_now().await?.of(partition, epoch).is_none();
        Ok(if is_over { outcome } else { Outcome::Unrepaired("there was not enough time, or it has been damaged again".into()) })
    }

    fn row(&self, partition: Partition, epoch: Epoch, entry: LedgerEntry, tally: Tally, fold: u64) -> LedgerRow {
        LedgerRow { generation: self.rules.generation, partition, epoch, entry, tally, fold, at_ms: self.yard.now_ms() }
    }

    fn rewrite(&self, partition: Partition, sums: &EpochSums) -> Rewrite<'_, Y> {
        let (tally, fold) = sums.closed.unwrap_or_default();
        Rewrite { clock: self.yard, history: self.history, rules: self.rules, partition, epoch: sums.epoch, tally, fold }
    }

    /// What became of the epoch's records, by its raw rows.
    async fn tally_of_rows(&self, partition: Partition, sums: &EpochSums) -> Result<Tally, Error> {
        let range = self.rules.epoch_bits.range_of(sums.epoch);
        let uncounted = self.history.uncounted(&[(partition, range)]).await?;
        let records = |of: fn(&str) -> bool| uncounted.iter().filter(|of_reason| of(&of_reason.reason)).map(|of| of.records).sum::<u64>();
        let mut tally = Tally {
            events: sums.raw.events,
            duplicates: records(|reason| reason == DUPLICATE),
            dead_letters: records(|reason| reason != DUPLICATE),
            holes: 0,
        };
        tally.holes = self.rules.epoch_bits.span().saturating_sub(tally.span());
        Ok(tally)
    }

    /// The ledger's row, from raw rows that are those which were noted.
    async fn rewrite_ledger(&self, partition: Partition, sums: &EpochSums) -> Result<&'static str, Unrepaired> {
        if sums.noted != Some(sums.raw.hash) {
            return Err(Unrepaired::Because("nothing says what it was when it was closed".into()));
        }
        let tally = self.tally_of_rows(partition, sums).await?;
        self.history.record(&self.row(partition, sums.epoch, LedgerEntry::Closed, tally, sums.raw.fold), None).await?;
        Ok("in the ledger, from raw rows")
    }

    async fn refill(&self, partition: Partition, sums: &EpochSums, until_ms: i64) -> Result<&'static str, Unrepaired> {
        if self.rewrite(partition, sums).refill(Wiped::Rollups, self.rules.views.ids(), until_ms).await? {
            Ok("from raw rows")
        } else {
            Err(Unrepaired::Because("there was not enough time".into()))
        }
    }

    /// Everything, from the topic's records, if those are what was counted.
    async fn rewrite_rows(&self, partition: Partition, sums: &EpochSums, until_ms: i64) -> Result<&'static str, Unrepaired> {
        let because = |why: &dyn std::fmt::Display| Unrepaired::Because(format!("it cannot be written again from the topic: {why}"));
        let rewrite = self.rewrite(partition, sums);
        // A repair that was cut off after it had deleted rows may have left them nowhere else by now.
        let blocks = if rewrite.is_staged().await? {
            Vec::new()
        } else {
            self.yard.confirm_log().await.map_err(|error| because(&error))?;
            self.yard.reread(partition, sums.epoch).await.map_err(|error| because(&error))?
        };
        if !rewrite.stage(&blocks, until_ms).await? {
            return Err(because(&"its records there are others than were counted, or there was not enough time"));
        }
        if let Some(noted) = sums.noted
            && self.history.staged_content(partition, rewrite.range()).await? != noted
        {
            return Err(because(&"its records there say something else than those that were counted"));
        }
        if !rewrite.put_back(until_ms).await? {
            return Err(because(&"there was not enough time"));
        }
        self.unstage(partition, rewrite.range()).await;
        Ok("from the topic")
    }

    async fn unstage(&self, partition: Partition, range: OffsetRange) {
        if let Err(error) = self.history.unstage(partition, range).await {
            tracing::warn!(%partition, %range, "what a repair has staged stays, which costs disk and nothing else: {error}");
        }
    }

    /// What raw rows have left is the epoch from here on.
    async fn accept_loss(&self, of: &Damaged, sums: &EpochSums, until_ms: i64) -> Result<Outcome, Error> {
        let partition = of.partition;
        let Some(now) = self.sums(partition, sums.epoch).await? else { return Ok(Outcome::Found) };
        let tally = self.tally_of_rows(partition, &now).await?;
        match self.refill(partition, sums, until_ms).await {
            Ok(_) => {}
            Err(Unrepaired::History(error)) => return Err(error),
            Err(Unrepaired::Because(why)) => return Ok(Outcome::Unrepaired(why)),
        }
        self.history.note_content(partition, sums.epoch, true).await?;
        self.history.record(&self.row(partition, sums.epoch, LedgerEntry::Closed, tally, now.raw.fold), None).await?;
        let before = sums.closed.map_or(0, |(tally, _)| tally.events);
        let what = format!("{} events of {before} are left", tally.events);
        self.say(of, Record::LossAccepted(what.clone()), Outcome::LossAccepted(what), until_ms).await
    }
}

/// Why an epoch is still damaged.
enum Unrepaired {
    /// History did not do it.
    History(Error),
    Because(String),
}

impl From<Error> for Unrepaired {
    fn from(error: Error) -> Self {
        Self::History(error)
    }
}

/// How often a process audits what is closed of its partitions, and whether it repairs what it finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Schedule {
    /// Within it, everything is looked at once.
    pub period: Duration,
    pub repair: bool,
}

/// Before damage that could not be repaired is looked at again.
const AGAIN_AFTER: Duration = Duration::from_secs(600);

/// Between two looks whether something is to be done.
const TICK: Duration = Duration::from_secs(1);

/// Audits what is closed of this process's partitions, round after round, until told to stop.
pub async fn audit_closed(speed: Arc<Speed>, history: Arc<dyn History>, yard: impl Yard, schedule: Schedule) {
    let (control, at_once) = (speed.control.part(), epochs_at_once(speed.rules()));
    let mode = if schedule.repair { Mode::Repair } else { Mode::Record };
    let auditor = Auditor { yard: &yard, history: &*history, rules: speed.rules(), mode };
    let (mut rounds, mut looked, mut tried) = (Rounds::default(), Instant::now(), None::<Instant>);
    while !control.is_stopping() {
        let closed = rounds.closed(&speed);
        let rest = rest(schedule.period, &closed, at_once);
        let outcome = async {
            let new = rounds.begin(&speed, &*history, at_once).await?;
            let damage = history.damage().await?;
            let damaged = damage.damaged.iter().filter(|of| closed.get(&of.partition).is_some_and(|closed| closed.contains(&of.epoch)));
            let damaged: Vec<_> = damaged.map(|of| (of.partition, of.epoch..of.epoch.next())).collect();
            let again = !damaged.is_empty() && tried.is_none_or(|tried| tried.elapsed() > AGAIN_AFTER);
            let mut due = new;
            if again {
                tried = Some(Instant::now());
                due.extend(damaged.iter().cloned());
            }
            for (partition, epochs) in due {
                audit_some(&speed, &auditor, partition, epochs).await?;
            }
            // Looks out of turn say nothing of how far the round is.
            if looked.elapsed() >= rest {
                looked = Instant::now();
                for (&partition, closed) in &closed {
                    if let Some(epochs) = rounds.take(partition, closed, at_once) {
                        audit_some(&speed, &auditor, partition, epochs.clone()).await?;
                        history.record_checked(partition, epochs.end).await?;
                    }
                }
            }
            let first = damage.damaged.first().map(|of| of.refuse().to_string()).unwrap_or_default();
            Ok::<_, Error>((!damaged.is_empty()).then(|| trouble(damaged.len(), &first)))
        };
        control.trouble(outcome.await.unwrap_or_else(|error| Some(format!("closed epochs cannot be audited: {error}"))));
        tokio::time::sleep(rest.min(TICK)).await;
    }
}

async fn audit_some<Y: Yard>(speed: &Speed, auditor: &Auditor<'_, Y>, partition: Partition, epochs: Range<Epoch>) -> Result<(), Error> {
    for Audited { epoch, finding, outcome, .. } in auditor.audit(partition, epochs.clone()).await? {
        speed.meters.found_damaged.inc();
        match outcome {
            Outcome::Found => tracing::error!(%partition, %epoch, "history is damaged: {}", finding.what),
            Outcome::Repaired(how) | Outcome::LossAccepted(how) => {
                speed.meters.repaired_closed.inc();
                tracing::warn!(%partition, %epoch, "history was damaged ({}), and has been written again {how}", finding.what);
            }
            Outcome::Busy { .. } => {}
            Outcome::Unrepaired(why) => tracing::error!(%partition, %epoch, "history is damaged: {}; {why}", finding.what),
        }
    }
    speed.meters.audited.inc_by(epochs.end.0 - epochs.start.0);
    Ok(())
}

/// Where the audits of a process's partitions are: round after round, oldest check first. Epochs close in order, and one that has
/// just been closed has just been checked.
#[derive(Debug, Default)]
struct Rounds {
    /// Where counting began, and what is looked at next.
    next: BTreeMap<Partition, (Epoch, Epoch)>,
}

/// Closed epochs of each partition: from where counting began up to the mark.
type Closed = BTreeMap<Partition, Range<Epoch>>;

impl Rounds {
    /// Takes up partitions that are new here where the last process has come to. Their newest epochs are to be looked at at once:
    /// those a power loss takes.
    async fn begin(&mut self, speed: &Speed, history: &dyn History, at_once: u64) -> Result<Vec<(Partition, Range<Epoch>)>, Error> {
        let marks: Marks = speed.marks();
        self.next.retain(|partition, _| marks.contains_key(partition));
        if marks.keys().all(|partition| self.next.contains_key(partition)) {
            return Ok(Vec::new());
        }
        let (begun, mut newest) = (history.tallies(&marks, &marks).await?.begun, Vec::new());
        for (&partition, mark) in &marks {
            if let Entry::Vacant(new) = self.next.entry(partition) {
                let start = begun.get(&partition).map_or(Epoch(0), |begun| begun.oldest_open());
                new.insert((start, history.checked(partition).await?.unwrap_or(start)));
                let end = mark.oldest_open();
                let from = Epoch(end.0.saturating_sub(at_once)).max(start);
                if from < end {
                    newest.push((partition, from..end));
                }
            }
        }
        Ok(newest)
    }

    fn closed(&self, speed: &Speed) -> Closed {
        let of = |(partition, mark): (Partition, Mark)| Some((partition, self.next.get(&partition)?.0..mark.oldest_open()));
        speed.marks().into_iter().filter_map(of).collect()
    }

    /// What is looked at next of a partition; none while nothing is closed.
    fn take(&mut self, partition: Partition, closed: &Range<Epoch>, at_once: u64) -> Option<Range<Epoch>> {
        let (_, next) = self.next.get_mut(&partition).filter(|_| !closed.is_empty())?;
        let from = if closed.contains(next) { *next } else { closed.start };
        *next = Epoch(from.0.saturating_add(at_once)).min(closed.end);
        Some(from..*next)
    }
}

/// How long the audit rests between two looks at each partition, so that all is looked at within a period.
fn rest(period: Duration, closed: &Closed, at_once: u64) -> Duration {
    let looks = closed.values().map(|epochs| epochs.end.0.saturating_sub(epochs.start.0).div_ceil(at_once)).max();
    period / u32::try_from(looks.unwrap_or_default().max(1)).unwrap_or(u32::MAX)
}

fn trouble(damaged: usize, first: &str) -> String {
    let epochs = if damaged == 1 { "one closed epoch differs".to_owned() } else { format!("{damaged} closed epochs differ") };
    format!("{epochs} from what was agreed on, and no answer comes from there: {first}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounds_go_over_all_that_is_closed_and_begin_again() {
        let (p, closed) = (Partition(0), |to| Epoch(2)..Epoch(to));
        let mut rounds = Rounds { next: BTreeMap::from([(p, (Epoch(2), Epoch(5)))]) };
        let taken: Vec<_> = (0..4).filter_map(|_| rounds.take(p, &closed(7), 2)).collect();
        assert_eq!(taken, [Epoch(5)..Epoch(7), Epoch(2)..Epoch(4), Epoch(4)..Epoch(6), Epoch(6)..Epoch(7)]);
        assert_eq!(rounds.take(p, &closed(2), 2), None);
        assert_eq!(rest(Duration::from_secs(60), &Closed::from([(p, closed(7))]), 2), Duration::from_secs(20));
    }
}
