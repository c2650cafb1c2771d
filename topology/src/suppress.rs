//! `SuppressStore`: where a `suppress` keeps the changes that it holds back.

use std::marker::PhantomData;

use serde_json::Value as JsonValue;

use crate::{BoxError, CHANGELOG_SUFFIX, Codec, Header, Headers, KvStore};

/// The buffer of a `suppress`: the changes that it holds back, by key, with a changelog.
///
/// ```
/// use millstream_topology::{text, u64_be, windowed, SuppressStore, Windowed};
/// const WAITING: SuppressStore<Windowed<String>, u64> =
///     SuppressStore::new("waiting", windowed(text()), u64_be());
/// assert_eq!(WAITING.name(), "waiting");
/// ```
pub struct SuppressStore<K: 'static, V: 'static> {
    entries: KvStore<K, Buffered<V>>,
}

impl<K, V> Clone for SuppressStore<K, V> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<K, V> Copy for SuppressStore<K, V> {}

impl<K, V> SuppressStore<K, V> {
    /// A buffer with that name and those codecs, backed by a changelog topic.
    pub const fn new<CK, CV>(name: &'static str, _key: CK, _value: CV) -> Self
    where
        CK: Codec<Value = K>,
        CV: Codec<Value = V>,
    {
        const { assert!(!CK::NULLABLE, "{}", crate::codec::NULL_KEYS) };
        let key = BufferKey::<CK>(PhantomData);
        let value = BufferValue::<CV>(PhantomData);
        Self {
            entries: KvStore::new(name, key, value),
        }
    }

    /// The same buffer without a changelog: what it holds is lost with the machine's disk.
    pub const fn without_changelog(self) -> Self {
        Self {
            entries: self.entries.without_changelog(),
        }
    }

    /// The name, unique in a topology.
    pub const fn name(&self) -> &'static str {
        self.entries.name()
    }

    /// The name of the changelog topic in an application.
    pub fn changelog(&self, application_id: &str) -> String {
        format!("{application_id}-{}{CHANGELOG_SUFFIX}", self.name())
    }

    /// What is held back, by key. The timestamp of an entry is that of its last change.
    pub const fn entries(&self) -> KvStore<K, Buffered<V>> {
        self.entries
    }
}

/// A change that is held back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Buffered<V> {
    /// What it is ordered by, in milliseconds: the time of the first change that was held back
    /// since the key was last passed on, or the end of its window.
    pub time_ms: i64,
    /// The newest value; `None` means deleted.
    pub new: Option<V>,
    /// The value that was passed on last.
    pub prior: Option<V>,
    /// The headers of the last change.
    pub headers: Headers,
}

/// First byte of every key of a buffer. It sets them apart from the record of a changelog that
/// holds the operator's time, whose key is a zero byte.
const ENTRY: u8 = 1;

struct BufferKey<C>(PhantomData<fn() -> C>);

impl<C> Clone for BufferKey<C> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<C> Copy for BufferKey<C> {}

impl<C: Codec> Codec for BufferKey<C> {
    type Value = C::Value;

    fn encode(value: &C::Value, out: &mut Vec<u8>) -> Result<(), BoxError> {
        out.push(ENTRY);
        C::encode(value, out)
    }

    fn decode(bytes: &[u8]) -> Result<C::Value, BoxError> {
        match bytes.split_first() {
            Some((&ENTRY, key)) => C::decode(key),
            _ => Err("key of a buffer has an unknown first byte".into()),
        }
    }

    fn to_json(value: &C::Value) -> JsonValue {
        C::to_json(value)
    }

    fn parse(text: &str) -> Result<C::Value, BoxError> {
        C::parse(text)
    }
}

struct BufferValue<C>(PhantomData<fn() -> C>);

impl<C> Clone for BufferValue<C> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<C> Copy for BufferValue<C> {}

/// Buffer time (8), then the new and the prior value and the number of headers (4), then for each
/// header its name and its value. Each of the values is preceded by its length (4), or by -1 for
/// null. Integers are big-endian.
impl<C: Codec> Codec for BufferValue<C> {
    type Value = Buffered<C::Value>;

    fn encode(value: &Self::Value, out: &mut Vec<u8>) -> Result<(), BoxError> {
        out.extend_from_slice(&value.time_ms.to_be_bytes());
        push_value::<C>(value.new.as_ref(), out)?;
        push_value::<C>(value.prior.as_ref(), out)?;
        let headers = u32::try_from(value.headers.len())?;
        out.extend_from_slice(&headers.to_be_bytes());
        for header in &value.headers {
            push_bytes(Some(header.name.as_bytes()), out)?;
            push_bytes(header.value.as_deref(), out)?;
        }
        Ok(())
    }

    fn decode(mut bytes: &[u8]) -> Result<Self::Value, BoxError> {
        let rest = &mut bytes;
        let time_ms = i64::from_be_bytes(take_chunk(rest)?);
        let new = take_bytes(rest)?.map(C::decode).transpose()?;
        let prior = take_bytes(rest)?.map(C::decode).transpose()?;
        let headers = (0..u32::from_be_bytes(take_chunk(rest)?)).map(|_| {
            let name = take_bytes(rest)?.ok_or("a header has no name")?;
            let name = std::str::from_utf8(name)?.into();
            let value = take_bytes(rest)?.map(bytes::Bytes::copy_from_slice);
            Ok::<_, BoxError>(Header { name, value })
        });
        let headers = headers.collect::<Result<_, _>>()?;
        if !rest.is_empty() {
            return Err("value of a buffer has bytes behind its end".into());
        }
        Ok(Buffered {
            time_ms,
            new,
            prior,
            headers,
        })
    }

    fn to_json(value: &Self::Value) -> JsonValue {
        let json = |value: Option<&C::Value>| value.map_or(JsonValue::Null, C::to_json);
        serde_json::json!({
            "time_ms": value.time_ms,
            "new": json(value.new.as_ref()),
            "prior": json(value.prior.as_ref()),
        })
    }

    fn parse(_: &str) -> Result<Self::Value, BoxError> {
        Err("what a buffer holds has no text form".into())
    }
}

fn push_value<C: Codec>(value: Option<&C::Value>, out: &mut Vec<u8>) -> Result<(), BoxError> {
    let Some(value) = value else {
        return push_bytes(None, out);
    };
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    C::encode(value, out)?;
    let length = i32::try_from(out.len() - at - 4)?;
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
    Ok(())
}

fn push_bytes(bytes: Option<&[u8]>, out: &mut Vec<u8>) -> Result<(), BoxError> {
    let length = bytes.map_or(Ok(-1), |bytes| i32::try_from(bytes.len()))?;
    out.extend_from_slice(&length.to_be_bytes());
    out.extend_from_slice(bytes.unwrap_or_default());
    Ok(())
}

fn take_chunk<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], BoxError> {
    let (chunk, behind) = rest
        .split_first_chunk()
        .ok_or("value of a buffer is too short")?;
    *rest = behind;
    Ok(*chunk)
}

fn take_bytes<'a>(rest: &mut &'a [u8]) -> Result<Option<&'a [u8]>, BoxError> {
    let Ok(length) = usize::try_from(i32::from_be_bytes(take_chunk(rest)?)) else {
        return Ok(None);
    };
    let (bytes, behind) = rest
        .split_at_checked(length)
        .ok_or("value of a buffer is too short")?;
    *rest = behind;
    Ok(Some(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::text;

    const BUFFER: SuppressStore<String, String> = SuppressStore::new("b", text(), text());

    #[track_caller]
    fn round_trip(value: Buffered<String>) {
        let serde = BUFFER.entries().value();
        let mut bytes = Vec::new();
        assert!(serde.encode(&value, &mut bytes).expect("encodes"));
        assert_eq!(serde.decode(Some(&bytes)).expect("decodes"), value);
        bytes.push(0);
        assert!(serde.decode(Some(&bytes)).is_err(), "a tail is refused");
        for length in 0..bytes.len() - 1 {
            assert!(serde.decode(Some(&bytes[..length])).is_err(), "{length}");
        }
    }

    #[test]
    fn what_is_held_back_survives_a_round_trip() {
        let mut headers = Headers::default();
        let (time_ms, new, prior) = (7, Some(String::new()), None);
        round_trip(Buffered {
            time_ms,
            new,
            prior,
            headers: headers.clone(),
        });
        headers.push("trace", bytes::Bytes::from("7f"));
        headers.push("trace", None);
        round_trip(Buffered {
            time_ms: i64::MAX,
            new: None,
            prior: Some("é".to_owned()),
            headers,
        });
    }

    #[test]
    fn no_key_is_that_of_the_time() {
        let mut bytes = Vec::new();
        let key = BUFFER.entries().key();
        assert!(key.encode(&String::new(), &mut bytes).expect("encodes"));
        assert_eq!(bytes, [ENTRY]);
        assert_eq!(key.decode(Some(&bytes)).expect("decodes"), "");
        assert!(key.decode(Some(&[0])).is_err());
    }
}
