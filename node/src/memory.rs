//! How much memory this process holds.

use std::fs;

/// Bytes of memory that the process has at this moment, as the system counts them. `None` where it does not say.
pub(crate) fn resident_bytes() -> Option<u64> {
    told("VmRSS:", &fs::read_to_string("/proc/self/status").ok()?)
}

/// Bytes that the process may write to, held or not: what a limit on its data counts. `None` where the system does not say.
pub(crate) fn written_bytes() -> Option<u64> {
    told("VmData:", &fs::read_to_string("/proc/self/status").ok()?)
}

fn told(what: &str, status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(what))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_says_how_much_memory_is_held() {
        assert_eq!(told("VmRSS:", "VmPeak:\t  9 kB\nVmRSS:\t    1234 kB\nThreads:\t1\n"), Some(1234 * 1024));
        assert_eq!((told("VmRSS:", "VmRSS:\t many kB\n"), told("VmRSS:", "VmData:\t 1 kB\n")), (None, None));
        let before = resident_bytes().unwrap();
        let taken = std::hint::black_box(vec![1_u8; 64 << 20]);
        assert!(before + (32 << 20) < resident_bytes().unwrap());
        assert!(64 << 20 < written_bytes().unwrap());
        drop(taken);
    }
}
