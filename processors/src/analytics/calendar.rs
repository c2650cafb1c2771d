//! Hours and days of an event time.

use chrono_tz::Tz;

use crate::model::{Day, instant};

/// One hour, in milliseconds.
pub const HOUR_MS: i64 = 60 * 60 * 1000;

/// First millisecond of the hour that holds that time; both in epoch milliseconds.
pub fn hour_of(epoch_ms: i64) -> i64 {
    epoch_ms - epoch_ms.rem_euclid(HOUR_MS)
}

/// The calendar day of a time in epoch milliseconds, as clocks in that zone show it.
///
/// ```
/// use chrono_tz::Tz;
/// use millstream_processors::analytics::day_of;
///
/// let late_evening = 1_483_228_799_000;
/// assert_eq!(day_of(late_evening, Tz::UTC).to_string(), "2016-12-31");
/// assert_eq!(day_of(late_evening, Tz::Europe__Berlin).to_string(), "2017-01-01");
/// ```
pub fn day_of(epoch_ms: i64, zone: Tz) -> Day {
    Day(instant(epoch_ms).with_timezone(&zone).date_naive())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hours_begin_at_their_first_millisecond_also_before_1970() {
        for (time, hour) in [(0, 0), (HOUR_MS - 1, 0), (HOUR_MS, HOUR_MS), (-1, -HOUR_MS)] {
            assert_eq!(hour_of(time), hour, "{time}");
        }
    }

    #[test]
    fn a_day_follows_the_zone_over_a_change_of_its_clocks() {
        let day = |ms| day_of(ms, Tz::America__New_York).to_string();
        // 2017-03-12 has 23 hours there: it ends at 04:00 UTC of the next day.
        assert_eq!(day(1_489_377_599_000), "2017-03-12");
        assert_eq!(day(1_489_377_600_000), "2017-03-13");
        assert_eq!(day(1_489_294_800_000 - 1), "2017-03-11");
        assert_eq!(day(1_489_294_800_000), "2017-03-12");
    }
}
