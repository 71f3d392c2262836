//! The log: per partition a list of records and holes, made up by the dice.

use crate::ground::{EPOCH_BITS, Ground, PARTITIONS, lock};
use crate::recount::{Judged, judge};
use std::sync::{Arc, Mutex, MutexGuard};
use tidemark_core::offset::{NextOffset, Offset, Partition};

/// A record as it was produced; no payload is a tombstone.
#[derive(Clone, Debug)]
pub struct Record {
    pub payload: Option<Vec<u8>>,
    pub timestamp_ms: i64,
}

/// `None` is a hole: an offset that no consumer ever sees a record at.
pub type Slot = Option<Record>;

/// One partition: the log, and the judge's opinion of it.
#[derive(Debug, Default)]
struct Slots {
    log: Vec<Slot>,
    /// Retention has removed what is below.
    start: NextOffset,
    judged: Vec<Judged>,
}

/// Clones share it.
#[derive(Clone, Debug)]
pub struct Log {
    partitions: Arc<[Mutex<Slots>; PARTITIONS as usize]>,
}

/// The instants that events fall on: two months, two days, windows that share an hour and windows that do not.
pub const INSTANTS_MS: [i64; 7] = [
    1_359_590_400_000, // 2013-01-31T00:00:00Z
    1_359_590_400_000 + 299_999,
    1_359_676_500_000, // 2013-01-31T23:55:00Z
    1_359_676_799_999, // the last of January
    1_359_676_800_000, // 2013-02-01T00:00:00Z
    1_359_680_700_000, // 2013-02-01T01:05:00Z
    1_359_695_100_000, // 2013-02-01T05:05:00Z, the next day in New York
];
pub const TYPES: [&str; 3] = ["view", "cart", "pay"];
pub const PRODUCTS: [&str; 3] = ["", "p1", "p2"];

/// How far ahead of its record an event may be (`Limits::default`).
pub const MAX_AHEAD_MS: i64 = 24 * 60 * 60 * 1000;

/// How far back a repeated id may come from: three epochs, one more than duplicates are looked for in.
const REACH: usize = 3 << EPOCH_BITS;

impl Default for Log {
    fn default() -> Self {
        Self { partitions: Arc::new(std::array::from_fn(|_| Mutex::default())) }
    }
}

impl Log {
    fn slots(&self, partition: Partition) -> MutexGuard<'_, Slots> {
        lock(&self.partitions[partition.0 as usize])
    }

    pub fn end(&self, partition: Partition) -> NextOffset {
        NextOffset::new(self.slots(partition).log.len() as u64)
    }

    pub fn start(&self, partition: Partition) -> NextOffset {
        self.slots(partition).start
    }

    /// Retention removes what is below; the recount does not forget it.
    pub fn forget(&self, partition: Partition, start: NextOffset) {
        self.slots(partition).start = start;
    }

    /// A record that the log still has.
    pub fn get(&self, partition: Partition, offset: Offset) -> Slot {
        assert!(!self.start(partition).includes(offset), "{partition}@{offset} is read, but the log has forgotten it");
        usize::try_from(offset.get()).ok().and_then(|at| self.slots(partition).log.get(at).cloned().flatten())
    }

    /// Shows the judge's opinion of a range.
    pub fn judged<T>(
        &self,
        partition: Partition,
        range: std::ops::Range<NextOffset>,
        look: impl FnOnce(&mut dyn Iterator<Item = (Offset, &Judged)>) -> T,
    ) -> T {
        let slots = self.slots(partition);
        look(
            &mut (0..)
                .map(Offset::new)
                .zip(&slots.judged)
                .filter(|(offset, _)| !range.start.includes(*offset) && range.end.includes(*offset)),
        )
    }

    pub fn append(&self, ground: &Ground) {
        let partition = Partition(u32::from(ground.chance(500)));
        let at = self.end(partition);
        let (slot, what) = match ground.below(100) {
            0..8 => (None, "hole".to_owned()),
            8..16 => {
                let record = reject(ground);
                let what = format!("reject {}", record.payload.as_deref().map_or("tombstone".into(), String::from_utf8_lossy));
                (Some(record), what)
            }
            _ => {
                let payload = self.event(ground, partition);
                let what = payload.clone();
                (Some(Record { payload: Some(payload.into_bytes()), timestamp_ms: ground.now_ms() }), what)
            }
        };
        ground.say(format_args!("log {partition}@{at}: {what}"));
        ground.count(|totals| totals.records += 1);
        let slots = &mut *self.slots(partition);
        slots.judged.push(judge(&slots.judged, &slot));
        slots.log.push(slot);
    }

    /// An event; one in five carries an id that an event of the last epochs, or of those before, carries too.
    fn event(&self, ground: &Ground, partition: Partition) -> String {
        let event_type = TYPES[ground.below(TYPES.len())];
        let timestamp = INSTANTS_MS[ground.below(INSTANTS_MS.len())];
        let end = self.end(partition).get();
        let id = match ground.below(20) {
            0 => String::new(),
            // Ids are offsets: the id of a record is that of its first bearer.
            1..5 if end > 0 => format!(r#","event_id":"e{}""#, end.saturating_sub(1 + ground.below(REACH) as u64)),
            _ => format!(r#","event_id":"e{end}""#),
        };
        let product = match PRODUCTS[ground.below(PRODUCTS.len())] {
            "" => String::new(),
            product => format!(r#","product_id":"{product}""#),
        };
        let amount = match ground.below(4) {
            0 => String::new(),
            1 => r#","order_amount":null"#.to_owned(),
            _ => format!(r#","order_amount":{}.{}"#, ground.below(90), ["5", "25", "0001", "1250"][ground.below(4)]),
        };
        format!(r#"{{"event_type":"{event_type}","timestamp":{timestamp}{id}{product}{amount}}}"#)
    }
}

fn reject(ground: &Ground) -> Record {
    let timestamp_ms = ground.now_ms();
    let payload = match ground.below(5) {
        0 => None,
        1 => Some("not json".to_owned()),
        2 => Some(format!(r#"{{"timestamp":{}}}"#, INSTANTS_MS[0])),
        3 => Some(r#"{"event_type":"view","timestamp":1000,"event_id":"e3"}"#.to_owned()),
        _ => Some(format!(r#"{{"event_type":"view","timestamp":{},"event_id":"e5"}}"#, timestamp_ms + MAX_AHEAD_MS + 1)),
    };
    Record { payload: payload.map(String::into_bytes), timestamp_ms }
}
