//! What processes have used, as `/proc` tells. Where there is none, nothing is known, and nothing is told.

use std::{fs, path::PathBuf, time::Duration};

use serde::Serialize;

/// Ticks per second in `/proc/PID/stat`: a constant of Linux towards programs, whatever the kernel's own clock does.
const TICKS_PER_SECOND: u32 = 100;

/// CPU time and memory, of one process or of several together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Usage {
    /// User and system time.
    pub(super) cpu: Duration,
    /// Resident memory, in bytes.
    pub(super) memory: u64,
}

impl Usage {
    /// Both together.
    pub(super) fn and(self, other: Self) -> Self {
        Self { cpu: self.cpu + other.cpu, memory: self.memory + other.memory }
    }

    /// What has been used since then, and the memory of now.
    pub(super) fn since(self, then: Self) -> Self {
        Self { cpu: self.cpu.saturating_sub(then.cpu), memory: self.memory }
    }
}

/// Of a process that runs; nothing of one that does not.
pub(super) fn of(pid: Option<u32>) -> Usage {
    let Some(pid) = pid else { return Usage::default() };
    let read = |file: &str| {
        let path: PathBuf = ["/proc", &pid.to_string(), file].iter().collect();
        fs::read_to_string(path).unwrap_or_default()
    };
    Usage { cpu: cpu(&read("stat")).unwrap_or_default(), memory: memory(&read("status")).unwrap_or_default() }
}

/// User and system time from `/proc/PID/stat`. The name before them may hold anything but ends with the last bracket.
fn cpu(stat: &str) -> Option<Duration> {
    let (_, fields) = stat.rsplit_once(')')?;
    // Fields 14 and 15 of all; the name is the second.
    let mut times = fields.split_whitespace().skip(11);
    let ticks = times.next()?.parse::<u32>().ok()?.saturating_add(times.next()?.parse().ok()?);
    Some(Duration::from_secs(ticks.into()) / TICKS_PER_SECOND)
}

/// Resident memory from `/proc/PID/status`.
fn memory(status: &str) -> Option<u64> {
    let kibibytes = status.lines().find_map(|line| line.strip_prefix("VmRSS:"))?.trim().strip_suffix("kB")?;
    Some(kibibytes.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_memory_are_found_whatever_the_process_is_called() {
        let stat = "7 (line) side) S 1 7 7 0 -1 4194560 900 0 1 0 250 50 0 0 20 0 9 0 100 1 2";
        assert_eq!(cpu(stat), Some(Duration::from_secs(3)));
        assert_eq!(cpu("7 (line"), None);
        assert_eq!(memory("Name:\tlineside\nVmRSS:\t   20480 kB\n"), Some(20 << 20));
        assert_eq!(memory("Name:\tlineside\n"), None);
    }

    #[test]
    fn of_a_process_that_is_gone_nothing_is_known() {
        assert_eq!(of(None), Usage::default());
        assert_eq!(of(Some(u32::MAX)), Usage::default());
        assert_ne!(of(Some(std::process::id())), Usage::default());
    }

    #[test]
    fn what_was_used_before_does_not_count() {
        let usage = |seconds, memory| Usage { cpu: Duration::from_secs(seconds), memory };
        assert_eq!(usage(9, 5).since(usage(4, 7)), usage(5, 5));
        assert_eq!(usage(1, 2).and(usage(3, 4)), usage(4, 6));
    }
}
