//! Where a power cut, or a kill, can come in the middle of a write. Nothing of it is in the program: only tests cut.

/// What has been done when the cut comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// The unfinished file, or directory, is there, and empty.
    Made,
    HalfWritten,
    Written,
    Synced,
    /// The file has its name; that the name is on the disk was not waited for.
    Renamed,
}

/// The process goes on.
#[cfg(not(test))]
pub(crate) const fn after(_: Step) {}

/// It lives.
#[cfg(not(test))]
pub(crate) const fn is_dead() -> bool {
    false
}

#[cfg(test)]
pub(crate) use by_test::{after, during, is_dead};

#[cfg(test)]
mod by_test {
    use std::{
        cell::Cell,
        panic::{AssertUnwindSafe, catch_unwind, resume_unwind},
    };

    use super::Step;

    struct PowerCut;

    thread_local! {
        static CUT_AT: Cell<Option<(usize, Step)>> = const { Cell::new(None) };
        static IS_DEAD: Cell<bool> = const { Cell::new(false) };
    }

    /// The process ends here, if this is where.
    pub(crate) fn after(step: Step) {
        match CUT_AT.get() {
            Some((0, cut)) if cut == step => {
                CUT_AT.set(None);
                IS_DEAD.set(true);
                resume_unwind(Box::new(PowerCut));
            }
            // Writes are counted by their last step.
            Some((writes, cut)) if step == Step::Renamed => {
                CUT_AT.set(Some((writes.saturating_sub(1), cut)));
            }
            _ => {}
        }
    }

    /// Whether the process that works has ended: nothing clears up after it.
    pub(crate) fn is_dead() -> bool {
        IS_DEAD.get()
    }

    /// Does `work` with a cut after a step of the write that comes after so many whole ones. `None` when it was cut, and
    /// nothing that would have come after was done.
    pub(crate) fn during<T>(writes: usize, step: Step, work: impl FnOnce() -> T) -> Option<T> {
        CUT_AT.set(Some((writes, step)));
        let done = catch_unwind(AssertUnwindSafe(work));
        CUT_AT.set(None);
        IS_DEAD.set(false);
        match done {
            Ok(done) => Some(done),
            Err(cut) if cut.is::<PowerCut>() => None,
            Err(panic) => resume_unwind(panic),
        }
    }

    impl Step {
        /// All of them.
        pub(crate) const ALL: [Self; 5] =
            [Self::Made, Self::HalfWritten, Self::Written, Self::Synced, Self::Renamed];
    }
}
