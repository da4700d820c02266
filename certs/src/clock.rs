//! The time by which certificates are judged: never before the last time that was known.
//!
//! Boards without a battery start in 1970, and would take every certificate for one of the future. The floor
//! is the latest of the build's time and the last time that was kept on disk, and it goes on from there as
//! long as the process runs. It only ever makes it later, so it cannot extend an expiry.

use std::{
    fs, io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use rustls::time_provider::TimeProvider;
use rustls_pki_types::UnixTime;
use tokio::time::Instant;

use crate::{
    disk::{self, PUBLIC_MODE},
    x509::since_1970,
};

/// The file of the kept time: seconds since 1970, in decimal.
const FILE: &str = "clock";

/// What a clock may be behind without being wrong: it is corrected in steps of less, and seconds are rounded.
pub const CLOCK_SLACK: Duration = Duration::from_secs(60);

/// A clock with a floor. Cheap to clone, and to ask: no lock, no file.
#[derive(Clone, Debug)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The clock that may be wrong.
    system: fn() -> SystemTime,
    /// No earlier than this, in seconds since 1970, was it at `started`.
    floor: AtomicU64,
    started: Instant,
}

impl Default for Clock {
    fn default() -> Self {
        Self::system()
    }
}

impl Clock {
    /// The system's clock, not before this build.
    #[must_use]
    pub fn system() -> Self {
        Self::reading(SystemTime::now)
    }

    /// As [`Clock::system`], with another clock in the system's place: for tests and simulations.
    #[must_use]
    pub fn reading(system: fn() -> SystemTime) -> Self {
        let floor = AtomicU64::new(seconds(built_at()));
        Self(Arc::new(Inner { system, floor, started: Instant::now() }))
    }

    /// As [`Clock::system`], and not before the time kept in `directory` by [`Clock::keep`]. A damaged file
    /// is told in the log and counts as none.
    #[must_use]
    pub fn kept_in(directory: &Path) -> Self {
        Self::system().not_before_kept_in(directory)
    }

    /// The same clock, not before the time kept in `directory`, as with [`Clock::kept_in`].
    #[must_use]
    pub fn not_before_kept_in(self, directory: &Path) -> Self {
        let path = directory.join(FILE);
        match read(&path) {
            Ok(kept) => self.raise(kept),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                tracing::warn!(file = %path.display(), %error, "the kept time cannot be read; going without it");
            }
        }
        self
    }

    /// The time to judge by: `max(system, floor)`.
    #[must_use]
    pub fn now(&self) -> SystemTime {
        (self.0.system)().max(self.floor())
    }

    /// How far the system's clock is behind the floor; `None` when it is not, or by less than
    /// [`CLOCK_SLACK`].
    #[must_use]
    pub fn behind(&self) -> Option<Duration> {
        self.floor().duration_since((self.0.system)()).ok().filter(|behind| CLOCK_SLACK <= *behind)
    }

    /// Keeps the present time as the floor of the next start. A time at or after `not_after`, the end of the
    /// own certificate, is never kept: a clock that jumped into the future would otherwise lock this machine
    /// out for ever.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn keep(&self, directory: &Path, not_after: SystemTime) -> io::Result<()> {
        let now = self.now();
        if not_after <= now {
            return Ok(());
        }
        disk::write_whole(&directory.join(FILE), format!("{}\n", seconds(now)).as_bytes(), PUBLIC_MODE)?;
        self.raise(now);
        Ok(())
    }

    /// Learns that it is `at` or later: the start of the own certificate, which the authority signed, is never in the
    /// future.
    pub fn learn(&self, at: SystemTime) {
        self.raise(at);
    }

    /// It is at least `now`.
    fn raise(&self, now: SystemTime) {
        let at_start = seconds(now).saturating_sub(self.0.started.elapsed().as_secs());
        self.0.floor.fetch_max(at_start, Ordering::Relaxed);
    }

    fn floor(&self) -> SystemTime {
        since_1970(self.0.floor.load(Ordering::Relaxed)) + self.0.started.elapsed()
    }
}

/// What rustls asks at every handshake, on both sides.
impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(Duration::from_secs(seconds(self.now()))))
    }
}

/// When this program was built; `build.rs` tells.
fn built_at() -> SystemTime {
    // Too large a number, from a build that was told nonsense, must not stop the clock.
    since_1970(env!("LINESIDE_BUILT_AT").parse().ok().filter(|at| *at <= LATEST).unwrap_or(0))
}

/// The latest moment that is believed, in seconds: the end of the year 9999, also X.509's. Later ones come
/// from damage.
const LATEST: u64 = 253_402_300_799;

fn read(path: &Path) -> io::Result<SystemTime> {
    let text = fs::read_to_string(path)?;
    // Exactly as it was written: half a number would be a time long ago, and a longer one would lock this
    // machine out.
    let kept = text
        .strip_suffix('\n')
        .and_then(|digits| digits.parse().ok().filter(|at: &u64| at.to_string() == digits));
    match kept.filter(|at| *at <= LATEST) {
        Some(at) => Ok(since_1970(at)),
        None => Err(io::Error::new(io::ErrorKind::InvalidData, "it holds no time; remove it")),
    }
}

fn seconds(at: SystemTime) -> u64 {
    at.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn in_1970() -> SystemTime {
        since_1970(5)
    }

    fn in_2100() -> SystemTime {
        since_1970(4_102_444_800)
    }

    fn never() -> SystemTime {
        since_1970(LATEST)
    }

    /// The two are the same but for the time that the test itself took.
    fn close(left: SystemTime, right: SystemTime) -> bool {
        let apart = left.duration_since(right).unwrap_or_else(|error| error.duration());
        apart < Duration::from_secs(30)
    }

    #[test]
    fn a_clock_that_starts_in_1970_is_not_before_the_build() {
        let clock = Clock::reading(in_1970);
        assert!(close(clock.now(), built_at()), "{:?}", clock.now());
        let behind = clock.behind().unwrap();
        assert!(close(in_1970() + behind, built_at()), "{behind:?}");
        assert!(since_1970(1_750_000_000) < built_at() && built_at() <= SystemTime::now());
    }

    #[test]
    fn a_right_clock_is_left_alone() {
        let clock = Clock::reading(in_2100);
        assert_eq!((clock.now(), clock.behind()), (in_2100(), None));
        assert!(Clock::system().behind().is_none());
        assert!(close(Clock::default().now(), SystemTime::now()));
    }

    #[test]
    fn a_kept_time_is_the_floor_of_the_next_start() {
        let data = tempfile::tempdir().unwrap();
        Clock::reading(in_2100).keep(data.path(), never()).unwrap();
        let next = Clock::reading(in_1970).not_before_kept_in(data.path());
        assert!(close(next.now(), in_2100()), "{:?}", next.now());
        // Keeping again never takes it back.
        next.keep(data.path(), never()).unwrap();
        assert!(in_2100() <= Clock::kept_in(data.path()).now());
    }

    #[test]
    fn a_clock_that_is_set_back_while_it_runs_stays_at_what_was_kept() {
        static MOVED: AtomicU64 = AtomicU64::new(4_102_444_800);
        let data = tempfile::tempdir().unwrap();
        let clock = Clock::reading(|| since_1970(MOVED.load(Ordering::Relaxed)));
        clock.keep(data.path(), never()).unwrap();
        MOVED.fetch_sub(24 * 3600, Ordering::Relaxed);
        assert!(in_2100() <= clock.now());
        assert!(close(in_2100() - 24 * HOUR + clock.behind().unwrap(), in_2100()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_floor_goes_on_while_the_process_runs() {
        let data = tempfile::tempdir().unwrap();
        let clock = Clock::reading(in_1970);
        let before = clock.now();
        tokio::time::advance(48 * HOUR).await;
        assert!(before + 48 * HOUR <= clock.now() && clock.now() < before + 49 * HOUR);
        clock.keep(data.path(), never()).unwrap();
        assert!(clock.now() < before + 49 * HOUR, "keeping counts no time twice");
    }

    #[test]
    fn a_time_behind_the_own_end_is_never_kept() {
        let data = tempfile::tempdir().unwrap();
        let clock = Clock::reading(in_2100);
        for end in [in_2100(), in_2100() - HOUR, in_1970()] {
            clock.keep(data.path(), end).unwrap();
        }
        assert!(!data.path().join(FILE).exists());
        assert!(close(Clock::kept_in(data.path()).now(), SystemTime::now()));
    }

    #[test]
    fn a_damaged_file_counts_as_none() {
        let data = tempfile::tempdir().unwrap();
        let whole = format!("{}\n", seconds(in_2100()));
        let mut damaged: Vec<String> = (0..whole.len()).map(|length| whole[..length].to_owned()).collect();
        damaged.extend(
            ["x\n", "-5\n", "+5\n", "05\n", "253402300800\n", "99999999999999999999\n", "5\n5\n"]
                .map(str::to_owned),
        );
        for text in damaged {
            fs::write(data.path().join(FILE), &text).unwrap();
            let clock = Clock::reading(in_1970).not_before_kept_in(data.path());
            assert!(close(clock.now(), built_at()), "{text:?}");
        }
    }

    #[test]
    fn tls_is_told_the_same_time() {
        let told = Clock::reading(in_2100).current_time().unwrap();
        assert_eq!(told.as_secs(), seconds(in_2100()));
    }
}
