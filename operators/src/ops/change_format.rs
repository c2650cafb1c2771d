//! How changes of tables are written to a repartition topic: Kafka Streams' own format (KIP-904).

use millstream_topology::{BoxError, Change, Serde};

const OLD_ONLY: u8 = 0;
const NEW_ONLY: u8 = 1;
const BOTH: u8 = 2;
/// Bytes of the length of a new value.
const LENGTH_BYTES: usize = 4;

/// Appends a change to `out`.
pub(crate) fn encode<V>(
    serde: &Serde<V>,
    change: &Change<V>,
    out: &mut Vec<u8>,
) -> Result<(), BoxError> {
    match (&change.new, &change.old) {
        (Some(new), Some(old)) => {
            let start = out.len();
            out.extend_from_slice(&[0; LENGTH_BYTES]);
            serde.encode(new, out)?;
            let length = u32::try_from(out.len() - start - LENGTH_BYTES)?;
            out[start..start + LENGTH_BYTES].copy_from_slice(&length.to_be_bytes());
            serde.encode(old, out)?;
            out.push(BOTH);
        }
        (Some(new), None) => {
            serde.encode(new, out)?;
            out.push(NEW_ONLY);
        }
        (None, Some(old)) => {
            serde.encode(old, out)?;
            out.push(OLD_ONLY);
        }
        (None, None) => return Err("a change has a new value, an old one, or both".into()),
    }
    Ok(())
}

/// Reads a change back.
pub(crate) fn decode<V>(serde: &Serde<V>, bytes: &[u8]) -> Result<Change<V>, BoxError> {
    let value = |bytes: &[u8]| serde.decode(Some(bytes)).map(Some);
    let (flag, body) = bytes.split_last().ok_or("a change has a last byte")?;
    match *flag {
        OLD_ONLY => Ok(Change::new(None, value(body)?)),
        NEW_ONLY => Ok(Change::new(value(body)?, None)),
        BOTH => {
            let (length, body) = body
                .split_first_chunk()
                .ok_or("a change of two values has a length")?;
            let (new, old) = body
                .split_at_checked(u32::from_be_bytes(*length) as usize)
                .ok_or("a change is shorter than it says")?;
            Ok(Change::new(value(new)?, value(old)?))
        }
        _ => Err("a change has an unknown last byte".into()),
    }
}

#[cfg(test)]
mod tests {
    use millstream_topology::text;

    use super::*;

    #[track_caller]
    fn check(new: Option<&str>, old: Option<&str>, bytes: &[u8]) {
        let serde = Serde::of(text::<String>());
        let change = Change::new(new.map(str::to_owned), old.map(str::to_owned));
        let mut out = Vec::new();
        encode(&serde, &change, &mut out).expect("encodes");
        assert_eq!(out, bytes);
        assert_eq!(decode(&serde, bytes).expect("decodes"), change);
    }

    #[test]
    fn the_format_is_that_of_kafka_streams() {
        check(Some("n"), None, b"n\x01");
        check(None, Some("o"), b"o\x00");
        check(Some("n"), Some("o"), b"\0\0\0\x01no\x02");
        check(Some(""), Some(""), b"\0\0\0\0\x02");
    }

    #[test]
    fn damage_is_refused() {
        let serde = Serde::of(text::<String>());
        for bytes in [b"".as_slice(), b"x\x09", b"\0\0\x02", b"\0\0\0\x09no\x02"] {
            assert!(decode(&serde, bytes).is_err(), "{bytes:?}");
        }
    }
}
