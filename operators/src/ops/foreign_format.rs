//! Questions and answers of a foreign-key join as bytes, in Kafka Streams' version 0 of them.

use bytes::Bytes;
use millstream_topology::BoxError;

/// Murmur3 (128 bits) of a left value, by which an answer that has become outdated is told.
pub(crate) type Hash = [u8; HASH_BYTES];

const HASH_BYTES: usize = 16;
/// Kafka Streams' seed.
const SEED: u32 = 104_729;
/// Bit of the first byte that says that there is no hash, because the left row was deleted.
const NO_HASH: u8 = 0x80;
/// The version, in the other bits.
const VERSION: u8 = 0;
/// Bytes of the length of a foreign key.
const LENGTH_BYTES: usize = 4;

/// The hash of a value's bytes.
pub(crate) fn hash(mut bytes: &[u8]) -> Hash {
    let hash = murmur3::murmur3_x64_128(&mut bytes, SEED).expect("memory can be read");
    let (low, high) = (hash as u64, (hash >> 64) as u64);
    let mut out = [0; HASH_BYTES];
    out[..8].copy_from_slice(&low.to_be_bytes());
    out[8..].copy_from_slice(&high.to_be_bytes());
    out
}

/// What the right side is to do with a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Instruction {
    /// Forget the left row.
    Forget,
    /// Forget the left row, and answer that there is no partner.
    ForgetAndAnswer,
    /// Remember the left row, and answer in any case.
    Answer,
    /// Remember the left row, and answer if there is a partner.
    AnswerIfFound,
}

impl Instruction {
    fn code(self) -> u8 {
        match self {
            Self::Forget => 0,
            Self::ForgetAndAnswer => 1,
            Self::Answer => 2,
            Self::AnswerIfFound => 3,
        }
    }

    fn of(code: u8) -> Result<Self, BoxError> {
        Ok(match code {
            0 => Self::Forget,
            1 => Self::ForgetAndAnswer,
            2 => Self::Answer,
            3 => Self::AnswerIfFound,
            _ => return Err("a question has an unknown instruction".into()),
        })
    }
}

/// A question about a left row, also as it is remembered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Question {
    pub(crate) instruction: Instruction,
    /// Of the left value; `None` when the row was deleted.
    pub(crate) hash: Option<Hash>,
    /// The key of the left row.
    pub(crate) row: Bytes,
}

impl Question {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = head(&self.hash);
        out.insert(1, self.instruction.code());
        out.extend_from_slice(&self.row);
        out.into()
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, BoxError> {
        let (flags, rest) = flags(bytes)?;
        let (code, rest) = rest.split_first().ok_or(CUT_SHORT)?;
        let (hash, row) = read_hash(flags, rest)?;
        Ok(Self {
            instruction: Instruction::of(*code)?,
            hash,
            row: Bytes::copy_from_slice(row),
        })
    }
}

/// What the right side answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Answer<'a> {
    /// That of the question.
    pub(crate) hash: Option<Hash>,
    /// The right value; `None` when there is none.
    pub(crate) value: Option<&'a [u8]>,
}

/// Stands in front of a value, so that an empty one is not taken for none. Kafka Streams has
/// nothing there, and takes it for none.
const PRESENT: u8 = 1;

impl<'a> Answer<'a> {
    pub(crate) fn encode(&self) -> Bytes {
        let mut out = head(&self.hash);
        if let Some(value) = self.value {
            out.push(PRESENT);
            out.extend_from_slice(value);
        }
        out.into()
    }

    pub(crate) fn decode(bytes: &'a [u8]) -> Result<Self, BoxError> {
        let (flags, rest) = flags(bytes)?;
        let (hash, rest) = read_hash(flags, rest)?;
        let value = rest.split_first().map(|(_, value)| value);
        Ok(Self { hash, value })
    }
}

const CUT_SHORT: &str = "a record of a foreign-key join is shorter than it says";

fn head(hash: &Option<Hash>) -> Vec<u8> {
    match hash {
        Some(hash) => [&[VERSION], &hash[..]].concat(),
        None => vec![VERSION | NO_HASH],
    }
}

fn flags(bytes: &[u8]) -> Result<(u8, &[u8]), BoxError> {
    match bytes.split_first() {
        Some((flags, rest)) if flags & !NO_HASH == VERSION => Ok((*flags, rest)),
        Some(_) => Err("a record of a foreign-key join has an unknown version".into()),
        None => Err(CUT_SHORT.into()),
    }
}

fn read_hash(flags: u8, bytes: &[u8]) -> Result<(Option<Hash>, &[u8]), BoxError> {
    if flags & NO_HASH != 0 {
        return Ok((None, bytes));
    }
    let (hash, rest) = bytes.split_first_chunk().ok_or(CUT_SHORT)?;
    Ok((Some(*hash), rest))
}

/// The bytes with which the subscriptions to a foreign key begin: its length (4 bytes, big-endian),
/// and the key. The key of the left row follows.
pub(crate) fn subscriptions_of(foreign_key: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(LENGTH_BYTES + foreign_key.len());
    out.extend_from_slice(&(foreign_key.len() as u32).to_be_bytes());
    out.extend_from_slice(foreign_key);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_survive_a_round_trip() {
        for hash in [None, Some(hash(b"value"))] {
            for instruction in [
                Instruction::Forget,
                Instruction::ForgetAndAnswer,
                Instruction::Answer,
                Instruction::AnswerIfFound,
            ] {
                let row = Bytes::from_static(b"row");
                let question = Question {
                    instruction,
                    hash,
                    row,
                };
                let back = Question::decode(&question.encode()).expect("decodes");
                assert_eq!(back, question);
            }
            for value in [None, Some(&b""[..]), Some(&b"value"[..])] {
                let answer = Answer { hash, value };
                let bytes = answer.encode();
                assert_eq!(Answer::decode(&bytes).expect("decodes"), answer);
            }
        }
    }

    #[test]
    fn damage_is_refused() {
        for bytes in [
            &b""[..],
            b"\x00",
            b"\x07\x00",
            b"\x00\x02short",
            b"\x80\x09",
        ] {
            assert!(Question::decode(bytes).is_err(), "{bytes:?}");
        }
        assert!(Answer::decode(b"\x00short").is_err());
    }
}
