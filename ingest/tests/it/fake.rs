//! A topic of two partitions in memory, whose producer fails on demand.

use parking_lot::Mutex;
use std::collections::VecDeque;
use std::sync::Arc;
use tidemark_core::offset::{Offset, Partition};
use tidemark_topic::{Outgoing, Position, Producer, SendError};

/// A record as it was written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    pub key: Option<String>,
    pub payload: Vec<u8>,
    pub partition: u32,
}

/// What becomes of one record.
pub type Fate = fn(usize) -> Result<(), SendError>;

#[derive(Clone, Debug, Default)]
pub struct Topic(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    records: Vec<Record>,
    ends: [u64; 2],
    /// For the batches to come, one after the other; after them all is well.
    fates: VecDeque<Fate>,
}

impl Topic {
    /// The next batches meet these fates, by each record's index in its batch.
    pub fn failing(fates: impl IntoIterator<Item = Fate>) -> Self {
        let topic = Self::default();
        topic.0.lock().fates.extend(fates);
        topic
    }

    pub fn records(&self) -> Vec<Record> {
        self.0.lock().records.clone()
    }

    /// `key=payload` for each record, in the order of writing.
    pub fn picture(&self) -> String {
        let line = |it: &Record| {
            let payload = String::from_utf8_lossy(&it.payload);
            format!("{}={payload}", it.key.as_deref().unwrap_or("-"))
        };
        self.records().iter().map(line).collect::<Vec<_>>().join("\n")
    }
}

/// Keys of odd length go to partition 1.
fn partition_of(key: Option<&[u8]>) -> u32 {
    if key.is_some_and(|key| key.len() % 2 == 1) { 1 } else { 0 }
}

impl Producer for Topic {
    async fn send_batch(&self, records: &[Outgoing<'_>]) -> Vec<Result<Position, SendError>> {
        let mut state = self.0.lock();
        let fate = state.fates.pop_front().unwrap_or(|_| Ok(()));
        let write = |(index, record): (usize, &Outgoing<'_>)| {
            fate(index)?;
            let partition = partition_of(record.key);
            let end = &mut state.ends[partition as usize];
            let offset = Offset::new(*end);
            *end += 1;
            state.records.push(Record {
                key: record.key.map(|key| String::from_utf8_lossy(key).into_owned()),
                payload: record.payload.unwrap_or_default().to_vec(),
                partition,
            });
            let partition = Partition(partition);
            Ok(Position { partition, offset })
        };
        records.iter().enumerate().map(write).collect()
    }
}
