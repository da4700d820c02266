//! Numbers of JSON, each parsed as its own type: whole numbers stay exact, and an FP32 is rounded once.
//!
//! Most numbers of a tensor are short, and are read here with a multiplication or a division of exact numbers. What
//! that cannot decide for sure, the standard library's parser decides.

use std::num::NonZeroUsize;

/// Powers of ten that an `f64` holds exactly.
const POWERS: [f64; 23] = [
    1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18,
    1e19, 1e20, 1e21, 1e22,
];

/// Most digits that surely fit a `u64`.
const DIGITS_MAX: usize = 19;

/// The largest whole number up to which an `f64` holds every one.
const EXACT_MAX: u64 = 1 << 53;

/// How near to the middle between two FP32s an approximate `f64` decides nothing, in units of its last place: it is
/// off by less than two.
const UNSURE: u64 = 4;

/// A number as it is written: digits, power of ten, sign.
struct Written {
    negative: bool,
    /// Meaningless where there are more than [`DIGITS_MAX`] digits.
    digits: u64,
    count: usize,
    exponent: i64,
    length: NonZeroUsize,
}

/// The number that `text` begins with, as an FP32, and its length in bytes. `None` where there is no number of JSON, or
/// none that FP32 reaches.
pub(super) fn fp32(text: &[u8]) -> Option<(f32, NonZeroUsize)> {
    let written = written(text)?;
    let value = match written.near_fp32() {
        Some(value) if written.negative => -value,
        Some(value) => value,
        None => token(text, written.length)?.parse().ok()?,
    };
    value.is_finite().then_some((value, written.length))
}

/// The same as an FP64.
pub(super) fn fp64(text: &[u8]) -> Option<(f64, NonZeroUsize)> {
    let written = written(text)?;
    let value: f64 = match written.approximate() {
        Some(value) if written.digits <= EXACT_MAX => {
            if written.negative {
                -value
            } else {
                value
            }
        }
        _ => token(text, written.length)?.parse().ok()?,
    };
    value.is_finite().then_some((value, written.length))
}

/// The whole number that `text` begins with. `None` where it is none of this type, or written with a point or a power.
pub(super) fn whole<T: TryFrom<i64> + TryFrom<u64>>(text: &[u8]) -> Option<(T, NonZeroUsize)> {
    let negative = text.first() == Some(&b'-');
    let start = usize::from(negative);
    let (digits, end) = digits(text, start, 0);
    if !is_whole(text, start, end) || matches!(text.get(end), Some(b'.' | b'e' | b'E')) {
        return None;
    }
    let digits = match end - start {
        0..=DIGITS_MAX => digits,
        _ => std::str::from_utf8(&text[start..end]).ok()?.parse().ok()?,
    };
    let value = match negative {
        true => T::try_from(0_i64.checked_sub_unsigned(digits)?).ok()?,
        false => T::try_from(digits).ok()?,
    };
    Some((value, NonZeroUsize::new(end)?))
}

/// Whether these digits are a whole number of JSON: there are some, and a zero only stands alone.
fn is_whole(text: &[u8], start: usize, end: usize) -> bool {
    start < end && (end - start == 1 || text[start] != b'0')
}

fn written(text: &[u8]) -> Option<Written> {
    let negative = text.first() == Some(&b'-');
    let start = usize::from(negative);
    let (mut value, mut at) = digits(text, start, 0);
    if !is_whole(text, start, at) {
        return None;
    }
    let (mut count, mut exponent) = (at - start, 0_i64);
    if text.get(at) == Some(&b'.') {
        let from = at + 1;
        (value, at) = digits(text, from, value);
        let fraction = at - from;
        if fraction == 0 {
            return None;
        }
        (count, exponent) = (count + fraction, -i64::try_from(fraction).ok()?);
    }
    if let Some(b'e' | b'E') = text.get(at) {
        let below = text.get(at + 1) == Some(&b'-');
        let from = at + 1 + usize::from(matches!(text.get(at + 1), Some(b'-' | b'+')));
        let (power, end) = digits(text, from, 0);
        if end == from {
            return None;
        }
        // Further digits only lead further away from what is read here.
        let power = if DIGITS_MAX < end - from { i64::MAX } else { i64::try_from(power).unwrap_or(i64::MAX) };
        exponent = exponent.saturating_add(if below { -power } else { power });
        at = end;
    }
    Some(Written { negative, digits: value, count, exponent, length: NonZeroUsize::new(at)? })
}

impl Written {
    /// The number without its sign, off by less than two units in the last place; exact where its digits are.
    #[expect(clippy::cast_precision_loss, reason = "this is what it is off by")]
    fn approximate(&self) -> Option<f64> {
        if DIGITS_MAX < self.count {
            return None;
        }
        let power = *POWERS.get(usize::try_from(self.exponent.unsigned_abs()).ok()?)?;
        let digits = self.digits as f64;
        Some(if self.exponent < 0 { digits / power } else { digits * power })
    }

    /// The nearest FP32 of the number without its sign, where it is known for sure.
    #[expect(clippy::cast_possible_truncation, reason = "to the nearest one")]
    fn near_fp32(&self) -> Option<f32> {
        /// The bits that an FP64 has more than an FP32.
        const MORE: u64 = (1 << 29) - 1;
        const MIDDLE: u64 = 1 << 28;
        let value = self.approximate()?;
        if self.digits == 0 {
            return Some(0.0);
        }
        let sure = UNSURE < (value.to_bits() & MORE).abs_diff(MIDDLE)
            && f64::from(f32::MIN_POSITIVE) <= value
            && value < f64::from(f32::MAX);
        sure.then_some(value as f32)
    }
}

/// Reads digits from `at` on behind those of `value`, and says where they end.
#[inline(always)]
fn digits(text: &[u8], mut at: usize, mut value: u64) -> (u64, usize) {
    while let Some(eight) = text.get(at..).and_then(eight) {
        value = value.wrapping_mul(100_000_000).wrapping_add(eight);
        at += 8;
    }
    while let Some(digit) = text.get(at).map(|byte| byte.wrapping_sub(b'0')).filter(|digit| *digit < 10) {
        value = value.wrapping_mul(10).wrapping_add(u64::from(digit));
        at += 1;
    }
    (value, at)
}

/// The number that eight digits make, all at once: pairs, then fours, then eight.
#[inline(always)]
fn eight(text: &[u8]) -> Option<u64> {
    let bytes = u64::from_le_bytes(*text.first_chunk()?);
    let values = bytes.wrapping_sub(0x3030_3030_3030_3030);
    // A byte above '9' sets its high bit in the sum, one below '0' in the difference.
    if (bytes.wrapping_add(0x4646_4646_4646_4646) | values) & 0x8080_8080_8080_8080 != 0 {
        return None;
    }
    let pairs = values.wrapping_mul(10).wrapping_add(values >> 8);
    let even = (pairs & 0x0000_00ff_0000_00ff).wrapping_mul(100 + (1_000_000 << 32));
    let odd = ((pairs >> 16) & 0x0000_00ff_0000_00ff).wrapping_mul(1 + (10_000 << 32));
    Some(even.wrapping_add(odd) >> 32)
}

fn token(text: &[u8], length: NonZeroUsize) -> Option<&str> {
    std::str::from_utf8(text.get(..length.get())?).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_is_no_number_of_json_is_none() {
        for wrong in
            ["", "-", "+1", "01", "-01", ".5", "1.", "1.e5", "1e", "1e+", "e5", "NaN", "Infinity", "x"]
        {
            assert_eq!(fp32(wrong.as_bytes()), None, "{wrong}");
            assert_eq!(fp64(wrong.as_bytes()), None, "{wrong}");
        }
        for wrong in
            ["", "-", "+1", "01", "-01", "1.0", "1e3", "x", "18446744073709551616", "99999999999999999999999"]
        {
            assert_eq!(whole::<u64>(wrong.as_bytes()), None, "{wrong}");
        }
        assert_eq!(whole::<i64>(b"9223372036854775808"), None);
        assert_eq!(whole::<i64>(b"-9223372036854775809"), None);
        assert_eq!(whole::<i8>(b"-129"), None);
    }

    #[test]
    fn the_largest_and_the_smallest_are_exact() {
        assert_eq!(
            whole(b"18446744073709551615,").map(|(value, length)| (value, length.get())),
            Some((u64::MAX, 20))
        );
        assert_eq!(whole(b"-9223372036854775808").map(|(value, _)| value), Some(i64::MIN));
        assert_eq!(whole(b"-0").map(|(value, _)| value), Some(0_u8));
        assert_eq!(whole(b"9007199254740993").map(|(value, _)| value), Some(9_007_199_254_740_993_i64));
    }

    /// Numbers at which rounding is decided by the last digit.
    #[test]
    fn numbers_at_the_border_are_rounded_as_the_standard_library_does() {
        for text in [
            "16777217",
            "16777217.0000000001",
            "16777216.9999999999",
            "3.4028235e38",
            "3.4028236e38",
            "3.5e38",
            "1.17549435e-38",
            "1.1754942e-38",
            "1e-45",
            "7e-46",
            "1e-400",
            "1e400",
            "0e999999999999999999999",
            "0.50000002980232238769531250",
            "8388608.5",
            "8388609.5",
            "9007199254740993e-7",
            "123456789012345678901234",
            "1e22",
            "1e23",
            "5e-324",
            "2.2250738585072011e-308",
            "9007199254740993",
            "-0",
            "-0.0",
            "1E5",
            "1e+5",
        ] {
            let expected: f32 = text.parse().expect("a number");
            let found = fp32(text.as_bytes()).map(|(value, length)| (value.to_bits(), length.get()));
            assert_eq!(found, expected.is_finite().then_some((expected.to_bits(), text.len())), "{text}");
            let expected: f64 = text.parse().expect("a number");
            let found = fp64(text.as_bytes()).map(|(value, length)| (value.to_bits(), length.get()));
            assert_eq!(found, expected.is_finite().then_some((expected.to_bits(), text.len())), "{text}");
        }
    }

    proptest! {
        #[test]
        fn every_number_is_what_the_standard_library_says(
            text in "-?(0|[1-9][0-9]{0,24})(\\.[0-9]{1,24})?([eE][-+]?[0-9]{1,3})?",
            near in any::<u32>(),
        ) {
            // Also the decimal neighbours of the middle between two FP32s.
            let float = f64::from(f32::from_bits(near));
            let middle = f64::midpoint(float, f64::from(f32::from_bits(near.wrapping_add(1))));
            let texts = [text, format!("{middle}"), format!("{middle:e}"), format!("{float}")];
            for text in texts.iter().filter(|text| text.ends_with(|c: char| c.is_ascii_digit())) {
                let expected: f32 = text.parse().expect("a number");
                let found = fp32(text.as_bytes()).map(|(value, _)| value.to_bits());
                prop_assert_eq!(found, expected.is_finite().then(|| expected.to_bits()), "{}", text);
                let expected: f64 = text.parse().expect("a number");
                let found = fp64(text.as_bytes()).map(|(value, _)| value.to_bits());
                prop_assert_eq!(found, expected.is_finite().then(|| expected.to_bits()), "{}", text);
            }
        }

        #[test]
        fn whole_numbers_are_what_the_standard_library_says(text in "-?(0|[1-9][0-9]{0,21})") {
            prop_assert_eq!(whole(text.as_bytes()).map(|(value, _)| value), text.parse::<i64>().ok());
            prop_assert_eq!(whole(text.as_bytes()).map(|(value, _)| value), text.parse::<i16>().ok());
            if text != "-0" {
                prop_assert_eq!(whole(text.as_bytes()).map(|(value, _)| value), text.parse::<u64>().ok());
            }
        }
    }
}
