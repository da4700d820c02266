//! Reading a tensor from JSON, beside plain serde_json into a vector: what the door adds to it, or saves.

use std::{hint::black_box, time::Duration};

use anyhow::Context as _;
use lineside_gateway::fuzzing::parse_fp32;

use crate::{
    compare::{Measured, Round, null_pair, pairs, print, print_head, print_machine},
    cpu,
    member::now,
};

/// A picture of 224 x 224 in three colours.
const DIMS: [usize; 4] = [1, 3, 224, 224];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Pairs of rounds per case; the medians are printed
    #[arg(long, default_value_t = 9)]
    pairs: usize,
    /// Tensors read in one round
    #[arg(long, default_value_t = 100)]
    tensors: u64,
}

struct Case<'a> {
    name: &'static str,
    json: &'a str,
    tensors: u64,
    read: fn(&str) -> Option<usize>,
}

impl Measured for Case<'_> {
    fn name(&self) -> &str {
        self.name
    }

    fn round(&mut self) -> anyhow::Result<Round> {
        let pids = [std::process::id()];
        let (begin, before) = (now(), cpu::used(&pids));
        for _ in 0..self.tensors {
            let elements = (self.read)(black_box(self.json)).context("the tensor was not read")?;
            anyhow::ensure!(elements == DIMS.iter().product::<usize>(), "{elements} elements were read");
        }
        let took: Duration = begin.elapsed();
        let each = u64::try_from(took.as_micros())? / self.tensors.max(1);
        Ok(Round::new(self.tensors, took, cpu::used(&pids) - before, each, each))
    }
}

pub(crate) fn run(args: &Args) -> anyhow::Result<()> {
    print_machine();
    print_head();
    let flat = flat();
    let nested = nested(&mut numbers(), &DIMS);
    println!(
        "{} bytes of JSON flat, {} nested, for {} numbers",
        flat.len(),
        nested.len(),
        DIMS.iter().product::<usize>()
    );
    let of = |name, json, read| Case { name, json, tensors: args.tensors, read };
    let door = |json: &str| parse_fp32(json.as_bytes());
    let vector = |json: &str| serde_json::from_str::<Vec<f32>>(json).ok().map(|numbers| numbers.len());
    let vectors = |json: &str| {
        let numbers: Vec<Vec<Vec<Vec<f32>>>> = serde_json::from_str(json).ok()?;
        Some(numbers.iter().flatten().flatten().map(Vec::len).sum())
    };
    print(&pairs(
        "flat",
        &mut of("lineside", &flat, door),
        &mut of("serde_json", &flat, vector),
        args.pairs,
    )?);
    print(&pairs(
        "nested",
        &mut of("lineside", &nested, door),
        &mut of("serde_json", &nested, vectors),
        args.pairs,
    )?);
    print(&null_pair("flat", &mut of("lineside", &flat, door), args.pairs)?);
    Ok(())
}

/// Numbers between -2 and 2 with up to seven digits, as Python writes normalised pixels; the same in every run.
fn numbers() -> impl Iterator<Item = String> {
    let mut state = 1_u32;
    std::iter::from_fn(move || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        Some(format!("{}", (f64::from(state) / f64::from(u32::MAX) * 4.0 - 2.0) as f32))
    })
}

fn flat() -> String {
    let numbers: Vec<_> = numbers().take(DIMS.iter().product()).collect();
    format!("[{}]", numbers.join(","))
}

fn nested(numbers: &mut impl Iterator<Item = String>, dims: &[usize]) -> String {
    let parts: Vec<_> = match dims {
        [] => return numbers.next().unwrap_or_default(),
        [count, rest @ ..] => (0..*count).map(|_| nested(numbers, rest)).collect(),
    };
    format!("[{}]", parts.join(","))
}
