//! The types that the interpreter computes with: text, and keys that may carry a window.

use std::{
    collections::HashSet,
    fmt,
    sync::{LazyLock, Mutex},
};

use millstream_topology::{BoxError, Codec, Windowed};
use serde_json::Value as Json;

/// A value.
pub type Text = String;

/// A key: text, and the window of a windowed key.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Key {
    /// The key without the window.
    pub text: Text,
    /// Start and end of the window.
    pub window: Option<(i64, i64)>,
}

impl Key {
    /// A key without a window.
    pub fn plain(text: impl Into<Text>) -> Self {
        Self {
            text: text.into(),
            window: None,
        }
    }

    /// The key of a windowed table as a key of its stream.
    pub fn of_windowed(windowed: &Windowed<Self>) -> Self {
        Self {
            text: windowed.key.to_string(),
            window: Some((windowed.start, windowed.end)),
        }
    }
}

/// As functions see it: `KEY@START/END` for a windowed key.
impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.window {
            None => f.write_str(&self.text),
            Some((start, end)) => write!(f, "{}@{start}/{end}", self.text),
        }
    }
}

/// Writes a key as its text, so that keys sort as their text does; behind that of a windowed key a
/// zero byte, which text never has, and start and end.
#[derive(Clone, Copy, Debug)]
pub struct KeyCodec;

/// Separates a key's text from its window.
const SEPARATOR: u8 = 0;

impl Codec for KeyCodec {
    type Value = Key;

    fn encode(key: &Key, out: &mut Vec<u8>) -> Result<(), BoxError> {
        out.extend_from_slice(key.text.as_bytes());
        if let Some((start, end)) = key.window {
            out.push(SEPARATOR);
            out.extend_from_slice(&start.to_be_bytes());
            out.extend_from_slice(&end.to_be_bytes());
        }
        Ok(())
    }

    fn decode(bytes: &[u8]) -> Result<Key, BoxError> {
        let Some(at) = bytes.iter().position(|byte| *byte == SEPARATOR) else {
            return Ok(Key::plain(std::str::from_utf8(bytes)?));
        };
        let (start, end) = bytes[at + 1..]
            .split_first_chunk()
            .ok_or("a windowed key has a start")?;
        Ok(Key {
            text: std::str::from_utf8(&bytes[..at])?.to_owned(),
            window: Some((
                i64::from_be_bytes(*start),
                i64::from_be_bytes(end.try_into()?),
            )),
        })
    }

    fn to_json(key: &Key) -> Json {
        key.to_string().into()
    }

    fn parse(text: &str) -> Result<Key, BoxError> {
        Ok(Key::plain(text))
    }
}

/// Writes the key of a windowed table as [`KeyCodec`] writes that of its stream.
#[derive(Clone, Copy, Debug)]
pub struct WindowedKeyCodec;

impl Codec for WindowedKeyCodec {
    type Value = Windowed<Key>;

    fn encode(key: &Windowed<Key>, out: &mut Vec<u8>) -> Result<(), BoxError> {
        KeyCodec::encode(&Key::of_windowed(key), out)
    }

    fn decode(bytes: &[u8]) -> Result<Windowed<Key>, BoxError> {
        let Key { text, window } = KeyCodec::decode(bytes)?;
        let (start, end) = window.ok_or("the key has no window")?;
        let key = Key::plain(text);
        Ok(Windowed { key, start, end })
    }

    fn to_json(key: &Windowed<Key>) -> Json {
        key.to_string().into()
    }

    fn parse(_: &str) -> Result<Windowed<Key>, BoxError> {
        Err("a windowed key has no form in a URL".into())
    }
}

/// The text as a name that descriptors take. Each distinct name is kept for ever, once; scenarios
/// have few.
pub fn intern(name: &str) -> &'static str {
    static NAMES: LazyLock<Mutex<HashSet<&'static str>>> = LazyLock::new(Mutex::default);
    let mut names = NAMES.lock().expect("no panic while a name is added");
    match names.get(name) {
        Some(known) => known,
        None => {
            let kept: &'static str = Box::leak(name.into());
            names.insert(kept);
            kept
        }
    }
}
