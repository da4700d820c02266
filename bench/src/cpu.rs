//! CPU time of processes, as the scheduler counts it: user and kernel, to the nanosecond.

use std::{fs, time::Duration};

/// CPU time that these processes have used since they began. A process that has gone counts as nothing.
pub(crate) fn used(pids: &[u32]) -> Duration {
    pids.iter().map(|pid| of_process(*pid)).sum()
}

fn of_process(pid: u32) -> Duration {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    let run_time = |task: fs::DirEntry| -> Option<u64> {
        fs::read_to_string(task.path().join("schedstat")).ok()?.split_whitespace().next()?.parse().ok()
    };
    Duration::from_nanos(tasks.flatten().filter_map(run_time).sum())
}

/// CPU time that the calling thread has used: a thread that has ended no longer shows in its process.
pub(crate) fn of_this_thread() -> Duration {
    let stat = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(stat.split_whitespace().next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
}

/// Resident memory of a process and its largest mapped libraries left out: anonymous pages only, in bytes.
pub(crate) fn memory(pid: u32) -> Memory {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let kilobytes = |key: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.trim_start_matches(':').split_whitespace().next()?.parse::<u64>().ok())
            .map_or(0, |kb| kb << 10)
    };
    Memory { resident: kilobytes("VmRSS"), anonymous: kilobytes("RssAnon") }
}

/// What these processes hold together, in bytes: a page that several map counts once, shared among them.
pub(crate) fn proportional(pids: &[u32]) -> u64 {
    let of_process = |pid: &u32| {
        let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:").map(str::to_owned));
        line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok()).map_or(0, |kb| kb << 10)
    };
    pids.iter().map(of_process).sum()
}

/// What a process holds, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// All resident pages, those of shared libraries included.
    pub(crate) resident: u64,
    /// Those that are its alone.
    pub(crate) anonymous: u64,
}
