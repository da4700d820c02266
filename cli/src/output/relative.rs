//! Times, shares and durations as people say them.

use std::time::Duration;

/// Units of a relative time with their seconds, largest first.
const UNITS: [(&str, u64); 4] = [("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1)];

/// From how many of a unit on it is used: `119s` says more than `1m`.
const UNITS_FROM: u64 = 2;

/// How long ago, shortened: `3s`, `12m`, `5d`.
pub(crate) fn ago(elapsed: Duration) -> String {
    if elapsed < Duration::from_secs(1) {
        return "now".to_owned();
    }
    short(elapsed.as_secs())
}

/// How long until a moment in seconds since 1970; `expired` when it has passed, nothing when it is unknown.
pub(crate) fn until(moment: u64, now: u64) -> String {
    match moment {
        0 => String::new(),
        moment if moment <= now => "expired".to_owned(),
        moment => short(moment - now),
    }
}

/// A moment in seconds since 1970 as a date: `2026-11-24 10:07 UTC`.
pub(crate) fn utc(moment: u64) -> String {
    let (mut day, minute) = (moment / 86_400, moment / 60 % 1_440);
    // By whole cycles of 400 years first: what follows counts years, of which there are then few.
    let (cycles, mut year) = (day / 146_097, 1970);
    day %= 146_097;
    let is_leap = |year: u64| year.is_multiple_of(4) && !year.is_multiple_of(100) || year.is_multiple_of(400);
    let days_of = |year| if is_leap(year) { 366 } else { 365 };
    while days_of(year) <= day {
        day -= days_of(year);
        year += 1;
    }
    let february = days_of(year) - 337;
    let mut month = 1;
    for days in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if day < days {
            break;
        }
        day -= days;
        month += 1;
    }
    let year = year + 400 * cycles;
    format!("{year:04}-{month:02}-{:02} {:02}:{:02} UTC", day + 1, minute / 60, minute % 60)
}

/// How far a clock is ahead (or behind), shortened: `+12m`, `-3h`, `0s`.
pub(crate) fn ahead(ahead_ms: i64) -> String {
    match ahead_ms.unsigned_abs() / 1000 {
        0 => "0s".to_owned(),
        seconds => format!("{}{}", if 0 < ahead_ms { '+' } else { '-' }, short(seconds)),
    }
}

/// A share in percent with one digit; nothing when there is nothing to share.
pub(crate) fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return String::new();
    }
    // Counters stay far below 2^53.
    format!("{:.1}", 100.0 * part as f64 / whole as f64)
}

/// A short time in microseconds, with three digits that matter: `870us`, `1.25ms`, `31.0ms`, `2.10s`.
pub(crate) fn time_us(micros: u64) -> String {
    let scaled = |value: f64, unit: &str| {
        let decimals = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
        format!("{value:.decimals$}{unit}")
    };
    match micros {
        0..1_000 => format!("{micros}us"),
        1_000..1_000_000 => scaled(micros as f64 / 1e3, "ms"),
        _ => scaled(micros as f64 / 1e6, "s"),
    }
}

fn short(seconds: u64) -> String {
    let unit = UNITS.iter().find(|(_, size)| UNITS_FROM * size <= seconds);
    let (name, size) = unit.unwrap_or(&UNITS[UNITS.len() - 1]);
    format!("{}{name}", seconds / size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_times_use_the_largest_unit_that_still_says_something() {
        let said = |seconds| ago(Duration::from_secs(seconds));
        assert_eq!(ago(Duration::from_millis(900)), "now");
        assert_eq!(
            [said(1), said(119), said(120), said(7_199), said(7_200)],
            ["1s", "119s", "2m", "119m", "2h"]
        );
        assert_eq!(said(86_400 * 365), "365d");
    }

    #[test]
    fn what_lies_in_the_past_has_expired() {
        assert_eq!(until(0, 50), "");
        assert_eq!(until(50, 50), "expired");
        assert_eq!(until(86_400 * 30 + 50, 50), "30d");
    }

    #[test]
    fn a_moment_reads_as_a_date_in_utc() {
        assert_eq!(utc(0), "1970-01-01 00:00 UTC");
        assert_eq!(utc(1_795_514_820), "2026-11-24 10:07 UTC");
        assert_eq!([951_782_399, 951_782_400].map(utc), ["2000-02-28 23:59 UTC", "2000-02-29 00:00 UTC"]);
        assert_eq!([4_107_542_399, 4_107_542_400].map(utc), ["2100-02-28 23:59 UTC", "2100-03-01 00:00 UTC"]);
        assert_eq!(utc(1_798_761_599), "2026-12-31 23:59 UTC");
        assert!(utc(u64::MAX).ends_with("UTC"));
    }

    #[test]
    fn a_clock_that_differs_says_to_which_side() {
        let said = [0, 999, -999, 1_000, -119_000, 10_800_000].map(ahead);
        assert_eq!(said, ["0s", "0s", "0s", "+1s", "-119s", "+3h"]);
        assert!(ahead(i64::MIN).starts_with('-'));
    }

    #[test]
    fn short_times_have_three_digits() {
        let said = [0, 870, 1_250, 31_000, 310_000, 2_100_000].map(time_us);
        assert_eq!(said, ["0us", "870us", "1.25ms", "31.0ms", "310ms", "2.10s"]);
    }

    #[test]
    fn a_share_of_nothing_is_nothing() {
        assert_eq!(percent(0, 0), "");
        assert_eq!(percent(1, 3), "33.3");
    }
}
