//! ClickHouse's own compression framing of request bodies (`decompress=1`): blocks of checksum, method, sizes, data.
//!
//! `CityHash128 (16) | method (1) | compressed size, from method on (u32) | plain size (u32) | data`

use bytes::Bytes;

use super::exception::{Exception, code};

const CHECKSUM: usize = 16;
const HEADER: usize = 9;
const METHOD_LZ4: u8 = 0x82;

/// Largest plain size of one block. Clients cut at 1 MiB or less; a forged size must not allocate more than this.
const BLOCK_LIMIT: usize = 64 << 20;

/// Unpacks `body`, to at most `limit` bytes.
pub(crate) fn unpack(body: &[u8], limit: usize) -> Result<Vec<Bytes>, Exception> {
    let mut blocks = Vec::new();
    let (mut rest, mut total) = (body, 0);
    while !rest.is_empty() {
        let (block, after) = one_block(rest)?;
        total += block.len();
        if total > limit {
            return Err(Exception::new(
                code::HTTP_BODY_TOO_LARGE,
                format!("the body unpacks to more than {limit} bytes; send fewer rows in one request"),
            ));
        }
        blocks.push(block);
        rest = after;
    }
    Ok(blocks)
}

fn one_block(bytes: &[u8]) -> Result<(Bytes, &[u8]), Exception> {
    let cut = || Exception::new(code::CANNOT_DECOMPRESS, "the body ends within a compressed block; send it whole");
    let (checksum, rest) = bytes.split_first_chunk::<CHECKSUM>().ok_or_else(cut)?;
    let header = rest.get(..HEADER).ok_or_else(cut)?;
    let size = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize;
    let (packed, plain) = (size(1), size(5));
    if packed < HEADER || plain > BLOCK_LIMIT {
        return Err(Exception::new(code::CANNOT_DECOMPRESS, "a compressed block has impossible sizes"));
    }
    let framed = rest.get(..packed).ok_or_else(cut)?;
    // ClickHouse writes the low half of the 128-bit hash first.
    if cityhash_rs::cityhash_102_128(framed).rotate_left(64) != u128::from_le_bytes(*checksum) {
        return Err(Exception::new(code::CHECKSUM_DOESNT_MATCH, "a compressed block does not have the checksum it came with"));
    }
    if header[0] != METHOD_LZ4 {
        return Err(Exception::new(code::UNKNOWN_COMPRESSION_METHOD, "only LZ4 blocks are understood here; send LZ4 or no compression"));
    }
    let block = lz4_flex::block::decompress(&framed[HEADER..], plain)
        .map_err(|error| Exception::new(code::CANNOT_DECOMPRESS, format!("a compressed block is damaged: {error}")))?;
    Ok((block.into(), &rest[packed..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pack(plain: &[u8]) -> Vec<u8> {
        let data = lz4_flex::block::compress(plain);
        let mut framed = vec![METHOD_LZ4];
        framed.extend(u32::try_from(data.len() + HEADER).unwrap().to_le_bytes());
        framed.extend(u32::try_from(plain.len()).unwrap().to_le_bytes());
        framed.extend(data);
        let mut block = cityhash_rs::cityhash_102_128(&framed).rotate_left(64).to_le_bytes().to_vec();
        block.extend(framed);
        block
    }

    #[test]
    fn blocks_unpack_in_order_and_damage_is_an_error() {
        let body = [pack(b"abc"), pack(&[7; 100_000])].concat();
        let blocks = unpack(&body, 200_000).unwrap();
        assert_eq!(blocks.concat(), [b"abc".as_slice(), &[7; 100_000]].concat());
        assert_eq!(unpack(&body, 99_000).unwrap_err().code, code::HTTP_BODY_TOO_LARGE);
        for end in 1..body.len() {
            assert!(end == pack(b"abc").len() || unpack(&body[..end], 200_000).is_err(), "cut at {end}");
        }
        for at in 0..pack(b"abc").len() {
            let mut damaged = body.clone();
            damaged[at] ^= 1;
            assert!(unpack(&damaged, 200_000).is_err(), "bit flipped in byte {at}");
        }
    }
}
