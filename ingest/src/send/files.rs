//! Reads files and cuts them into batches (⇄; blocks).

use super::{Cause, Stop, name_of};
use crate::lines::{Lines, is_blank};
use std::io;
use std::path::Path;
use std::sync::Arc;

/// A batch is cut here even if it could take more events: far below what ingest takes, so that a retry costs little.
const MAX_BATCH_BYTES: usize = 8 * 1024 * 1024;
/// Some lines of a file, to be posted together.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Batch {
    pub name: Arc<str>,
    /// The number of its first line, from 1. Blank lines inside are sent along, so that ingest's indices count them.
    pub first_line: u64,
    /// Lines that are not blank.
    pub events: u64,
    pub body: Vec<u8>,
    /// Bytes of the file, as it lies on disk, that have been read since the batch before.
    pub read_bytes: u64,
}

/// A file's length; `None` where it has none, as a pipe.
pub(super) fn length(file: &Path) -> io::Result<Option<u64>> {
    if file == Path::new("-") {
        return Ok(None);
    }
    let metadata = std::fs::metadata(file)?;
    Ok(metadata.is_file().then_some(metadata.len()))
}

/// Reads a file and hands over batches of at most `most` events. False if the receiver wanted no more.
pub(super) fn read(file: &Path, most: usize, mut deliver: impl FnMut(Batch) -> bool) -> Result<bool, Stop> {
    let name = name_of(file);
    let stop = |line, cause| Stop { name: Arc::clone(&name), line, cause };
    let mut lines = Lines::open(file).map_err(|error| stop(1, Cause::Read(error.into())))?;
    let mut cutter = Cutter::new(&name, most);
    let mut line = Vec::new();
    loop {
        let number = cutter.next_line();
        let found = lines.next(&mut line).map_err(|error| stop(number, error.into()))?;
        let full = if found { cutter.add(&line) } else { cutter.finish() };
        if let Some(mut batch) = full {
            batch.read_bytes = lines.take_read_bytes();
            if !deliver(batch) {
                return Ok(false);
            }
        }
        if !found {
            return Ok(true);
        }
    }
}

/// Cuts lines into batches. Pure.
struct Cutter {
    batch: Batch,
    most: u64,
    /// Lines taken so far.
    lines: u64,
}

impl Cutter {
    fn new(name: &Arc<str>, most: usize) -> Self {
        Self { batch: Self::empty(name, 0), most: u64::try_from(most).unwrap_or(u64::MAX), lines: 0 }
    }

    fn empty(name: &Arc<str>, capacity: usize) -> Batch {
        Batch { name: Arc::clone(name), first_line: 1, events: 0, body: Vec::with_capacity(capacity), read_bytes: 0 }
    }

    /// The number of the line that comes next, from 1.
    fn next_line(&self) -> u64 {
        self.lines + 1
    }

    /// Takes a line without its end; gives the batch if it is full with it.
    fn add(&mut self, line: &[u8]) -> Option<Batch> {
        self.lines += 1;
        let blank = is_blank(line);
        if self.batch.events == 0 {
            if blank {
                return None;
            }
            self.batch.first_line = self.lines;
        }
        self.batch.events += u64::from(!blank);
        self.batch.body.extend_from_slice(if blank { b"" } else { line });
        self.batch.body.push(b'\n');
        let full = self.batch.events >= self.most || self.batch.body.len() >= MAX_BATCH_BYTES;
        if full { self.finish() } else { None }
    }

    /// What is there, if there is anything.
    fn finish(&mut self) -> Option<Batch> {
        if self.batch.events == 0 {
            return None;
        }
        let next = Self::empty(&self.batch.name, self.batch.body.len());
        Some(std::mem::replace(&mut self.batch, next))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `first_line+events` for each batch.
    fn picture(text: &str, most: usize) -> String {
        let mut cutter = Cutter::new(&"f".into(), most);
        let mut batches: Vec<_> = text.lines().filter_map(|line| cutter.add(line.as_bytes())).collect();
        batches.extend(cutter.finish());
        let all = batches.iter().map(|batch| format!("{}+{}", batch.first_line, batch.events));
        all.collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn a_batch_begins_with_an_event_and_ends_with_its_last_one_allowed() {
        assert_eq!(picture("", 2), "");
        assert_eq!(picture("\n \n", 2), "");
        assert_eq!(picture("a\nb\nc\n", 2), "1+2 3+1");
        assert_eq!(picture("a\nb\n", 2), "1+2");
        assert_eq!(picture("\n\na\n\nb\nc\n\n", 2), "3+2 6+1");
    }

    #[test]
    fn a_batch_is_cut_by_bytes_too() {
        let line = "x".repeat(MAX_BATCH_BYTES / 2);
        assert_eq!(picture(&format!("{line}\n{line}\n{line}"), 100), "1+2 3+1");
    }
}
