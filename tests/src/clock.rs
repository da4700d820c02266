//! A machine whose clock is wrong: the binary is the one that customers run, the clock is put between it and the system.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::{Duration, SystemTime},
};

use crate::Plan;

const SOURCE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/src/clock.c");

/// A clock for plans. One per home.
pub struct WrongClock {
    library: PathBuf,
    /// Holds the seconds by which it is off.
    off: PathBuf,
}

impl WrongClock {
    /// A clock that starts in January 1970, as on a board without a battery. `home` keeps what it needs.
    #[must_use]
    pub fn of_1970(home: &Path) -> Self {
        let since =
            SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("this machine's clock is right");
        Self::make(home, 60 - seconds(since))
    }

    /// A clock that is so far ahead.
    #[must_use]
    pub fn ahead(home: &Path, by: Duration) -> Self {
        Self::make(home, seconds(by))
    }

    fn make(home: &Path, off_s: i64) -> Self {
        let library = home.join("clock.so");
        if !library.exists() {
            // A C compiler is there: the binary that is tested needed one.
            let mut compiler = Command::new("cc");
            compiler.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(SOURCE);
            let made = compiler.output().expect("cc can be run");
            assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        }
        let clock = Self { library, off: home.join("clock.off") };
        clock.put_off(off_s);
        clock
    }

    /// Sets it right, under the member that runs with it.
    pub fn set_right(&self) {
        self.put_off(0);
    }

    fn put_off(&self, by_s: i64) {
        std::fs::write(&self.off, by_s.to_string()).expect("writable");
    }

    /// The plan on a machine with this clock.
    #[must_use]
    pub fn on(&self, plan: Plan) -> Plan {
        plan.env("LD_PRELOAD", self.library.display()).env("STORY_CLOCK_OFF", self.off.display())
    }
}

fn seconds(time: Duration) -> i64 {
    i64::try_from(time.as_secs()).expect("a clock's time")
}
