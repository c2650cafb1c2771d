//! `Serde<T>`: how a type becomes bytes and back, as function pointers, so that descriptors are
//! `const`.

use serde_json::Value as JsonValue;

use crate::{BoxError, codec::Codec};

/// How values of `T` are written and read. Made from a [`Codec`]; users rarely name it.
///
/// A null is not a value of a plain `T`: [`decode`](Self::decode) of `None` is an error there, and
/// `T = Option<U>` with [`nullable`](crate::nullable) takes it.
pub struct Serde<T: 'static> {
    encode: fn(&T, &mut Vec<u8>) -> Result<bool, BoxError>,
    decode: fn(Option<&[u8]>) -> Result<T, BoxError>,
    to_json: fn(&T) -> JsonValue,
    parse: fn(&str) -> Result<T, BoxError>,
}

impl<T> Clone for Serde<T> {
    fn clone(&self) -> Self {
        *self
    }
}
impl<T> Copy for Serde<T> {}

impl<T> Serde<T> {
    /// The serde of a codec.
    pub const fn of<C: Codec<Value = T>>(_codec: C) -> Self {
        Self {
            encode: C::encode_nullable,
            decode: C::decode_nullable,
            to_json: C::to_json,
            parse: C::parse,
        }
    }

    /// Appends the bytes of `value` to `out`; `false` means that the value is null and nothing was
    /// written.
    ///
    /// # Errors
    /// What the codec refuses to write.
    pub fn encode(&self, value: &T, out: &mut Vec<u8>) -> Result<bool, BoxError> {
        (self.encode)(value, out)
    }

    /// Reads a value; `None` is Kafka's null.
    ///
    /// # Errors
    /// Bytes that are not a `T`, and null where `T` has none.
    pub fn decode(&self, bytes: Option<&[u8]>) -> Result<T, BoxError> {
        (self.decode)(bytes)
    }

    /// The value as JSON, for people and for queries over HTTP.
    pub fn to_json(&self, value: &T) -> JsonValue {
        (self.to_json)(value)
    }

    /// Reads a value from text as it stands in a URL.
    ///
    /// # Errors
    /// Text that is not a `T`.
    pub fn parse(&self, text: &str) -> Result<T, BoxError> {
        (self.parse)(text)
    }
}
