//! Panics: told in the log with their place, whatever becomes of the thread that panicked, and counted.
//!
//! What they end is in this module's parent. The count is in what the member says of its health.

use std::{
    any::Any,
    panic::{self, PanicHookInfo},
    sync::atomic::{AtomicU64, Ordering},
    thread,
};

/// Of this process.
static DEFECTS: AtomicU64 = AtomicU64::new(0);

/// From now on panics are lines in the log, in the form that it has, in the place of text on stderr.
pub(super) fn listen() {
    panic::set_hook(Box::new(tell));
}

/// Panics so far.
pub(super) fn count() -> u64 {
    DEFECTS.load(Ordering::Relaxed)
}

fn tell(info: &PanicHookInfo<'_>) {
    let count = DEFECTS.fetch_add(1, Ordering::Relaxed).wrapping_add(1);
    let thread = thread::current();
    let place = info.location().map(ToString::to_string).unwrap_or_default();
    tracing::error!(
        thread = thread.name().unwrap_or("without a name"),
        place,
        panic = words(info.payload()),
        count,
        "a thread panicked, by a defect: what it did ends, and whatever depends on that"
    );
}

fn words(payload: &(dyn Any + Send)) -> &str {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&str>().copied()).unwrap_or("it said nothing")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_told_in_its_own_words() {
        assert_eq!(words(&"plain"), "plain");
        assert_eq!(words(&String::from("made")), "made");
        assert_eq!(words(&7), "it said nothing");
    }
}
