//! Codecs: text, integers, JSON, bincode, raw bytes, and nullable forms of them.

use std::{error::Error as StdError, fmt::Display, marker::PhantomData, str::FromStr};

use ::serde::{Serialize, de::DeserializeOwned};
use serde_json::Value as JsonValue;

use crate::{BoxError, Windowed};

/// A way to write one type as bytes.
///
/// A codec is a value-less type, so that descriptors which name it can be constants. Implement it
/// for formats of your own:
///
/// ```
/// use millstream_topology::{BoxError, Codec, Topic, text};
///
/// #[derive(Clone, Copy)]
/// struct Flag;
/// impl Codec for Flag {
///     type Value = bool;
///     fn encode(value: &bool, out: &mut Vec<u8>) -> Result<(), BoxError> {
///         out.push(u8::from(*value));
///         Ok(())
///     }
///     fn decode(bytes: &[u8]) -> Result<bool, BoxError> {
///         Ok(bytes == [1])
///     }
///     fn to_json(value: &bool) -> serde_json::Value {
///         (*value).into()
///     }
///     fn parse(text: &str) -> Result<bool, BoxError> {
///         Ok(text.parse()?)
///     }
/// }
/// const SEEN: Topic<String, bool> = Topic::new("seen", text(), Flag);
/// ```
pub trait Codec: Copy + 'static {
    /// What it writes and reads.
    type Value: 'static;

    /// True when one of its values is null, so that a store cannot have it for keys. Only nullable
    /// codecs override it.
    const NULLABLE: bool = false;

    /// Appends the bytes of `value` to `out`.
    ///
    /// # Errors
    /// A value that the format cannot hold.
    fn encode(value: &Self::Value, out: &mut Vec<u8>) -> Result<(), BoxError>;

    /// Reads a value back.
    ///
    /// # Errors
    /// Bytes that this format did not write.
    fn decode(bytes: &[u8]) -> Result<Self::Value, BoxError>;

    /// The value as JSON, for people and for queries over HTTP.
    fn to_json(value: &Self::Value) -> JsonValue;

    /// Reads a value from text as it stands in a URL.
    ///
    /// # Errors
    /// Text that is no such value.
    fn parse(text: &str) -> Result<Self::Value, BoxError>;

    /// As [`encode`](Self::encode); `false` means null. Only nullable codecs override it.
    ///
    /// # Errors
    /// As [`encode`](Self::encode).
    fn encode_nullable(value: &Self::Value, out: &mut Vec<u8>) -> Result<bool, BoxError> {
        Self::encode(value, out)?;
        Ok(true)
    }

    /// As [`decode`](Self::decode) of what may be null. Only nullable codecs override it.
    ///
    /// # Errors
    /// As [`decode`](Self::decode), and null.
    fn decode_nullable(bytes: Option<&[u8]>) -> Result<Self::Value, BoxError> {
        Self::decode(bytes.ok_or("null where a value is required")?)
    }
}

/// What the compiler says of a store whose keys could be null.
pub(crate) const NULL_KEYS: &str = "a store has no null keys; take `drop_null_keys()` of the \
                                    stream, and name the store with the plain key type and its \
                                    codec";

macro_rules! codec_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        pub struct $name<T>(PhantomData<fn() -> T>);
        impl<T> Clone for $name<T> {
            fn clone(&self) -> Self {
                *self
            }
        }
        impl<T> Copy for $name<T> {}
    };
}

codec_type!(
    /// Codec of [`text`].
    Text
);
codec_type!(
    /// Codec of [`json`].
    Json
);
codec_type!(
    /// Codec of [`bincode()`].
    Bincode
);

/// UTF-8 text through `Display` and `FromStr`; order of bytes is order of text.
pub const fn text<T>() -> Text<T> {
    Text(PhantomData)
}

/// JSON through serde.
pub const fn json<T>() -> Json<T> {
    Json(PhantomData)
}

/// The compact default of internal state: one format byte, then bincode 2 in its standard
/// configuration.
///
/// Not ordered by bytes: never a key of a store that is scanned by range.
pub const fn bincode<T>() -> Bincode<T> {
    Bincode(PhantomData)
}

impl<T> Codec for Text<T>
where
    T: Display + FromStr + 'static,
    T::Err: StdError + Send + Sync + 'static,
{
    type Value = T;
    fn encode(value: &T, out: &mut Vec<u8>) -> Result<(), BoxError> {
        use std::io::Write;
        Ok(write!(out, "{value}")?)
    }
    fn decode(bytes: &[u8]) -> Result<T, BoxError> {
        Ok(std::str::from_utf8(bytes)?.parse()?)
    }
    fn to_json(value: &T) -> JsonValue {
        value.to_string().into()
    }
    fn parse(text: &str) -> Result<T, BoxError> {
        Ok(text.parse()?)
    }
}

impl<T: Serialize + DeserializeOwned + 'static> Codec for Json<T> {
    type Value = T;
    fn encode(value: &T, out: &mut Vec<u8>) -> Result<(), BoxError> {
        Ok(serde_json::to_writer(out, value)?)
    }
    fn decode(bytes: &[u8]) -> Result<T, BoxError> {
        Ok(serde_json::from_slice(bytes)?)
    }
    fn to_json(value: &T) -> JsonValue {
        json_of(value)
    }
    fn parse(text: &str) -> Result<T, BoxError> {
        parse_json(text)
    }
}

/// First byte of every value that [`bincode`] writes, so that another format can follow it one day.
const BINCODE_2_STANDARD: u8 = 1;

impl<T: Serialize + DeserializeOwned + 'static> Codec for Bincode<T> {
    type Value = T;
    fn encode(value: &T, out: &mut Vec<u8>) -> Result<(), BoxError> {
        out.push(BINCODE_2_STANDARD);
        ::bincode::serde::encode_into_std_write(value, out, ::bincode::config::standard())?;
        Ok(())
    }
    fn decode(bytes: &[u8]) -> Result<T, BoxError> {
        let Some((&BINCODE_2_STANDARD, body)) = bytes.split_first() else {
            return Err("value has an unknown format byte".into());
        };
        let config = ::bincode::config::standard();
        let (value, read) = ::bincode::serde::decode_from_slice(body, config)?;
        if read != body.len() {
            return Err("value has bytes behind its end".into());
        }
        Ok(value)
    }
    fn to_json(value: &T) -> JsonValue {
        json_of(value)
    }
    fn parse(text: &str) -> Result<T, BoxError> {
        parse_json(text)
    }
}

fn json_of<T: Serialize>(value: &T) -> JsonValue {
    serde_json::to_value(value).unwrap_or_else(|e| format!("no JSON form: {e}").into())
}

/// A URL holds `7` or `abc` rather than `"abc"`, so text that is no JSON is read as a string.
fn parse_json<T: DeserializeOwned>(text: &str) -> Result<T, BoxError> {
    match serde_json::from_str(text) {
        Ok(value) => Ok(value),
        Err(_) => Ok(serde_json::from_value(JsonValue::String(text.to_owned()))?),
    }
}

macro_rules! integer_codec {
    ($(#[$doc:meta])* $codec:ident, $make:ident, $int:ty) => {
        $(#[$doc])*
        #[derive(Clone, Copy)]
        pub struct $codec;

        $(#[$doc])*
        pub const fn $make() -> $codec {
            $codec
        }

        impl Codec for $codec {
            type Value = $int;
            fn encode(value: &$int, out: &mut Vec<u8>) -> Result<(), BoxError> {
                out.extend_from_slice(&value.to_be_bytes());
                Ok(())
            }
            fn decode(bytes: &[u8]) -> Result<$int, BoxError> {
                Ok(<$int>::from_be_bytes(bytes.try_into()?))
            }
            fn to_json(value: &$int) -> JsonValue {
                (*value).into()
            }
            fn parse(text: &str) -> Result<$int, BoxError> {
                Ok(text.parse()?)
            }
        }
    };
}

integer_codec!(
    /// Unsigned 64-bit integer, 8 bytes, big-endian.
    U64Be, u64_be, u64
);
integer_codec!(
    /// Unsigned 32-bit integer, 4 bytes, big-endian.
    U32Be, u32_be, u32
);
integer_codec!(
    /// Signed 64-bit integer, 8 bytes, big-endian, as Kafka's long serialiser. Negative numbers
    /// sort behind positive ones.
    I64Be, i64_be, i64
);

/// Codec of [`bytes()`].
#[derive(Clone, Copy)]
pub struct RawBytes;

/// Bytes as they are.
pub const fn bytes() -> RawBytes {
    RawBytes
}

impl Codec for RawBytes {
    type Value = ::bytes::Bytes;
    fn encode(value: &::bytes::Bytes, out: &mut Vec<u8>) -> Result<(), BoxError> {
        out.extend_from_slice(value);
        Ok(())
    }
    fn decode(bytes: &[u8]) -> Result<::bytes::Bytes, BoxError> {
        Ok(::bytes::Bytes::copy_from_slice(bytes))
    }
    fn to_json(value: &::bytes::Bytes) -> JsonValue {
        String::from_utf8_lossy(value).into()
    }
    fn parse(text: &str) -> Result<::bytes::Bytes, BoxError> {
        Ok(::bytes::Bytes::copy_from_slice(text.as_bytes()))
    }
}

/// Codec of [`nullable`].
#[derive(Clone, Copy)]
pub struct Nullable<C>(PhantomData<fn() -> C>);

/// `Option<T>` through a codec of `T`: null is `None`.
///
/// ```
/// use millstream_topology::{nullable, text, Topic};
/// const CLICKS: Topic<Option<String>, String> = Topic::new("clicks", nullable(text()), text());
/// ```
pub const fn nullable<C: Codec>(_codec: C) -> Nullable<C> {
    Nullable(PhantomData)
}

impl<C: Codec> Codec for Nullable<C> {
    type Value = Option<C::Value>;
    const NULLABLE: bool = true;
    fn encode(value: &Self::Value, out: &mut Vec<u8>) -> Result<(), BoxError> {
        match value {
            Some(value) => C::encode(value, out),
            None => Err("null where bytes are required".into()),
        }
    }
    fn decode(bytes: &[u8]) -> Result<Self::Value, BoxError> {
        C::decode(bytes).map(Some)
    }
    fn to_json(value: &Self::Value) -> JsonValue {
        value.as_ref().map_or(JsonValue::Null, C::to_json)
    }
    fn parse(text: &str) -> Result<Self::Value, BoxError> {
        C::parse(text).map(Some)
    }
    fn encode_nullable(value: &Self::Value, out: &mut Vec<u8>) -> Result<bool, BoxError> {
        match value {
            Some(value) => C::encode(value, out).map(|()| true),
            None => Ok(false),
        }
    }
    fn decode_nullable(bytes: Option<&[u8]>) -> Result<Self::Value, BoxError> {
        bytes.map(C::decode).transpose()
    }
}

/// Codec of [`windowed`].
#[derive(Clone, Copy)]
pub struct WindowedKey<C>(PhantomData<fn() -> C>);

/// A key with its window: the key, then start and end, 8 bytes each, big-endian.
///
/// ```
/// use millstream_topology::{text, u64_be, windowed, Topic, Windowed};
/// const PER_MINUTE: Topic<Windowed<String>, u64> =
///     Topic::new("per-minute", windowed(text()), u64_be());
/// ```
pub const fn windowed<C: Codec>(_codec: C) -> WindowedKey<C> {
    WindowedKey(PhantomData)
}

impl<C: Codec> Codec for WindowedKey<C> {
    type Value = Windowed<C::Value>;
    fn encode(value: &Self::Value, out: &mut Vec<u8>) -> Result<(), BoxError> {
        C::encode(&value.key, out)?;
        out.extend_from_slice(&value.start.to_be_bytes());
        out.extend_from_slice(&value.end.to_be_bytes());
        Ok(())
    }
    fn decode(bytes: &[u8]) -> Result<Self::Value, BoxError> {
        let short = "a windowed key is shorter than its window";
        let (rest, end) = bytes.split_last_chunk().ok_or(short)?;
        let (key, start) = rest.split_last_chunk().ok_or(short)?;
        Ok(Windowed {
            key: C::decode(key)?,
            start: i64::from_be_bytes(*start),
            end: i64::from_be_bytes(*end),
        })
    }
    fn to_json(value: &Self::Value) -> JsonValue {
        let (start, end) = (value.start, value.end);
        serde_json::json!({ "key": C::to_json(&value.key), "start": start, "end": end })
    }
    /// As [`Windowed`] is displayed: `KEY@START/END`.
    fn parse(text: &str) -> Result<Self::Value, BoxError> {
        let parts = || {
            let (key, window) = text.rsplit_once('@')?;
            let (start, end) = window.split_once('/')?;
            Some((key, start, end))
        };
        let (key, start, end) = parts().ok_or("a windowed key reads KEY@START/END")?;
        Ok(Windowed {
            key: C::parse(key)?,
            start: start.parse()?,
            end: end.parse()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Serde;

    #[track_caller]
    fn round_trip<C: Codec>(codec: C, value: C::Value)
    where
        C::Value: PartialEq + std::fmt::Debug,
    {
        let serde = Serde::of(codec);
        let mut bytes = Vec::new();
        let present = serde.encode(&value, &mut bytes).expect("encodes");
        let back = serde
            .decode(present.then_some(&bytes[..]))
            .expect("decodes");
        assert_eq!(back, value);
    }

    #[test]
    fn null_is_refused_unless_the_codec_is_nullable() {
        assert!(Serde::of(text::<String>()).decode(None).is_err());
        assert_eq!(
            Serde::of(nullable(text::<String>()))
                .decode(None)
                .expect("null"),
            None
        );
    }

    #[test]
    fn bincode_refuses_an_unknown_format_byte_and_a_long_tail() {
        assert!(Bincode::<u32>::decode(&[9, 1]).is_err());
        assert!(Bincode::<u32>::decode(&[1, 1, 0]).is_err());
        assert!(Bincode::<u32>::decode(&[]).is_err());
    }

    #[test]
    fn a_key_in_a_url_may_be_bare_text() {
        assert_eq!(Json::<String>::parse("abc").expect("text"), "abc");
        assert_eq!(Json::<u64>::parse("7").expect("number"), 7);
    }

    fn windowed_text(text: &str) -> Windowed<String> {
        WindowedKey::<Text<String>>::parse(text).expect("as it is displayed")
    }

    proptest! {
        #[test]
        fn values_survive_a_round_trip(s in ".*", n in any::<u64>(), i in any::<i64>(), o in any::<Option<i64>>()) {
            round_trip(text(), s.clone());
            round_trip(json(), s.clone());
            round_trip(bincode(), (s.clone(), n, o));
            round_trip(u64_be(), n);
            round_trip(i64_be(), i);
            round_trip(nullable(i64_be()), o);
            let window = Windowed { key: s.clone(), start: i, end: i64::MAX };
            prop_assert_eq!(&windowed_text(&window.to_string()), &window);
            round_trip(windowed(text()), window);
            round_trip(bytes(), ::bytes::Bytes::from(s));
        }
    }
}
