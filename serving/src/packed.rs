//! Answers compressed, once for all requests: what is sent again has been packed already, though its end is another one
//! each time.
//!
//! Both formats are made of blocks, and have one for bytes that are stored as they are. So the head is packed up to the
//! edge of a block, and the end follows in a stored one: the result is one gzip member, or one zstd frame.

use axum::body::Bytes;
use flate2::{Compress, Compression, Crc, FlushCompress};
use std::io::Write as _;

/// Smaller bodies are sent as they are: they fit into a packet or two anyway.
pub const SMALLEST: usize = 1024;

/// How a body is encoded, the better one first.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Coding {
    Zstd,
    Gzip,
}

impl Coding {
    pub const ALL: [Self; 2] = [Self::Zstd, Self::Gzip];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
        }
    }
}

/// A head, packed.
#[derive(Debug)]
pub enum Packed {
    Gzip { blocks: Bytes, crc: Crc },
    Zstd { blocks: Bytes },
}

impl Packed {
    /// Of a head that is not empty.
    pub fn new(head: &[u8], coding: Coding) -> Self {
        match coding {
            Coding::Gzip => gzip(head),
            Coding::Zstd => zstd(head),
        }
    }

    /// The whole body. The end is a few bytes.
    pub fn with_end(&self, end: &[u8]) -> Bytes {
        let length = u16::try_from(end.len()).expect("an end is a few bytes");
        match self {
            Self::Gzip { blocks, crc } => {
                let mut whole = Crc::new();
                whole.combine(crc);
                whole.update(end);
                let stored = [&[1], &length.to_le_bytes()[..], &(!length).to_le_bytes()].concat();
                [&**blocks, &*stored, end, &whole.sum().to_le_bytes(), &whole.amount().to_le_bytes()].concat().into()
            }
            // The header of the last block, of bytes as they are: a bit, two of kind, and the length (RFC 8878, 3.1.1.2).
            Self::Zstd { blocks } => [&**blocks, &(1 | (u32::from(length) << 3)).to_le_bytes()[..3], end].concat().into(),
        }
    }
}

/// No name, no time (RFC 1952).
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];

fn gzip(head: &[u8]) -> Packed {
    let mut crc = Crc::new();
    crc.update(head);
    let mut blocks = Vec::with_capacity(head.len() / 4 + 64);
    blocks.extend(GZIP_HEADER);
    let mut compress = Compress::new(Compression::fast(), false);
    loop {
        let left = &head[usize::try_from(compress.total_in()).unwrap_or(head.len())..];
        blocks.reserve(left.len() / 4 + 64);
        compress.compress_vec(left, &mut blocks, FlushCompress::Sync).expect("nothing is wrong with any bytes");
        // All is out when there was room to spare.
        if compress.total_in() == head.len() as u64 && blocks.len() < blocks.capacity() {
            return Packed::Gzip { blocks: blocks.into(), crc };
        }
    }
}

fn zstd(head: &[u8]) -> Packed {
    let blocks = || {
        let mut encoder = zstd::stream::write::Encoder::new(Vec::with_capacity(head.len() / 4 + 64), zstd::DEFAULT_COMPRESSION_LEVEL)?;
        encoder.write_all(head)?;
        // Up to the edge of a block; the frame is not ended.
        encoder.flush()?;
        Ok::<_, std::io::Error>(std::mem::take(encoder.get_mut()))
    };
    Packed::Zstd { blocks: blocks().expect("memory takes what is written").into() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Read as _;

    fn unpacked(body: &[u8], coding: Coding) -> Vec<u8> {
        let mut text = Vec::new();
        match coding {
            Coding::Gzip => drop(flate2::read::GzDecoder::new(body).read_to_end(&mut text).expect("a gzip member")),
            // One frame, and nothing behind it.
            Coding::Zstd => {
                let mut frame = zstd::stream::read::Decoder::new(body).expect("a decoder").single_frame();
                frame.read_to_end(&mut text).expect("a zstd frame");
                assert!(frame.finish().buffer().is_empty());
            }
        }
        text
    }

    fn check(head: &[u8], end: &[u8]) {
        for coding in [Coding::Gzip, Coding::Zstd] {
            let packed = Packed::new(head, coding);
            assert_eq!(unpacked(&packed.with_end(end), coding), [head, end].concat(), "{coding:?}");
            assert_eq!(unpacked(&packed.with_end(b"other"), coding), [head, b"other"].concat(), "{coding:?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_packed_can_be_unpacked(head in proptest::collection::vec(any::<u8>(), 1..5000), times in 1..100usize, end in "[ -~]{0,40}") {
            check(&head.repeat(times), end.as_bytes());
        }
    }

    #[test]
    fn an_answer_becomes_much_smaller() {
        let rows = (0..2000).map(|n| format!("{{\"window\":\"2013-01-01T10:15:00.000Z\",\"event_type\":\"UA\",\"count\":{n}}},"));
        let head = rows.collect::<String>();
        check(head.as_bytes(), b"}");
        for coding in [Coding::Gzip, Coding::Zstd] {
            let packed = Packed::new(head.as_bytes(), coding).with_end(b"}").len();
            assert!(packed * 8 < head.len(), "{coding:?}: {packed} of {}", head.len());
        }
    }
}
