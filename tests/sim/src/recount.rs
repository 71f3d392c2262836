//! The judge: a recount of the log from the definition, with nothing of the project's but the shape of an answer and
//! the mix of an offset.

use crate::ground::SPAN;
use crate::log::{MAX_AHEAD_MS, Slot};
use serde_json::Value;
use std::collections::BTreeMap;
use tidemark_core::amount::Amount;
use tidemark_core::cell::{Cell, fold_of};
use tidemark_core::offset::Offset;
use tidemark_core::question::Rows;

/// (bucket, values of the group), to (count, amounts, sum, min, max, fold).
pub type Counted = BTreeMap<(i64, Vec<String>), Plain>;
pub type Plain = (u64, u64, i128, Option<i64>, Option<i64>, u64);

/// What is asked, in plain terms.
#[derive(Clone, Debug, Default)]
pub struct Asked {
    /// The width of a bucket and the start of one; no width is one bucket for everything.
    pub width_ms: Option<i64>,
    pub origin_ms: i64,
    pub from_ms: Option<i64>,
    pub to_ms: Option<i64>,
    pub group_by: Vec<&'static str>,
    pub filters: Vec<(&'static str, Vec<String>)>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Hole,
    DeadLetter,
    Duplicate,
    Event,
}

/// What an offset is, and its event where it is a valid one.
#[derive(Clone, Debug)]
pub struct Judged {
    pub kind: Kind,
    event: Option<Value>,
}

fn valid(slot: &Slot) -> Option<Value> {
    let record = slot.as_ref()?;
    let event: Value = serde_json::from_slice(record.payload.as_deref()?).ok()?;
    let at = event["timestamp"].as_i64()?;
    (event["event_type"].is_string() && at >= 946_684_800_000 && at <= record.timestamp_ms + MAX_AHEAD_MS).then_some(event)
}

/// Judges the record that comes after `earlier`, all that its partition has.
pub fn judge(earlier: &[Judged], slot: &Slot) -> Judged {
    let event = valid(slot);
    let span = usize::try_from(SPAN).unwrap_or(usize::MAX);
    let horizon = (earlier.len() / span).saturating_sub(1) * span;
    let carried = |id: &Value| id.is_string() && earlier[horizon..].iter().any(|e| e.event.as_ref().is_some_and(|e| e["event_id"] == *id));
    let kind = match (slot, &event) {
        (None, _) => Kind::Hole,
        (_, None) => Kind::DeadLetter,
        (_, Some(event)) if carried(&event["event_id"]) => Kind::Duplicate,
        _ => Kind::Event,
    };
    Judged { kind, event }
}

/// Counts events of one partition into `counted`.
pub fn recount<'a>(log: impl Iterator<Item = (Offset, &'a Judged)>, asked: &Asked, counted: &mut Counted) {
    for (offset, judged) in log {
        let (Kind::Event, Some(event)) = (judged.kind, &judged.event) else { continue };
        let at = event["timestamp"].as_i64().unwrap_or_default();
        let value = |name: &str| event[name].as_str().unwrap_or_default().to_owned();
        let window = at.div_euclid(300_000) * 300_000;
        let inside = asked.from_ms.is_none_or(|from| window >= from) && asked.to_ms.is_none_or(|to| window < to);
        if !inside || !asked.filters.iter().all(|(name, wanted)| wanted.contains(&value(name))) {
            continue;
        }
        let bucket = asked.width_ms.map_or(0, |width| (at - asked.origin_ms).div_euclid(width) * width + asked.origin_ms);
        let (count, amounts, sum, min, max, fold) =
            counted.entry((bucket, asked.group_by.iter().map(|name| value(name)).collect())).or_default();
        *count += 1;
        *fold = fold.wrapping_add(fold_of(offset));
        if let Some(amount) = event["order_amount"].as_f64().map(ten_thousandths) {
            *amounts += 1;
            *sum += i128::from(amount);
            *min = Some(min.map_or(amount, |min| min.min(amount)));
            *max = Some(max.map_or(amount, |max| max.max(amount)));
        }
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the simulator's amounts are below 100, and whole after scaling")]
fn ten_thousandths(amount: f64) -> i64 {
    (amount * 10_000.0).round() as i64
}

/// An answer of the project's in the judge's terms.
pub fn plain(rows: &Rows) -> Counted {
    let of = |cell: &Cell| {
        let [min, max] = [cell.min(), cell.max()].map(|amount| amount.map(Amount::ten_thousandths));
        (cell.count, cell.amount_count, cell.sum.ten_thousandths(), min, max, cell.fold)
    };
    rows.iter().map(|(key, cell)| ((key.bucket_ms, key.values.iter().map(ToString::to_string).collect()), of(cell))).collect()
}
