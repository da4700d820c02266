//! The trial's own side: a process that may die of what it tries.

use std::{
    io::{self, Read, Write},
    thread,
    time::Duration,
};

use rustix::process::{Resource, Rlimit, Signal, nice, set_parent_process_death_signal, setrlimit};

use super::{Finding, LINE_BYTES_MAX, Order, Tried, words};
use crate::{
    engine::{Engine as _, MESSAGE_CHARS_MAX, OnnxRuntime, Options, STACK_BYTES, clipped, guarded},
    measure::{measure, warm_up},
    memory::{resident_bytes, written_bytes},
    settings::{Settings, Source},
};

/// How far it stands back behind what serves.
const NICENESS: i32 = 10;

/// Its stack: less than a node's threads have, whose own calls lie below the engine's. A program's first thread would have
/// four times as much, and take what ends a node.
const TRIAL_STACK_BYTES: usize = STACK_BYTES / 4 * 3;

/// The provider whose memory is the process's own.
const CPU: &str = "cpu";

pub(super) fn run(input: impl Read, mut output: impl Write) -> io::Result<()> {
    let mut line = Vec::new();
    input.take(LINE_BYTES_MAX as u64).read_to_end(&mut line)?;
    let order: Order = serde_json::from_slice(&line)?;
    // With the node goes the trial. Where the system cannot promise that, the limit on its time ends it.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    let thread = thread::Builder::new().name("a trial".to_owned()).stack_size(TRIAL_STACK_BYTES);
    let carried = thread.spawn(move || guarded(|| carry_out(&order)))?.join();
    let finding = match carried.unwrap_or_else(|_| Err("its thread ended".to_owned())) {
        Ok(Ok(tried)) => Finding::Good(tried),
        Ok(Err(reason)) => Finding::Bad(clipped(&reason, MESSAGE_CHARS_MAX)),
        Err(panic) => Finding::Bad(format!("its trial failed: {panic}; please report this")),
    };
    // A line of its own, whatever a library has written there without ending its own.
    output.write_all(b"\n")?;
    serde_json::to_writer(&mut output, &finding)?;
    output.write_all(b"\n")?;
    output.flush()
}

fn carry_out(order: &Order) -> Result<Tried, String> {
    let (_, settings) = Source::read(&order.repository, &order.settings)?;
    limit(order, &settings).map_err(|error| format!("its trial cannot limit itself: {error}"))?;
    let engine = OnnxRuntime::load(&order.library).map_err(|error| error.to_string())?;
    let before = resident_bytes();
    let options = Options {
        sessions: 1,
        threads: settings.instances.threads,
        spinning: settings.instances.spinning,
        execution: settings.execution.clone(),
        cache: order.cache.clone().filter(|_| settings.execution.cache),
        sha256: order.sha256.clone(),
    };
    let mut opened = engine.open(&order.model, &options).map_err(|error| error.to_string())?;
    let session = opened.sessions.first_mut().ok_or("the engine gave no session")?;
    // What takes all memory on a small input would do so on a real one.
    match warm_up(session.as_mut(), &settings.warmup) {
        Err(error) if words::speak_of_memory(&error.to_string()) => {
            return Err(format!("it ran out of memory on a small input: {error}"));
        }
        // Made-up inputs need not please a model: then nothing is known about its speed.
        Ok(()) | Err(_) => {}
    }
    let measured = measure(session.as_mut(), &settings.warmup, &settings.batching).unwrap_or_default();
    let after = resident_bytes();
    let taken = before.zip(after).map(|(before, after)| after.saturating_sub(before));
    Ok(Tried { measured, memory_bytes: taken.unwrap_or_default() })
}

fn limit(order: &Order, settings: &Settings) -> io::Result<()> {
    let both = |value: u64| Rlimit { current: Some(value), maximum: Some(value) };
    setrlimit(Resource::Core, both(0))?;
    // The first is a signal that says what it is, the second one that means anything.
    let seconds = cpu_seconds(order.time_max);
    setrlimit(Resource::Cpu, Rlimit { current: Some(seconds), maximum: Some(seconds.saturating_add(1)) })?;
    if settings.execution.providers.iter().all(|provider| provider == CPU) {
        // What it may write to, and not its addresses: allocators reserve gibibytes of those and use a few. What this
        // process had before it began is not the model's.
        let own = written_bytes().unwrap_or_default();
        setrlimit(Resource::Data, both(own.saturating_add(order.memory_max)))?;
    }
    // Less would do no harm.
    let _ = nice(NICENESS);
    Ok(())
}

/// The parent's clock decides; this ends a trial whose parent cannot.
fn cpu_seconds(time_max: Duration) -> u64 {
    let cores = thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    time_max.as_secs().saturating_add(1).saturating_mul(cores)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_order_is_an_error_and_limits_nobody() {
        for order in [&b""[..], b"{}", b"[]", &vec![b' '; 2 * LINE_BYTES_MAX]] {
            let mut told = Vec::new();
            assert!(run(order, &mut told).is_err());
            assert!(told.is_empty());
        }
    }
}
