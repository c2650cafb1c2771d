//! The end of RocksDB's journal after a power cut.
//!
//! A write goes to the journal as one record, which is synced before the next one begins. So the
//! power can cut no more than the last record; but the disk may have taken some of its pages and
//! not others, and RocksDB knows no difference between that and damage to what was acknowledged.
//!
//! A journal is a row of blocks of 32 KiB. A record lies in one fragment or more, none of which
//! crosses the end of a block: checksum (4), length (2), kind (1), for some kinds the number of the
//! journal (4), content.

use std::{
    fs::{self, OpenOptions},
    io,
    path::{Path, PathBuf},
};

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
/// The checksum is of everything from the kind on.
const CHECKED_FROM: usize = 6;

/// What a fragment is of its record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Whole,
    First,
    Middle,
    Last,
    /// Of no record of ours: what RocksDB notes about the journal.
    Note,
}

impl Kind {
    /// The kind, and the bytes of the header.
    fn of(byte: u8) -> Option<(Self, usize)> {
        const NUMBERED: usize = HEADER_BYTES + 4;
        Some(match byte {
            1 => (Self::Whole, HEADER_BYTES),
            2 => (Self::First, HEADER_BYTES),
            3 => (Self::Middle, HEADER_BYTES),
            4 => (Self::Last, HEADER_BYTES),
            5 => (Self::Whole, NUMBERED),
            6 => (Self::First, NUMBERED),
            7 => (Self::Middle, NUMBERED),
            8 => (Self::Last, NUMBERED),
            9 | 10 | 130 => (Self::Note, HEADER_BYTES),
            11 | 131 => (Self::Note, NUMBERED),
            _ => return None,
        })
    }
}

/// Cuts off the last write of the newest journal in that folder, if that is what is damaged. Tells
/// whether it was.
pub(super) fn cut_torn_end(dir: &Path) -> io::Result<bool> {
    let Some(path) = newest(dir)? else {
        return Ok(false);
    };
    let Some(end) = torn_from(&fs::read(&path)?) else {
        return Ok(false);
    };
    let journal = OpenOptions::new().write(true).open(&path)?;
    journal.set_len(end as u64)?;
    journal.sync_all()?;
    tracing::warn!(
        journal = %path.display(), end,
        "the journal's last write is torn, as after a power cut; it was not acknowledged"
    );
    Ok(true)
}

fn newest(dir: &Path) -> io::Result<Option<PathBuf>> {
    let mut newest = None;
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        let is_journal = path.extension().is_some_and(|ending| ending == "log");
        let number = path
            .file_stem()
            .and_then(|stem| stem.to_str()?.parse::<u64>().ok());
        if let Some(number) = number.filter(|_| is_journal) {
            newest = newest.max(Some((number, path)));
        }
    }
    Ok(newest.map(|(_, path)| path))
}

/// Where the last record begins, if it is damaged and all before it are whole.
fn torn_from(journal: &[u8]) -> Option<usize> {
    let mut at = 0;
    let mut record = None;
    while let Some((kind, end)) = fragment(journal, at) {
        match kind {
            Kind::First => record = Some(at),
            Kind::Whole | Kind::Last => record = None,
            Kind::Middle | Kind::Note => {}
        }
        at = end;
        let left = BLOCK_BYTES - at % BLOCK_BYTES;
        if left < HEADER_BYTES {
            at += left;
        }
    }
    if at >= journal.len() {
        // All of it is whole; that the last record has no end is no damage.
        return None;
    }
    let begins = |at: usize| {
        let begun = fragment(journal, at);
        begun.is_some_and(|(kind, _)| matches!(kind, Kind::Whole | Kind::First))
    };
    // Another record behind it was written when this one had been acknowledged.
    let is_last = !(at + 1..journal.len()).any(begins);
    is_last.then(|| record.unwrap_or(at))
}

/// The kind of the fragment at `at` and where it ends, if there is a whole one.
fn fragment(journal: &[u8], at: usize) -> Option<(Kind, usize)> {
    let header = journal.get(at..at + HEADER_BYTES)?;
    let (kind, header_bytes) = Kind::of(header[CHECKED_FROM])?;
    let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
    let end = at + header_bytes + length;
    if end > at - at % BLOCK_BYTES + BLOCK_BYTES {
        return None;
    }
    let checked = journal.get(at + CHECKED_FROM..end)?;
    let stored = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    (masked(crc32c(checked)) == stored).then_some((kind, end))
}

/// RocksDB stores checksums so, as checksums of checksums are weak.
fn masked(crc: u32) -> u32 {
    crc.rotate_right(15).wrapping_add(0xa282_ead8)
}

/// The checksum that RocksDB uses. Only ever run over a journal that is damaged, so it may be slow.
fn crc32c(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 256] = table();
    let next = |crc: u32, byte: &u8| TABLE[usize::from(crc as u8 ^ byte)] ^ (crc >> 8);
    !bytes.iter().fold(!0, next)
}

const fn table() -> [u32; 256] {
    const POLYNOMIAL: u32 = 0x82f6_3b78;
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 {
                crc >> 1 ^ POLYNOMIAL
            } else {
                crc >> 1
            };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_that_of_its_definition() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    /// A journal of records of these lengths, and where each begins.
    fn journal(lengths: &[usize]) -> (Vec<u8>, Vec<usize>) {
        let (mut journal, mut starts) = (Vec::new(), Vec::new());
        for (number, &length) in lengths.iter().enumerate() {
            let mut left = length;
            loop {
                let room = BLOCK_BYTES - journal.len() % BLOCK_BYTES;
                if room < HEADER_BYTES {
                    journal.resize(journal.len() + room, 0);
                    continue;
                }
                let is_first = left == length;
                if is_first {
                    starts.push(journal.len());
                }
                let part = left.min(room - HEADER_BYTES);
                let is_last = part == left;
                let kind = match (is_first, is_last) {
                    (true, true) => 1,
                    (true, false) => 2,
                    (false, false) => 3,
                    (false, true) => 4,
                };
                let mut checked = vec![kind];
                checked.resize(1 + part, number as u8);
                journal.extend_from_slice(&masked(crc32c(&checked)).to_le_bytes());
                journal.extend_from_slice(&(part as u16).to_le_bytes());
                journal.extend_from_slice(&checked);
                left -= part;
                if is_last {
                    break;
                }
            }
        }
        (journal, starts)
    }

    #[test]
    fn damage_in_the_last_record_alone_is_torn() {
        let (whole, starts) = journal(&[100, 40_000, 7, 100_000]);
        assert_eq!(torn_from(&whole), None);
        for at in (0..whole.len()).step_by(997) {
            let mut torn = whole.clone();
            let end = (at + 4096).min(whole.len());
            if at < starts[3] && end > starts[3] {
                // Who damages two records with one stroke may hide that there was a second.
                continue;
            }
            torn[at..end].fill(0xff);
            let wanted = (at >= starts[3]).then_some(starts[3]);
            assert_eq!(torn_from(&torn), wanted, "at={at}");
        }
    }
}
