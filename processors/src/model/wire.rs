//! What every value of a topic has: a schema version; and times as text for people.

use chrono::{DateTime, SecondsFormat, Utc};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Schema version 1, field `v` of a value. Any other number does not decode, so that a value of a
/// later program goes to the dead letters instead of being half understood.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct V1;

impl Serialize for V1 {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(1)
    }
}

impl<'de> Deserialize<'de> for V1 {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match u32::deserialize(deserializer)? {
            1 => Ok(Self),
            v => Err(de::Error::custom(format_args!(
                "unknown schema version. v={v}"
            ))),
        }
    }
}

/// Epoch milliseconds as RFC 3339 text in UTC.
///
/// ```
/// use millstream_processors::model::rfc3339;
/// assert_eq!(rfc3339(1_483_271_606_000), "2017-01-01T11:53:26.000Z");
/// ```
pub fn rfc3339(epoch_ms: i64) -> String {
    instant(epoch_ms).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// Reads RFC 3339 text as epoch milliseconds; `None` when it is none.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    Some(DateTime::parse_from_rfc3339(text).ok()?.timestamp_millis())
}

/// Epoch milliseconds as an instant; times outside the calendar become its ends.
pub fn instant(epoch_ms: i64) -> DateTime<Utc> {
    let end = if epoch_ms < 0 {
        DateTime::<Utc>::MIN_UTC
    } else {
        DateTime::<Utc>::MAX_UTC
    };
    DateTime::from_timestamp_millis(epoch_ms).unwrap_or(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_version_one_decodes() {
        assert!(serde_json::from_str::<V1>("1").is_ok());
        for other in ["0", "2", "\"1\"", "null", "-1"] {
            assert!(serde_json::from_str::<V1>(other).is_err(), "{other}");
        }
    }

    #[test]
    fn times_survive_the_way_through_text() {
        for ms in [0, 1_483_271_606_123, 253_402_300_799_999] {
            assert_eq!(parse_rfc3339(&rfc3339(ms)), Some(ms));
        }
        assert_eq!(
            parse_rfc3339("2017-01-01T12:00:00+02:00"),
            Some(1_483_264_800_000)
        );
        assert_eq!(parse_rfc3339("yesterday"), None);
    }
}
