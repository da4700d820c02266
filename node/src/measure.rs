//! Whether joining requests pays: measured when a model is loaded, not assumed.
//!
//! Convolutional networks lose on a CPU when their rows run together, matrix products win sixfold; the file does not
//! tell which it is. [`measure`] runs made-up rows through a session, checks that a row's answer does not depend on its
//! neighbours, and times 1, 4 and 16 rows; [`decide`] is arithmetic on that.
//!
//! Limits: a third of a second for all timings beyond the first run of each size. A model whose rows gain nothing by four
//! is not run with sixteen.

mod decision;
mod rows;

use std::time::Duration;

use lineside_wire::{Tensor, TensorSpec};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

pub(crate) use decision::{Decision, decide};
pub(crate) use rows::ELEMENTS_MAX;

use crate::{
    engine::{RunError, Session, Signature},
    settings::{Batching, BatchingMode, Warmup},
};

/// Rows of the runs that are timed: alone, a few, and as many as still gained in any model that was measured.
const SIZES: [u64; 3] = [1, 4, 16];

/// Time for all timings: what a model may cost at load beyond opening it.
const TIME_MAX: Duration = Duration::from_millis(300);

/// Most runs of one size. The fastest counts: what slows a run comes from elsewhere on the machine.
const RUNS_MAX: u32 = 50;

/// What a size must gain for the next larger one to be tried.
const WORTH_GOING_ON: f64 = 1.1;

/// Lengths that dimensions that vary are tried with, where the settings name none. A text of one token and an image of one
/// pixel gain by joining what real ones do not, so the first is a length that is met; some models take only a single one.
const LENGTHS: [u64; 2] = [64, 1];

/// Up to which whole numbers are made up, in turn. Below 2 they are indices of every table and values of every mask, but rows
/// of them can be so much alike that a model makes much of a rounding; up to 256 they are so no more, and fit fewer models.
const WHOLE: [u64; 2] = [2, 256];

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Measured {
    /// Why requests of this model cannot be joined, whatever the settings say.
    pub(crate) unfit: Option<String>,
    /// Rows of a run, and its time in nanoseconds.
    pub(crate) timings: Vec<(u64, u64)>,
}

/// Warms the session up and times it.
///
/// # Errors
/// The model fails on every made-up input: then nothing is known, and nothing is joined.
pub(crate) fn measure(
    session: &mut dyn Session,
    warmup: &Warmup,
    batching: &Batching,
) -> Result<Measured, RunError> {
    let warmed = warm(session, warmup);
    let unfit = unfit(session.signature());
    let shapes = match warmed {
        // What the shapes in the file say, they say without a run.
        Err(_) if unfit.is_some() => return Ok(Measured { unfit, timings: Vec::new() }),
        warmed => warmed?,
    };
    if batching.mode == BatchingMode::Off {
        return Ok(Measured::default());
    }
    let unfit = unfit.or_else(|| shapes.stand_alone(session).err());
    let timings = match unfit {
        None => shapes.time(session)?,
        Some(_) => Vec::new(),
    };
    Ok(Measured { unfit, timings })
}

/// Runs a session before its first request: that takes memory and plans. Every session needs it, one is enough to measure.
///
/// # Errors
/// The model fails on every made-up input.
pub(crate) fn warm_up(session: &mut dyn Session, warmup: &Warmup) -> Result<(), RunError> {
    warm(session, warmup).map(drop)
}

/// Warms up, and finds shapes that the model takes.
fn warm<'a>(session: &mut dyn Session, warmup: &'a Warmup) -> Result<Shapes<'a>, RunError> {
    let signature = session.signature().clone();
    let wanted: Vec<usize> = (0..signature.outputs.len()).collect();
    let mut failed = RunError::Failed("no input was made".to_owned());
    for length in LENGTHS {
        let shapes = Shapes { inputs: signature.inputs.clone(), warmup, length };
        let inputs = shapes.as_configured()?;
        // Once at least: this also finds whether the shapes will do.
        let runs = (0..warmup.runs.max(1)).map(|_| session.run(&inputs, &wanted).map(drop));
        match runs.collect::<Result<(), _>>() {
            Ok(()) => return Ok(shapes),
            Err(error) => failed = error,
        }
    }
    Err(failed)
}

/// Why requests cannot be joined, as far as the shapes in the file tell.
fn unfit(signature: &Signature) -> Option<String> {
    if signature.inputs.is_empty() {
        return Some("the model has no inputs".to_owned());
    }
    let fixed = |side: &str, spec: &TensorSpec| match spec.shape.first() {
        None => Some(format!("the file says no dimensions of the {side} {:?}", spec.name)),
        Some(fixed) if 0 <= *fixed => {
            Some(format!("the first dimension of the {side} {:?} is fixed at {fixed}", spec.name))
        }
        Some(_) => None,
    };
    let inputs = signature.inputs.iter().find_map(|spec| fixed("input", spec));
    // Of an output that the file says nothing about, the runs tell.
    let outputs = signature.outputs.iter().filter(|spec| !spec.shape.is_empty());
    inputs.or_else(|| outputs.into_iter().find_map(|spec| fixed("output", spec)))
}

/// Made-up inputs.
struct Shapes<'a> {
    inputs: Vec<TensorSpec>,
    warmup: &'a Warmup,
    /// For dimensions that vary and that the settings do not name.
    length: u64,
}

impl Shapes<'_> {
    /// An input of these rows for each of `seeds`, one after the other.
    fn rows(&self, seeds: &[u64], whole: u64) -> Result<Vec<Tensor>, RunError> {
        let one = |spec: &TensorSpec| {
            let mut dims = self.dims(spec);
            if let Some(first) = dims.first_mut() {
                *first = 1;
            }
            rows::tensor(spec, &dims, seeds, whole)
        };
        self.inputs.iter().map(one).collect()
    }

    /// As the settings say, the first dimension too.
    fn as_configured(&self) -> Result<Vec<Tensor>, RunError> {
        self.inputs.iter().map(|spec| rows::tensor(spec, &self.dims(spec), &[1], WHOLE[0])).collect()
    }

    fn dims(&self, spec: &TensorSpec) -> Vec<u64> {
        let named = self.warmup.shape.get(&spec.name).filter(|named| named.len() == spec.shape.len());
        let dim = |(at, fixed): (usize, &i64)| {
            // The first is the number of rows, as a rule: a model that fails on one row is a rare one.
            let free = if at == 0 { 1 } else { self.length };
            u64::try_from(*fixed).unwrap_or_else(|_| named.map_or(free, |named| named[at]))
        };
        spec.shape.iter().enumerate().map(dim).collect()
    }

    /// Whether a row's answer is the same beside another, with any of the numbers of [`WHOLE`].
    ///
    /// # Errors
    /// Why rows must not be joined.
    fn stand_alone(&self, session: &mut dyn Session) -> Result<(), String> {
        let is_whole = |spec: &TensorSpec| rows::is_whole(spec.datatype);
        let tries = if self.inputs.iter().any(is_whole) { WHOLE.len() } else { 1 };
        let mut tries = WHOLE[..tries].iter().map(|whole| self.stand_alone_up_to(session, *whole));
        let first = tries.next().unwrap_or(Ok(()));
        first.or_else(|reason| if tries.any(|tried| tried.is_ok()) { Ok(()) } else { Err(reason) })
    }

    /// Runs two rows alone and together.
    fn stand_alone_up_to(&self, session: &mut dyn Session, whole: u64) -> Result<(), String> {
        let wanted: Vec<usize> = (0..session.signature().outputs.len()).collect();
        let mut run = |seeds: &[u64]| {
            let outputs = self.rows(seeds, whole).and_then(|inputs| session.run(&inputs, &wanted));
            outputs.map_err(|error| match seeds.len() {
                1 => format!("a row alone fails: {error}"),
                _ => format!("two rows together fail: {error}"),
            })
        };
        let alone = [run(&[2])?, run(&[3])?];
        let together = run(&[2, 3])?;
        for (at, together) in together.iter().enumerate() {
            rows::same([&alone[0][at], &alone[1][at]], together)?;
        }
        Ok(())
    }

    fn time(&self, session: &mut dyn Session) -> Result<Vec<(u64, u64)>, RunError> {
        let wanted: Vec<usize> = (0..session.signature().outputs.len()).collect();
        let mut timings: Vec<(u64, u64)> = Vec::with_capacity(SIZES.len());
        for size in SIZES {
            let gain = timings.last().map(|last| decision::gain(timings[0], *last));
            if 1 < timings.len() && gain.is_some_and(|gain| gain < WORTH_GOING_ON) {
                break;
            }
            let inputs = self.rows(&(0..size).collect::<Vec<_>>(), WHOLE[0])?;
            // The first run of a shape takes memory, and is no measure. A long one is: it takes as long again.
            let mut best = timed(session, &inputs, &wanted)?;
            let until = Instant::now() + TIME_MAX / 3;
            let mut runs = 0;
            while runs < RUNS_MAX && Instant::now() + best < until {
                best = best.min(timed(session, &inputs, &wanted)?);
                runs += 1;
            }
            timings.push((size, u64::try_from(best.as_nanos()).unwrap_or(u64::MAX).max(1)));
        }
        Ok(timings)
    }
}

fn timed(session: &mut dyn Session, inputs: &[Tensor], wanted: &[usize]) -> Result<Duration, RunError> {
    let begun = Instant::now();
    session.run(inputs, wanted)?;
    Ok(begun.elapsed())
}
