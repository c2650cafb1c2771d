//! Blocks: how records of one partition lie together, in memory and on disk.
//!
//! A block is a header of [`HEADER_BYTES`] and a body of records, one behind the other:
//!
//! | at | bytes | header field, little-endian |
//! |---|---|---|
//! | 0 | 1 | format, [`FORMAT`] |
//! | 1 | 3 | zero |
//! | 4 | 4 | number of records |
//! | 8 | 8 | first offset that the block stands for |
//! | 16 | 8 | last offset that the block stands for |
//! | 24 | 8 | least timestamp |
//! | 32 | 8 | greatest timestamp |
//! | 40 | 8 | when its tombstones may go, in ms since the epoch; 0 = not compacted yet, or none |
//! | 48 | 4 | CRC-32 of the body |
//! | 52 | 4 | CRC-32 of the header before this field |
//!
//! A record is: offset gap, timestamp delta (zigzag), key length + 1, value length + 1, bytes of
//! headers (all LEB128, length 0 is null), then key, value and headers. A header is: name length,
//! value length + 1, name, value. The offset gap is 0 unless compaction removed records in front.

use std::{ops::Range, sync::Arc};

use bytes::Bytes;
use millstream_topology::Headers;

/// The version of this layout.
const FORMAT: u8 = 1;

/// The size of a block's header.
pub(super) const HEADER_BYTES: usize = 56;

/// The most bytes that the five numbers in front of a record take.
const NUMBERS_BYTES_MAX: usize = 5 * VARINT_BYTES_MAX;
const VARINT_BYTES_MAX: usize = 10;

/// What is wrong with a block.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Damage(pub &'static str);

/// A whole, immutable block. Cloning it copies no records.
#[derive(Clone, Debug)]
pub(super) struct Block {
    pub base: i64,
    pub last: i64,
    pub count: u32,
    pub max_timestamp: i64,
    /// Since when its tombstones may be dropped, in ms; 0 where no compaction has seen it.
    pub tombstones_until: i64,
    pub bytes: Bytes,
}

impl Block {
    /// Checks both checksums and reads the header.
    pub(super) fn parse(bytes: Bytes) -> Result<Self, Damage> {
        let Some((header, body)) = bytes.split_at_checked(HEADER_BYTES) else {
            return Err(Damage("block is shorter than its header"));
        };
        if crc32fast::hash(&header[..52]) != u32_at(header, 52) {
            return Err(Damage("checksum of the block's header does not match"));
        }
        if header[0] != FORMAT {
            return Err(Damage("block has an unknown format"));
        }
        if crc32fast::hash(body) != u32_at(header, 48) {
            return Err(Damage("checksum of the block's records does not match"));
        }
        Ok(Self {
            base: i64_at(header, 8),
            last: i64_at(header, 16),
            count: u32_at(header, 4),
            max_timestamp: i64_at(header, 32),
            tombstones_until: i64_at(header, 40),
            bytes,
        })
    }
}

/// Encodes records behind each other. Offsets are only known once the block is finished.
#[derive(Debug, Default)]
pub(super) struct BlockBuilder {
    /// Room for the header, then the records. Empty until the first record.
    buffer: Vec<u8>,
    count: u32,
    last_timestamp: i64,
    min_timestamp: i64,
    max_timestamp: i64,
    /// The capacity to start with: what the block before came to.
    hint: usize,
}

impl BlockBuilder {
    pub(super) fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// The size of the block so far.
    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// Appends a record `gap` offsets behind the next free one.
    pub(super) fn push(
        &mut self,
        gap: u64,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: &Headers,
    ) {
        self.begin(timestamp);
        let headers_bytes = if headers.is_empty() {
            0
        } else {
            headers_len(headers)
        };
        self.numbers(gap, timestamp, key, value, headers_bytes);
        self.buffer.extend_from_slice(key.unwrap_or_default());
        self.buffer.extend_from_slice(value.unwrap_or_default());
        if headers_bytes > 0 {
            put_headers(&mut self.buffer, headers);
        }
    }

    /// Copies a record of another block, its headers unopened.
    pub(super) fn push_raw(&mut self, gap: u64, record: &RawRecord, from: &Bytes) {
        self.begin(record.timestamp);
        let key = record.key.clone().map(|range| &from[range]);
        let value = record.value.clone().map(|range| &from[range]);
        let headers = &from[record.headers.clone()];
        self.numbers(gap, record.timestamp, key, value, headers.len());
        self.buffer.extend_from_slice(key.unwrap_or_default());
        self.buffer.extend_from_slice(value.unwrap_or_default());
        self.buffer.extend_from_slice(headers);
    }

    fn begin(&mut self, timestamp: i64) {
        if self.count == 0 {
            self.buffer.reserve(self.hint.max(HEADER_BYTES));
            self.buffer.resize(HEADER_BYTES, 0);
            self.min_timestamp = timestamp;
            self.max_timestamp = timestamp;
            self.last_timestamp = 0;
        }
        self.count += 1;
        self.min_timestamp = self.min_timestamp.min(timestamp);
        self.max_timestamp = self.max_timestamp.max(timestamp);
    }

    fn numbers(
        &mut self,
        gap: u64,
        timestamp: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers_bytes: usize,
    ) {
        let mut numbers = [0; NUMBERS_BYTES_MAX];
        let mut at = 0;
        let delta = timestamp.wrapping_sub(self.last_timestamp);
        self.last_timestamp = timestamp;
        at += put_varint(&mut numbers[at..], gap);
        at += put_varint(&mut numbers[at..], ((delta << 1) ^ (delta >> 63)) as u64);
        at += put_varint(&mut numbers[at..], key.map_or(0, |k| k.len() as u64 + 1));
        at += put_varint(&mut numbers[at..], value.map_or(0, |v| v.len() as u64 + 1));
        at += put_varint(&mut numbers[at..], headers_bytes as u64);
        self.buffer.extend_from_slice(&numbers[..at]);
    }

    /// Takes the records out; the builder is empty again and remembers the size.
    pub(super) fn take(&mut self) -> Draft {
        assert!(self.count > 0, "a draft has records");
        let mut buffer = std::mem::take(&mut self.buffer);
        if buffer.capacity() > buffer.len() + buffer.len() / 4 {
            // The block may stay in memory for long.
            buffer.shrink_to_fit();
        }
        let (header, body) = buffer.split_at_mut(HEADER_BYTES);
        header[0] = FORMAT;
        header[4..8].copy_from_slice(&self.count.to_le_bytes());
        header[24..32].copy_from_slice(&self.min_timestamp.to_le_bytes());
        header[32..40].copy_from_slice(&self.max_timestamp.to_le_bytes());
        header[48..52].copy_from_slice(&crc32fast::hash(body).to_le_bytes());
        self.hint = buffer.len() + buffer.len() / 8;
        Draft {
            count: std::mem::take(&mut self.count),
            max_timestamp: self.max_timestamp,
            buffer,
        }
    }

    /// Drops the records.
    pub(super) fn clear(&mut self) {
        self.buffer.clear();
        self.count = 0;
    }
}

/// A block that lacks nothing but its offsets, so that giving it some costs the log's writer next
/// to nothing.
#[derive(Debug)]
pub(super) struct Draft {
    pub count: u32,
    max_timestamp: i64,
    buffer: Vec<u8>,
}

impl Draft {
    pub(super) fn len(&self) -> usize {
        self.buffer.len()
    }

    /// The block of that many records in a row from `base` on.
    pub(super) fn at(self, base: i64) -> Block {
        let last = base + i64::from(self.count) - 1;
        self.spanning(base, last, 0)
    }

    /// The block that stands for all offsets from `base` to `last`, some of them removed.
    pub(super) fn spanning(mut self, base: i64, last: i64, tombstones_until: i64) -> Block {
        assert!(
            last - base + 1 >= i64::from(self.count),
            "a block has room for its records"
        );
        let header = &mut self.buffer[..HEADER_BYTES];
        header[8..16].copy_from_slice(&base.to_le_bytes());
        header[16..24].copy_from_slice(&last.to_le_bytes());
        header[40..48].copy_from_slice(&tombstones_until.to_le_bytes());
        let checksum = crc32fast::hash(&header[..52]);
        header[52..56].copy_from_slice(&checksum.to_le_bytes());
        Block {
            base,
            last,
            count: self.count,
            max_timestamp: self.max_timestamp,
            tombstones_until,
            bytes: Bytes::from(self.buffer),
        }
    }
}

/// Where the parts of a record lie within its block.
#[derive(Clone, Debug)]
pub(super) struct RawRecord {
    pub offset: i64,
    pub timestamp: i64,
    pub key: Option<Range<usize>>,
    pub value: Option<Range<usize>>,
    pub headers: Range<usize>,
}

/// Walks over the records of a block.
#[derive(Debug)]
pub(super) struct Cursor {
    pub block: Block,
    at: usize,
    left: u32,
    offset: i64,
    timestamp: i64,
}

impl Cursor {
    pub(super) fn new(block: Block) -> Self {
        Self {
            at: HEADER_BYTES,
            left: block.count,
            offset: block.base - 1,
            timestamp: 0,
            block,
        }
    }

    /// The next record; `None` at the end.
    pub(super) fn next(&mut self) -> Result<Option<RawRecord>, Damage> {
        if self.left == 0 {
            return Ok(None);
        }
        let bytes = &self.block.bytes[..];
        let mut at = self.at;
        let gap = varint(bytes, &mut at)?;
        let delta = varint(bytes, &mut at)?;
        let key = varint(bytes, &mut at)?;
        let value = varint(bytes, &mut at)?;
        let headers = varint(bytes, &mut at)?;
        let mut part = |stored: u64| -> Range<usize> {
            let start = at;
            at = at.saturating_add(stored as usize);
            start..at
        };
        let key = (key > 0).then(|| part(key - 1));
        let value = (value > 0).then(|| part(value - 1));
        let headers = part(headers);
        if at > bytes.len() {
            return Err(Damage("record is longer than its block"));
        }
        let delta = (delta >> 1) as i64 ^ -((delta & 1) as i64);
        self.offset += 1 + gap as i64;
        self.timestamp = self.timestamp.wrapping_add(delta);
        self.at = at;
        self.left -= 1;
        Ok(Some(RawRecord {
            offset: self.offset,
            timestamp: self.timestamp,
            key,
            value,
            headers,
        }))
    }
}

/// Names of headers seen lately, so that a name that repeats is made once.
#[derive(Debug, Default)]
pub(super) struct HeaderNames(Vec<Arc<str>>);

/// How many names are remembered.
const HEADER_NAMES_MAX: usize = 16;

impl HeaderNames {
    /// Decodes the headers of a record.
    pub(super) fn decode(&mut self, bytes: &Bytes, at: Range<usize>) -> Result<Headers, Damage> {
        let mut headers = Headers::default();
        let (mut at, end) = (at.start, at.end);
        while at < end {
            let name_len = varint(bytes, &mut at)? as usize;
            let value_len = varint(bytes, &mut at)?;
            let name_end = at.saturating_add(name_len);
            let value_end = name_end.saturating_add(value_len.saturating_sub(1) as usize);
            if value_end > end {
                return Err(Damage("header is longer than its record"));
            }
            let name = self.name(&bytes[at..name_end])?;
            let value = (value_len > 0).then(|| bytes.slice(name_end..value_end));
            headers.push(name, value);
            at = value_end;
        }
        Ok(headers)
    }

    fn name(&mut self, name: &[u8]) -> Result<Arc<str>, Damage> {
        if let Some(known) = self.0.iter().find(|known| known.as_bytes() == name) {
            return Ok(known.clone());
        }
        let name = str::from_utf8(name).map_err(|_| Damage("header's name is not text"))?;
        let name: Arc<str> = name.into();
        if self.0.len() == HEADER_NAMES_MAX {
            self.0.remove(0);
        }
        self.0.push(name.clone());
        Ok(name)
    }
}

fn headers_len(headers: &Headers) -> usize {
    let len = |header: &millstream_topology::Header| {
        let value = header.value.as_deref();
        varint_len(header.name.len() as u64)
            + varint_len(value.map_or(0, |v| v.len() as u64 + 1))
            + header.name.len()
            + value.map_or(0, <[u8]>::len)
    };
    headers.iter().map(len).sum()
}

fn put_headers(buffer: &mut Vec<u8>, headers: &Headers) {
    for header in headers {
        let value = header.value.as_deref();
        let mut numbers = [0; 2 * VARINT_BYTES_MAX];
        let mut at = put_varint(&mut numbers, header.name.len() as u64);
        at += put_varint(&mut numbers[at..], value.map_or(0, |v| v.len() as u64 + 1));
        buffer.extend_from_slice(&numbers[..at]);
        buffer.extend_from_slice(header.name.as_bytes());
        buffer.extend_from_slice(value.unwrap_or_default());
    }
}

/// Writes a number as LEB128 and tells how many bytes it took.
#[inline]
fn put_varint(into: &mut [u8], mut number: u64) -> usize {
    let mut at = 0;
    while number >= 0x80 {
        into[at] = number as u8 | 0x80;
        number >>= 7;
        at += 1;
    }
    into[at] = number as u8;
    at + 1
}

fn varint_len(number: u64) -> usize {
    (64 - (number | 1).leading_zeros() as usize).div_ceil(7)
}

#[inline]
fn varint(bytes: &[u8], at: &mut usize) -> Result<u64, Damage> {
    let mut number = 0;
    let mut shift = 0;
    while let Some(&byte) = bytes.get(*at) {
        *at += 1;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(number);
        }
        shift += 7;
        if shift > 63 {
            return Err(Damage("number is longer than ten bytes"));
        }
    }
    Err(Damage("block ends within a number"))
}

fn i64_at(bytes: &[u8], at: usize) -> i64 {
    let field = bytes[at..at + 8].try_into().expect("eight bytes");
    i64::from_le_bytes(field)
}

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    let field = bytes[at..at + 4].try_into().expect("four bytes");
    u32::from_le_bytes(field)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample() -> Block {
        let mut headers = Headers::default();
        headers.push("trace", Bytes::from("7f"));
        headers.push("null", None);
        let mut builder = BlockBuilder::default();
        builder.push(0, 1_000, Some(b"k"), Some(b"v"), &Headers::default());
        builder.push(3, -5, None, Some(&[9; 300]), &headers);
        builder.push(0, i64::MAX, Some(b""), None, &Headers::default());
        builder.push(0, i64::MIN, Some(b""), None, &headers);
        builder.take().spanning(10, 20, 0)
    }

    #[test]
    fn records_come_back_with_offsets_and_timestamps() {
        let block = Block::parse(sample().bytes).expect("whole");
        assert_eq!((block.base, block.last, block.count), (10, 20, 4));
        assert_eq!(block.max_timestamp, i64::MAX);
        let mut cursor = Cursor::new(block);
        let mut seen = Vec::new();
        let mut names = HeaderNames::default();
        while let Some(record) = cursor.next().expect("whole") {
            let headers = names
                .decode(&cursor.block.bytes, record.headers.clone())
                .expect("headers");
            let value = record.value.map(|range| range.len());
            seen.push((record.offset, record.timestamp, value, headers.len()));
        }
        let wanted = [
            (10, 1_000, Some(1), 0),
            (14, -5, Some(300), 2),
            (15, i64::MAX, None, 0),
            (16, i64::MIN, None, 2),
        ];
        assert_eq!(seen, wanted);
    }

    #[test]
    fn every_flipped_bit_is_noticed() {
        let block = sample();
        for bit in 0..block.bytes.len() * 8 {
            let mut bytes = block.bytes.to_vec();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(Block::parse(Bytes::from(bytes)).is_err(), "bit {bit}");
        }
        for len in 0..block.bytes.len() {
            assert!(
                Block::parse(block.bytes.slice(..len)).is_err(),
                "{len} bytes"
            );
        }
    }

    #[test]
    fn numbers_take_the_bytes_that_were_counted() {
        for shift in 0..64 {
            for number in [1 << shift, (1_u64 << shift) - 1, u64::MAX >> shift] {
                let mut bytes = [0; VARINT_BYTES_MAX];
                let len = put_varint(&mut bytes, number);
                assert_eq!(len, varint_len(number), "{number}");
                assert_eq!(varint(&bytes, &mut 0), Ok(number));
            }
        }
    }
}
