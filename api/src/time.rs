//! Times in JSON and in URLs.

use chrono::{DateTime, SecondsFormat};
use serde_json::Value as JsonValue;

/// Epoch milliseconds as RFC 3339 text in UTC; as the number where the calendar ends.
pub fn rfc3339(epoch_ms: i64) -> JsonValue {
    match DateTime::from_timestamp_millis(epoch_ms) {
        Some(instant) => instant.to_rfc3339_opts(SecondsFormat::Millis, true).into(),
        None => epoch_ms.into(),
    }
}

/// Reads RFC 3339 text, or epoch milliseconds, as epoch milliseconds.
///
/// ```
/// use millstream_api::parse_time;
/// assert_eq!(parse_time("2017-01-01T12:00:00+02:00"), Some(1_483_264_800_000));
/// assert_eq!(parse_time("1483264800000"), Some(1_483_264_800_000));
/// assert_eq!(parse_time("noon"), None);
/// ```
pub fn parse_time(text: &str) -> Option<i64> {
    if let Ok(ms) = text.parse() {
        return Some(ms);
    }
    // A plus that was not written as %2B arrives as a space.
    let instant = DateTime::parse_from_rfc3339(text)
        .or_else(|_| DateTime::parse_from_rfc3339(&text.replace(' ', "+")));
    instant.ok().map(|i| i.timestamp_millis())
}
