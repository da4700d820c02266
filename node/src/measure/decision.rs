//! What a measurement and the settings come to.

use super::Measured;
use crate::settings::{Batching, BatchingMode};

/// What joining must gain to be turned on: less is within what a busy machine measures wrongly, and a joined run makes the
/// first of its callers wait for the last.
const GAIN_MIN: f64 = 1.3;

/// The smallest size that reaches this part of the best is taken: beyond it latency grows and rows per second hardly do.
const NEARLY_THE_BEST: f64 = 0.9;

/// Most rows of one run where the settings say to join and not how many.
const SIZE_UNASKED: u64 = 16;

/// How requests are joined, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Decision {
    /// Most rows of one run; 1 joins nothing.
    pub(crate) max_size: u64,
    /// For a person: what was measured, or which setting says so.
    pub(crate) finding: String,
}

impl Decision {
    fn apart(finding: impl Into<String>) -> Self {
        Self { max_size: 1, finding: finding.into() }
    }
}

/// Rows per second of a timing over those of the first.
pub(super) fn gain((rows, ns): (u64, u64), timing: (u64, u64)) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a ratio for a person")]
    let per_second = |(rows, ns): (u64, u64)| rows as f64 / ns.max(1) as f64;
    per_second(timing) / per_second((rows, ns))
}

/// What the settings and the measurement come to.
///
/// # Errors
/// The settings ask for joining and the model's shapes do not allow it.
pub(crate) fn decide(measured: &Measured, batching: &Batching) -> Result<Decision, String> {
    let asked = batching.max_size.map(u64::from);
    match (batching.mode, &measured.unfit) {
        (BatchingMode::Off, _) => Ok(Decision::apart("off: its settings say so")),
        (BatchingMode::On, Some(reason)) => {
            Err(format!("[batching] mode = \"on\", and requests of this model cannot be joined: {reason}"))
        }
        (BatchingMode::Auto, Some(reason)) => Ok(Decision::apart(format!("not joined: {reason}"))),
        (_, None) if asked.is_some_and(|size| size <= 1) => {
            Ok(Decision::apart("off: its settings say at most 1 row"))
        }
        (BatchingMode::On, None) => {
            let max_size = asked.unwrap_or(SIZE_UNASKED);
            let measured = best(&measured.timings).map(|(size, gain)| format!("; {}", told(size, gain)));
            let measured = measured.unwrap_or_default();
            Ok(Decision {
                max_size,
                finding: format!("joined up to {max_size} rows: its settings say so{measured}"),
            })
        }
        (BatchingMode::Auto, None) => Ok(found(&measured.timings, asked)),
    }
}

fn found(timings: &[(u64, u64)], asked: Option<u64>) -> Decision {
    let Some((best_size, best_gain)) = best(timings) else {
        return Decision::apart("not joined: nothing was measured at load");
    };
    if best_gain < GAIN_MIN {
        return Decision::apart(format!("not joined: {}", told(best_size, best_gain)));
    }
    let enough = timings.iter().map(|timing| (timing.0, gain(timings[0], *timing)));
    let mut enough = enough.filter(|(_, gain)| NEARLY_THE_BEST * best_gain <= *gain);
    let (size, gain) = enough.next().unwrap_or((best_size, best_gain));
    match asked {
        None => Decision {
            max_size: size,
            finding: format!(
                "joined up to {size} rows: {gain:.1} times the rows per second of one by one (measured at load)"
            ),
        },
        Some(asked) => Decision {
            max_size: asked,
            finding: format!("joined up to {asked} rows, as its settings say: {}", told(size, gain)),
        },
    }
}

/// The size with the most rows per second, of those beyond one row.
fn best(timings: &[(u64, u64)]) -> Option<(u64, f64)> {
    let (first, more) = timings.split_first()?;
    let gains = more.iter().map(|timing| (timing.0, gain(*first, *timing)));
    gains.max_by(|one, other| one.1.total_cmp(&other.1))
}

fn told(size: u64, gain: f64) -> String {
    // A second digit where it is about more or less than nothing.
    let gain = if gain < 2.0 { format!("{gain:.2}") } else { format!("{gain:.1}") };
    format!("{size} rows together give {gain} times the rows per second of one by one (measured at load)")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn measured(timings: &[(u64, u64)]) -> Measured {
        Measured { unfit: None, timings: timings.to_vec() }
    }

    fn auto(timings: &[(u64, u64)]) -> Decision {
        decide(&measured(timings), &Batching::default()).unwrap()
    }

    fn batching(mode: BatchingMode, max_size: Option<u32>) -> Batching {
        Batching { mode, max_size, ..Batching::default() }
    }

    #[test]
    fn a_model_that_gains_is_joined_by_the_smallest_size_that_is_nearly_the_best() {
        let much = auto(&[(1, 40_000), (4, 46_800), (16, 108_475)]);
        assert_eq!(much.max_size, 16);
        assert_eq!(
            much.finding,
            "joined up to 16 rows: 5.9 times the rows per second of one by one (measured at load)"
        );
        // Four rows give 3.0 times, sixteen 3.2: four are enough.
        assert_eq!(auto(&[(1, 1200), (4, 1600), (16, 6000)]).max_size, 4);
        assert_eq!(auto(&[(1, 1200), (4, 3000)]).max_size, 4);
    }

    #[test]
    fn a_model_that_gains_little_is_not_joined_and_says_what_was_measured() {
        let loses = auto(&[(1, 100), (4, 417)]);
        assert_eq!(loses.max_size, 1);
        assert_eq!(
            loses.finding,
            "not joined: 4 rows together give 0.96 times the rows per second of one by one (measured at load)"
        );
        assert_eq!(auto(&[(1, 129), (4, 400)]).max_size, 1, "1.29 is too little");
        assert_eq!(auto(&[(1, 130), (4, 400)]).max_size, 4, "1.3 is enough");
        assert_eq!(auto(&[(1, 100)]).max_size, 1);
        assert_eq!(auto(&[]).finding, "not joined: nothing was measured at load");
    }

    #[test]
    fn the_settings_overrule_what_was_measured() {
        let loses = measured(&[(1, 100), (4, 417)]);
        let on = decide(&loses, &batching(BatchingMode::On, None)).unwrap();
        assert_eq!(on.max_size, 16);
        assert!(on.finding.contains("its settings say so; 4 rows together give 0.96"), "{}", on.finding);
        assert_eq!(decide(&loses, &batching(BatchingMode::On, Some(8))).unwrap().max_size, 8);
        let gains = measured(&[(1, 100), (4, 100), (16, 100)]);
        assert_eq!(
            decide(&gains, &batching(BatchingMode::Off, Some(8))).unwrap(),
            Decision::apart("off: its settings say so")
        );
        assert_eq!(decide(&gains, &batching(BatchingMode::Auto, Some(8))).unwrap().max_size, 8);
        assert_eq!(decide(&gains, &batching(BatchingMode::Auto, Some(1))).unwrap().max_size, 1);
        assert_eq!(decide(&loses, &batching(BatchingMode::Auto, Some(8))).unwrap().max_size, 1);
    }

    #[test]
    fn what_cannot_be_joined_is_not_and_asking_for_it_is_an_error() {
        let reason = "the first dimension of the input \"x\" is fixed at 1".to_owned();
        let unfit = Measured { unfit: Some(reason.clone()), timings: Vec::new() };
        let auto = decide(&unfit, &Batching::default()).unwrap();
        assert_eq!(auto, Decision::apart(format!("not joined: {reason}")));
        assert!(decide(&unfit, &batching(BatchingMode::On, None)).unwrap_err().contains(&reason));
        assert_eq!(decide(&unfit, &batching(BatchingMode::Off, None)).unwrap().max_size, 1);
    }
}
