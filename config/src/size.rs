//! `Size`: bytes, as text such as `256MiB`.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A number of bytes. As text it is a whole number with `B`, `KiB`, `MiB` or `GiB`, or a number of
/// bytes alone.
///
/// ```
/// use millstream_config::Size;
/// let size: Size = "256MiB".parse()?;
/// assert_eq!(size.bytes(), 268_435_456);
/// assert_eq!(size.to_string(), "256MiB");
/// assert!("256MB".parse::<Size>().is_err());
/// # Ok::<(), millstream_config::InvalidSize>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Size(usize);

/// Text that is no [`Size`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not {ALLOWED}")]
pub struct InvalidSize;

const ALLOWED: &str = "a size such as 512KiB, 256MiB or 2GiB";

/// Units, the largest first.
const UNITS: [(&str, usize); 4] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
];

impl Size {
    /// So many bytes.
    pub const fn from_bytes(bytes: usize) -> Self {
        Self(bytes)
    }

    /// So many times 1,048,576 bytes.
    pub const fn from_mib(mib: usize) -> Self {
        Self(mib << 20)
    }

    /// The number of bytes.
    pub const fn bytes(self) -> usize {
        self.0
    }
}

impl FromStr for Size {
    type Err = InvalidSize;
    fn from_str(text: &str) -> Result<Self, InvalidSize> {
        let (number, unit) = UNITS
            .iter()
            .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))
            .unwrap_or((text, 1));
        let number: usize = number.trim().parse().map_err(|_| InvalidSize)?;
        number.checked_mul(unit).map(Self).ok_or(InvalidSize)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = UNITS
            .iter()
            .find(|(_, unit)| self.0 != 0 && self.0.is_multiple_of(*unit));
        let (name, unit) = whole.unwrap_or(&("B", 1));
        write!(f, "{}{name}", self.0 / unit)
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Size;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(ALLOWED)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse()
                    .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
            fn visit_u64<E: de::Error>(self, bytes: u64) -> Result<Size, E> {
                let size = usize::try_from(bytes).map(Size);
                size.map_err(|_| E::invalid_value(de::Unexpected::Unsigned(bytes), &self))
            }
            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                let size = usize::try_from(bytes).map(Size);
                size.map_err(|_| E::invalid_value(de::Unexpected::Signed(bytes), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_survive_the_way_through_text() {
        for text in ["0B", "1B", "1023B", "1KiB", "1536KiB", "256MiB", "3GiB"] {
            let size = text.parse::<Size>().expect("a size");
            assert_eq!(size.to_string(), text);
        }
        assert_eq!("4096".parse(), Ok(Size::from_bytes(4096)));
        assert_eq!("2 MiB".parse(), Ok(Size::from_mib(2)));
    }

    #[test]
    fn what_is_no_size_is_refused() {
        for text in ["", "MiB", "1.5MiB", "-1", "1TB", "1mib", "99999999999GiB"] {
            assert_eq!(text.parse::<Size>(), Err(InvalidSize), "{text}");
        }
    }
}
