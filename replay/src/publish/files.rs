//! Files of events as the source of a copy (⇄; blocks): one after the other, a line or a row after the other. A file is NDJSON,
//! also packed, or Parquet, by what it begins with.
//!
//! Its position is a single one, a place: the file's number and how many of its lines are done, noted under the first
//! partition of the topic that is written to.

use super::PublishError;
use super::rows::{MAGIC, RowError, Rows, SchemaError};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tidemark_core::cut::Cut;
use tidemark_core::event::{Limits, decode};
use tidemark_core::offset::{NextOffset, Partition};
use tidemark_history::rows::RawEvent;
use tidemark_ingest::key_of;
use tidemark_ingest::lines::{LineError, Lines, is_blank};
use tidemark_topic::kafka::{Copying, Original, Source};
use tidemark_topic::now_ms;
use xxhash_rust::xxh3::xxh3_64;

/// Under which its position is noted.
const NOTED: Partition = Partition(0);
/// Lines or rows of a file that a position can tell apart, as a power of two; so many files can be, too, two times over.
const LINE_BITS: u32 = 40;
/// While lines are passed that are done, it is looked whether it is time to stop, every so many.
const LOOK_EVERY: u64 = 4096;
/// Bytes at the end of a Parquet file, where it says what is in it, by which it is known.
const FOOTER_BYTES: u64 = 64 * 1024;

/// Files that are published as if they were one.
#[derive(Debug)]
pub struct Files {
    files: Vec<File>,
    into: String,
    limits: Limits,
    begins_at: Cut,
    read: ReadBytes,
}

#[derive(Debug)]
struct File {
    path: PathBuf,
    bytes: u64,
    form: Form,
    /// Of its first line, for it may grow; of the end of a Parquet file, which does not.
    hash: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Form {
    Lines,
    Rows,
}

/// How much of the files has been read; clones share it.
#[derive(Clone, Debug)]
pub struct ReadBytes {
    read: Arc<AtomicU64>,
    all: u64,
}

impl ReadBytes {
    /// What has been read, and all there is.
    pub fn of_all(&self) -> (u64, u64) {
        (self.read.load(Ordering::Relaxed).min(self.all), self.all)
    }
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("{}: cannot be opened: {source}", file.display())]
    Open { file: PathBuf, source: std::io::Error },
    #[error("standard input cannot be published: nobody could read it again after a stop; write it into a file")]
    StandardInput,
    #[error(
        "{}:{line}: {source}; the file is broken or cut off there. Put a whole one in its place: the same command then goes on \
         from what has been committed", file.display()
    )]
    Line { file: PathBuf, line: u64, source: LineError },
    #[error("{}: {source}", file.display())]
    Schema { file: PathBuf, source: SchemaError },
    #[error("{}: row {row}: {source}", file.display())]
    Row { file: PathBuf, row: u64, source: RowError },
    #[error(
        "{}: has {lines} lines, but {published} of them have been published before: it is not the file that it was; to publish it \
         from its beginning, give another --name", file.display()
    )]
    Shorter { file: PathBuf, lines: u64, published: u64 },
}

/// How far the files have been published.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Place {
    /// The file, from 0,
    file: usize,
    /// and how many of its lines or rows are done.
    lines: u64,
}

impl Place {
    fn of(next: NextOffset) -> Self {
        let (file, lines) = (next.get() >> LINE_BITS, next.get() & ((1 << LINE_BITS) - 1));
        Self { file: usize::try_from(file).unwrap_or(usize::MAX), lines }
    }

    fn next(self) -> (Partition, NextOffset) {
        (NOTED, NextOffset::new(((self.file as u64) << LINE_BITS) + self.lines))
    }
}

impl Files {
    /// Looks at what each file begins with. `limits` say what is an event.
    pub fn open(paths: Vec<PathBuf>, into: &str, limits: Limits) -> Result<Self, FileError> {
        let files = paths.into_iter().map(File::open).collect::<Result<Vec<_>, _>>()?;
        let read = ReadBytes { read: Arc::default(), all: files.iter().map(|file| file.bytes).sum() };
        let begins_at = [(NOTED, NextOffset::ZERO)].into_iter().collect();
        Ok(Self { files, into: into.to_owned(), limits, begins_at, read })
    }

    /// What the files are called, in short: the same files are called the same.
    pub fn name(&self) -> String {
        match &*self.files {
            [file] => file.path.display().to_string(),
            files => {
                let paths: Vec<String> = files.iter().map(|file| file.path.display().to_string()).collect();
                let first = paths.first().map_or("", String::as_str);
                format!("{first} and {} more ({:016x})", paths.len().saturating_sub(1), xxh3_64(paths.join("\n").as_bytes()))
            }
        }
    }

    /// What is in the files, in short. A file of lines may grow, and be packed otherwise.
    pub fn contents(&self) -> String {
        let hashes: Vec<u8> = self.files.iter().flat_map(|file| file.hash.to_le_bytes()).collect();
        let count = self.files.len();
        format!("{count} {} of {:016x}", if count == 1 { "file" } else { "files" }, xxh3_64(&hashes))
    }

    pub(super) fn read_bytes(&self) -> ReadBytes {
        self.read.clone()
    }

    pub(super) fn place(&self, at: &Cut) -> String {
        let Place { file, lines } = Place::of(at.get(NOTED));
        match self.files.get(file) {
            Some(file) => format!("{}:{lines}", file.path.display()),
            None => "the end".to_owned(),
        }
    }

    /// Gives a Parquet file's rows behind the first `done`.
    fn give_rows(&self, number: usize, done: u64, giving: &mut Giving<'_, '_>) -> Result<bool, PublishError> {
        let File { path, bytes, .. } = &self.files[number];
        let rows = Rows::open(path).map_err(|source| FileError::Schema { file: path.clone(), source })?;
        let before = self.read.read.load(Ordering::Relaxed);
        let put = |row, event: &RawEvent| {
            self.read.read.store(before + share(*bytes, row, rows.count), Ordering::Relaxed);
            giving.put(&event.to_json(), Place { file: number, lines: row })
        };
        rows.each(done, put, |row, source| FileError::Row { file: path.clone(), row, source }.into())
    }

    /// Gives a file's lines behind the first `done`.
    fn give_lines(&self, number: usize, done: u64, giving: &mut Giving<'_, '_>) -> Result<bool, PublishError> {
        let File { path, .. } = &self.files[number];
        let mut lines = Lines::open(path).map_err(|source| FileError::Open { file: path.clone(), source })?;
        let (mut line, mut count) = (Vec::new(), 0);
        loop {
            let found = lines.next(&mut line).map_err(|source| FileError::Line { file: path.clone(), line: count + 1, source })?;
            self.read.read.fetch_add(lines.take_read_bytes(), Ordering::Relaxed);
            if !found {
                break;
            }
            count += 1;
            if count <= done {
                if count % LOOK_EVERY == 0 && !giving.copying.idle()? {
                    return Ok(false);
                }
                continue;
            }
            let text = line.strip_suffix(b"\r").unwrap_or(&line);
            let place = Place { file: number, lines: count };
            if is_blank(text) {
                giving.passed(place);
            } else if !giving.put(text, place)? {
                return Ok(false);
            }
        }
        match count < done {
            true => Err(FileError::Shorter { file: path.clone(), lines: count, published: done }.into()),
            false => Ok(true),
        }
    }
}

impl File {
    fn open(path: PathBuf) -> Result<Self, FileError> {
        if path == Path::new("-") {
            return Err(FileError::StandardInput);
        }
        let failed = |source| FileError::Open { file: path.clone(), source };
        let mut file = std::fs::File::open(&path).map_err(failed)?;
        let bytes = file.metadata().map_err(failed)?.len();
        let mut magic = Vec::new();
        (&mut file).take(MAGIC.len() as u64).read_to_end(&mut magic).map_err(failed)?;
        if magic == MAGIC {
            Rows::open(&path).map_err(|source| FileError::Schema { file: path.clone(), source })?;
            let mut footer = Vec::new();
            file.seek(SeekFrom::Start(bytes.saturating_sub(FOOTER_BYTES))).map_err(failed)?;
            file.read_to_end(&mut footer).map_err(failed)?;
            return Ok(Self { bytes, form: Form::Rows, hash: xxh3_64(&footer), path });
        }
        let mut first = Vec::new();
        let mut lines = Lines::open(&path).map_err(failed)?;
        lines.next(&mut first).map_err(|source| FileError::Line { file: path.clone(), line: 1, source })?;
        Ok(Self { bytes, form: Form::Lines, hash: xxh3_64(&first), path })
    }
}

impl Source for Files {
    type Error = PublishError;

    fn noted_under(&self) -> &str {
        &self.into
    }

    fn begins_at(&self) -> &Cut {
        &self.begins_at
    }

    fn partitions(&self) -> Option<u32> {
        None
    }

    fn give(&mut self, at: &Cut, copying: &mut Copying<'_>) -> Result<bool, PublishError> {
        let at = Place::of(at.get(NOTED));
        let mut giving = Giving { copying, limits: &self.limits, paced_by_ms: 0 };
        for number in at.file..self.files.len() {
            let before: u64 = self.files[..number].iter().map(|file| file.bytes).sum();
            self.read.read.store(before, Ordering::Relaxed);
            if number > at.file {
                giving.passed(Place { file: number, lines: 0 });
            }
            let done = if number == at.file { at.lines } else { 0 };
            let all = match self.files[number].form {
                Form::Lines => self.give_lines(number, done, &mut giving)?,
                Form::Rows => self.give_rows(number, done, &mut giving)?,
            };
            if !all {
                return Ok(false);
            }
        }
        Ok(true)
    }
}

/// Makes records of events, as ingest does: keyed by the user or the event's id, and of the time at which they are written.
struct Giving<'g, 'c> {
    copying: &'g mut Copying<'c>,
    limits: &'g Limits,
    /// The last event's time: what is none is due with it.
    paced_by_ms: i64,
}

impl Giving<'_, '_> {
    fn passed(&mut self, place: Place) {
        let (part, next) = place.next();
        self.copying.passed(part, next);
    }

    fn put(&mut self, payload: &[u8], place: Place) -> Result<bool, PublishError> {
        let event = decode(Some(payload), now_ms(), self.limits).ok();
        let is_no_event = event.is_none();
        if let Some(event) = &event {
            self.paced_by_ms = event.timestamp_ms;
        }
        let key = event.and_then(key_of);
        let record = Original {
            key: key.as_deref().map(str::as_bytes),
            payload: Some(payload),
            paced_by_ms: self.paced_by_ms,
            is_no_event,
            ..Original::before(place.next())
        };
        Ok(self.copying.put(&record)?)
    }
}

/// What `part` of `whole` comes to in bytes.
fn share(bytes: u64, part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(bytes) * u128::from(part) / u128::from(whole.max(1))).unwrap_or(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_one_position_and_comes_back() {
        for (file, lines) in [(0, 0), (0, 1), (1, 0), (3, (1 << LINE_BITS) - 1), (4_000_000, 5)] {
            let place = Place { file, lines };
            assert_eq!(Place::of(place.next().1), place);
        }
        let order = [(0, 5), (0, 6), (1, 0), (1, 1), (2, 0)].map(|(file, lines)| Place { file, lines }.next().1);
        assert!(order.is_sorted());
    }

    #[test]
    fn files_are_known_by_their_first_line_and_may_grow() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        let open = |paths: &[&PathBuf]| Files::open(paths.iter().map(|path| (*path).clone()).collect(), "t", Limits::default()).unwrap();
        std::fs::write(&one, "a\n").unwrap();
        std::fs::write(&other, "b\n").unwrap();
        let before = open(&[&one]);
        std::fs::write(&one, "a\nc\n").unwrap();
        assert_eq!(open(&[&one]).contents(), before.contents());
        assert_ne!(open(&[&other]).contents(), before.contents());
        assert_ne!(open(&[&one, &other]).contents(), open(&[&other, &one]).contents());
        assert_ne!(open(&[&one, &other]).name(), open(&[&other, &one]).name());
        assert!(matches!(Files::open(vec!["-".into()], "t", Limits::default()), Err(FileError::StandardInput)));
    }
}
