//! Times and sizes as people write them: `250ms`, `5s`, `64MiB`.
//!
//! A number always carries its unit: `deadline = 5` says nothing.

use std::time::Duration;

/// Units of time, largest first, in microseconds.
const TIMES: [(&str, u64); 5] =
    [("h", 3_600_000_000), ("m", 60_000_000), ("s", 1_000_000), ("ms", 1_000), ("us", 1)];

/// Units of size, largest first, in bytes; those that are written back come before their decimal neighbours.
const SIZES: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("B", 1),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
];

/// How many of [`SIZES`] are written back: powers of two and the plain byte.
const SIZES_WRITTEN: usize = 4;

/// A whole number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Size(pub(crate) u64);

/// Reads `250ms`; `None` without a unit, with a fraction, or beyond what a `u64` of microseconds holds.
pub(crate) fn read_time(text: &str) -> Option<Duration> {
    read(text, &TIMES).map(Duration::from_micros)
}

/// Reads `64MiB`; `None` without a unit, with a fraction, or beyond a `u64`.
pub(crate) fn read_size(text: &str) -> Option<Size> {
    read(text, &SIZES).map(Size)
}

/// Writes a time so that [`read_time`] gives the same one: with the largest unit that divides it.
pub(crate) fn write_time(time: Duration) -> String {
    write(u64::try_from(time.as_micros()).unwrap_or(u64::MAX), &TIMES, "s")
}

/// Writes a size so that [`read_size`] gives the same one.
pub(crate) fn write_size(size: Size) -> String {
    write(size.0, &SIZES[..SIZES_WRITTEN], "B")
}

fn read(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.find(|c: char| !c.is_ascii_digit())?;
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start();
    let (_, factor) = units.iter().find(|(name, _)| *name == unit)?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn write(value: u64, units: &[(&str, u64)], of_nothing: &str) -> String {
    if value == 0 {
        return format!("0{of_nothing}");
    }
    let unit = units.iter().find(|(_, factor)| value.is_multiple_of(*factor));
    let (name, factor) = unit.expect("the smallest unit is 1 and divides everything");
    format!("{}{name}", value / factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_with_their_unit() {
        assert_eq!(read_time("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(read_time("5s"), Some(Duration::from_secs(5)));
        assert_eq!(read_time("5 s"), Some(Duration::from_secs(5)));
        assert_eq!(read_time("2m"), Some(Duration::from_secs(120)));
        assert_eq!(read_time("1h"), Some(Duration::from_secs(3600)));
        assert_eq!(read_time("0s"), Some(Duration::ZERO));
    }

    #[test]
    fn sizes_are_read_with_their_unit() {
        assert_eq!(read_size("64MiB"), Some(Size(64 << 20)));
        assert_eq!(read_size("1GB"), Some(Size(1_000_000_000)));
        assert_eq!(read_size("512B"), Some(Size(512)));
    }

    #[test]
    fn the_invalid_neighbours_are_refused() {
        for text in
            ["", "5", "s", "-5s", "1.5s", "5sec", "5S", "99999999999999999999s", "18446744073709551615h"]
        {
            assert_eq!(read_time(text), None, "{text:?}");
        }
        for text in ["", "64", "MiB", "64mib", "64M", "-1B", "99999999999999GiB"] {
            assert_eq!(read_size(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        for micros in [0, 1, 999, 1_000, 1_500, 250_000, 5_000_000, 90_000_000, 3_600_000_000] {
            let time = Duration::from_micros(micros);
            assert_eq!(read_time(&write_time(time)), Some(time));
        }
        assert_eq!(write_time(Duration::from_millis(1500)), "1500ms");
        assert_eq!(write_size(Size(64 << 20)), "64MiB");
        assert_eq!(read_size(&write_size(Size(1000))), Some(Size(1000)));
        assert_eq!(write_size(Size(0)), "0B");
    }
}
