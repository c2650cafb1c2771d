//! `Time`: a length of time, as text such as `100ms`.

use std::{fmt, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// A length of time in whole milliseconds. As text it is a whole number with `ms`, `s`, `m`, `h` or
/// `d`.
///
/// ```
/// use std::time::Duration;
/// use millstream_config::Time;
/// let time: Time = "90s".parse()?;
/// assert_eq!(time.duration(), Duration::from_secs(90));
/// assert!("90".parse::<Time>().is_err(), "90 of what?");
/// # Ok::<(), millstream_config::InvalidTime>(())
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(Duration);

/// Text that is no [`Time`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not {ALLOWED}")]
pub struct InvalidTime;

const ALLOWED: &str = "a time such as 100ms, 30s, 15m, 24h or 7d";

/// Units in milliseconds. `ms` comes before the units that it ends or begins like.
const UNITS: [(&str, u64); 5] = [
    ("ms", 1),
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
];

impl Time {
    /// So many milliseconds.
    pub const fn from_millis(millis: u64) -> Self {
        Self(Duration::from_millis(millis))
    }

    /// So many seconds.
    pub const fn from_secs(secs: u64) -> Self {
        Self(Duration::from_secs(secs))
    }

    /// As the standard library has it.
    pub const fn duration(self) -> Duration {
        self.0
    }
}

impl FromStr for Time {
    type Err = InvalidTime;
    fn from_str(text: &str) -> Result<Self, InvalidTime> {
        let (number, unit) = UNITS
            .iter()
            .find_map(|(name, unit)| Some((text.strip_suffix(name)?, *unit)))
            .ok_or(InvalidTime)?;
        let number: u64 = number.trim().parse().map_err(|_| InvalidTime)?;
        number
            .checked_mul(unit)
            .map(Self::from_millis)
            .ok_or(InvalidTime)
    }
}

impl fmt::Display for Time {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        let largest_first = UNITS.iter().skip(1);
        let whole = largest_first
            .clone()
            .find(|(_, unit)| millis != 0 && millis.is_multiple_of(*unit));
        let (name, unit) = whole.unwrap_or(&("ms", 1));
        write!(f, "{}{name}", millis / unit)
    }
}

impl Serialize for Time {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Time {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl de::Visitor<'_> for Visitor {
            type Value = Time;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(ALLOWED)
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Time, E> {
                text.parse()
                    .map_err(|_| E::invalid_value(de::Unexpected::Str(text), &self))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_survive_the_way_through_text() {
        for text in ["0ms", "1ms", "1500ms", "1s", "90s", "15m", "24h", "7d"] {
            let time = text.parse::<Time>().expect("a time");
            let again = time.to_string().parse::<Time>().expect("a time");
            assert_eq!(time, again);
        }
        assert_eq!(Time::from_secs(60).to_string(), "1m");
        assert_eq!(Time::from_millis(1500).to_string(), "1500ms");
        assert_eq!("10 ms".parse(), Ok(Time::from_millis(10)));
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "ms", "1.5s", "-1s", "10", "1w", "99999999999999999999d"] {
            assert_eq!(text.parse::<Time>(), Err(InvalidTime), "{text}");
        }
    }
}
