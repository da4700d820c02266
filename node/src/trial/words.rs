//! What the end of a trial means, in words for the person who put the model there.

use std::{os::unix::process::ExitStatusExt as _, process::ExitStatus, time::Duration};

/// How to do without trials: below every sentence that blames one.
const OPT_OUT: &str = "`node.trial = false` loads models without a trial";

/// What libraries say when they get no memory.
const OF_MEMORY: [&str; 6] = [
    "bad_alloc",
    "bad allocation",
    "failed to allocate memory",
    "memory allocation of",
    "cannot allocate memory",
    "out of memory",
];

/// Whether an error is about memory.
pub(super) fn speak_of_memory(text: &str) -> bool {
    let text = text.to_ascii_lowercase();
    OF_MEMORY.iter().any(|words| text.contains(words))
}

/// What helps a model that needs more memory.
pub(super) fn more_memory(memory_max: u64) -> String {
    let mebibytes = memory_max >> 20;
    format!(
        "a trial may take {mebibytes} MiB: raise node.trial_memory_max if this machine has more; {OPT_OUT}"
    )
}

/// The trial took too long.
pub(super) fn too_long(time_max: Duration) -> String {
    format!(
        "its trial did not end within {time_max:?}: the model never ends, or is large for this machine; raise \
         node.trial_time_max for the latter; {OPT_OUT}"
    )
}

/// The trial could not be run.
pub(super) fn not_run(why: &str) -> String {
    format!("it cannot be tried: {why}; {OPT_OUT}")
}

/// The trial ended without a finding.
pub(super) fn ended(status: ExitStatus, last: &str, memory_max: u64, time_max: Duration) -> String {
    let last = if last.is_empty() { String::new() } else { format!(": {last}") };
    let Some(signal) = status.signal() else {
        let code = status.code().unwrap_or_default();
        return not_run(&format!("its trial ended with code {code} and without a finding{last}"));
    };
    let name = name(signal).map(|name| format!(", {name}")).unwrap_or_default();
    let killed = format!("the model killed its trial (signal {signal}{name}){last}");
    match signal {
        _ if speak_of_memory(&last) => format!("{killed}; {}", more_memory(memory_max)),
        9 => format!(
            "{killed}; the system does that when memory runs out: free some, or use a smaller model; {OPT_OUT}"
        ),
        24 => too_long(time_max),
        _ => format!(
            "{killed}; it would have taken the node with it, so it is not loaded: export it again, with another opset if \
             need be; {OPT_OUT}"
        ),
    }
}

const fn name(signal: i32) -> Option<&'static str> {
    match signal {
        4 => Some("SIGILL"),
        6 => Some("SIGABRT"),
        7 => Some("SIGBUS"),
        8 => Some("SIGFPE"),
        9 => Some("SIGKILL"),
        11 => Some("SIGSEGV"),
        15 => Some("SIGTERM"),
        24 => Some("SIGXCPU"),
        31 => Some("SIGSYS"),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_names_what_to_do() {
        let told =
            |raw: i32, last: &str| ended(ExitStatus::from_raw(raw), last, 1 << 30, Duration::from_secs(60));
        let aborted = told(6, "assertion failed");
        assert!(aborted.contains("(signal 6, SIGABRT): assertion failed"), "{aborted}");
        assert!(aborted.contains("node.trial = false"), "{aborted}");
        assert!(told(6, "std::bad_alloc").contains("1024 MiB"), "{}", told(6, "std::bad_alloc"));
        assert!(told(9, "").contains("memory runs out"));
        assert!(told(24, "").contains("node.trial_time_max"));
        assert!(told(1 << 8, "no such command").contains("code 1") && told(99, "").contains("signal 99"));
    }
}
