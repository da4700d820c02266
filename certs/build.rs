//! Tells the code when it was built: no clock is right that says it is earlier (see `src/clock.rs`).

use std::time::{SystemTime, UNIX_EPOCH};

fn main() {
    // What makes two builds of the same source alike; packagers set it.
    const GIVEN: &str = "SOURCE_DATE_EPOCH";
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed={GIVEN}");
    let now = || SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let built: u64 = match std::env::var(GIVEN) {
        Ok(text) => text.parse().expect("SOURCE_DATE_EPOCH has to be a number of seconds since 1970"),
        Err(_) => now(),
    };
    println!("cargo::rustc-env=LINESIDE_BUILT_AT={built}");
}
