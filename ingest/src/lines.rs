//! Reads files of lines, whatever they are packed with (⇄; blocks).

use std::cell::Cell;
use std::fs::File;
use std::io::{self, BufRead, BufReader, Cursor, Read};
use std::path::Path;
use std::rc::Rc;

/// Longest line: far above the longest event, so that ingest rejects what is too long by itself, but a file that has
/// no lines at all does not end up in memory.
const MAX_LINE_BYTES: usize = 8 * 1024 * 1024;
/// How much is read from a file at a time.
const READ_BYTES: usize = 256 * 1024;
/// zstd's own limit for long windows (`--long=31` needs more memory than a client should take).
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Why there is no next line.
#[derive(Debug, thiserror::Error)]
pub enum LineError {
    #[error("reading failed: {0}")]
    Read(#[from] io::Error),
    #[error("the line is longer than {MAX_LINE_BYTES} bytes")]
    TooLong,
}

/// The lines of a file; plain, or packed by gzip or zstd.
pub struct Lines {
    unpacked: Box<dyn BufRead>,
    read_bytes: Rc<Cell<u64>>,
}

impl std::fmt::Debug for Lines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lines").field("read_bytes", &self.read_bytes).finish_non_exhaustive()
    }
}

impl Lines {
    /// `-` is standard input.
    pub fn open(file: &Path) -> io::Result<Self> {
        if file == Path::new("-") { Self::of(io::stdin().lock()) } else { Self::of(File::open(file)?) }
    }

    fn of(source: impl Read + 'static) -> io::Result<Self> {
        let read_bytes = Rc::new(Cell::new(0));
        let unpacked = unpacked(Counted { source, counter: Rc::clone(&read_bytes) })?;
        Ok(Self { unpacked, read_bytes })
    }

    /// Reads one line, without its end (LF); false at the end of the file.
    pub fn next(&mut self, line: &mut Vec<u8>) -> Result<bool, LineError> {
        read_line(&mut self.unpacked, line)
    }

    /// Bytes of the file, as it lies on disk, that have been read since this was last asked.
    pub fn take_read_bytes(&self) -> u64 {
        self.read_bytes.take()
    }
}

/// True if there is nothing but JSON's white space.
pub fn is_blank(text: &[u8]) -> bool {
    text.iter().all(|byte| matches!(byte, b' ' | b'\t' | b'\r' | b'\n'))
}

fn read_line(lines: &mut impl BufRead, line: &mut Vec<u8>) -> Result<bool, LineError> {
    line.clear();
    let limit = MAX_LINE_BYTES + 1;
    let within = u64::try_from(limit).unwrap_or(u64::MAX);
    if lines.take(within).read_until(b'\n', line)? == 0 {
        return Ok(false);
    }
    if line.last() == Some(&b'\n') {
        line.pop();
    } else if line.len() == limit {
        return Err(LineError::TooLong);
    }
    Ok(true)
}

/// Tells how far a file has been read, below whatever unpacks it.
struct Counted<R> {
    source: R,
    counter: Rc<Cell<u64>>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(into)?;
        let bytes = u64::try_from(read).unwrap_or(u64::MAX);
        self.counter.set(self.counter.get() + bytes);
        Ok(read)
    }
}

/// Unpacks by what the file begins with, not by its name.
fn unpacked(mut source: impl Read + 'static) -> io::Result<Box<dyn BufRead>> {
    let mut magic = Vec::with_capacity(4);
    source.by_ref().take(4).read_to_end(&mut magic)?;
    let is_gzip = magic.starts_with(&[0x1f, 0x8b]);
    let is_zstd = magic == [0x28, 0xb5, 0x2f, 0xfd];
    let whole = Cursor::new(magic).chain(source);
    let whole = BufReader::with_capacity(READ_BYTES, whole);
    if is_gzip {
        let decoder = flate2::bufread::MultiGzDecoder::new(whole);
        return Ok(Box::new(BufReader::with_capacity(READ_BYTES, decoder)));
    }
    if is_zstd {
        let mut decoder = zstd::stream::read::Decoder::with_buffer(whole)?;
        decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
        return Ok(Box::new(BufReader::with_capacity(READ_BYTES, decoder)));
    }
    Ok(Box::new(whole))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_beyond_the_limit_is_an_error_and_one_at_the_limit_is_not() {
        let mut line = Vec::new();
        let longest = vec![b'x'; MAX_LINE_BYTES];
        assert!(read_line(&mut longest.as_slice(), &mut line).unwrap());
        let ended = [longest.as_slice(), b"\n"].concat();
        assert!(read_line(&mut ended.as_slice(), &mut line).unwrap());
        assert_eq!(line.len(), MAX_LINE_BYTES);
        let longer = [longest.as_slice(), b"x"].concat();
        let refused = read_line(&mut longer.as_slice(), &mut line);
        assert!(matches!(refused, Err(LineError::TooLong)));
    }
}
