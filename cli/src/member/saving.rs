//! What the trust keeper writes, and when: a new certificate, a new trust list, the time.
//!
//! All of it is in force already. A trust list may not wait for a disk: it trusts less than the one before, and after a
//! restart that lost it the others tell it again. For a certificate it is safe because the one on the disk stays good
//! until its own end: a restart falls back to it and renews again, while not using the new one would shut this member out
//! for a full disk.
//!
//! Writing is done beside the network's thread, which has calls to carry meanwhile; one thread at a time, so that a disk
//! that hangs holds up this one and nobody else.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    thread,
    time::{Duration, SystemTime},
};

use lineside_certs::{Clock, Identity, IdentityError, Issued};
use tokio::{sync::oneshot, time::Instant};

/// How often what could not be written is tried again.
const WRITE_EVERY: Duration = Duration::from_secs(60);

/// How often the time is kept for the next start.
const CLOCK_EVERY: Duration = Duration::from_secs(3600);

/// What is to be written. Pure.
pub(super) struct Saving {
    /// A certificate with its key that is not on the disk yet.
    issued: Option<Arc<Issued>>,
    /// When certificate and trust list are to be written; `None` while the disk has them.
    write_at: Option<Instant>,
    clock_at: Instant,
    /// What is being written now.
    busy: Option<Write>,
    failed: bool,
}

/// One thing to write.
#[derive(Clone)]
pub(super) enum Write {
    /// The trust list, and before it the certificate, if it is a new one.
    Identity(Option<Arc<Issued>>),
    Clock,
}

/// What a person is to hear of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    /// It failed, and is tried again after this time.
    Failed(Duration),
    /// It is on the disk, after it had failed.
    Mended,
}

impl Saving {
    pub(super) fn new(now: Instant) -> Self {
        Self { issued: None, write_at: None, clock_at: now, busy: None, failed: false }
    }

    /// Notes that another identity is in force, with a new certificate or without.
    pub(super) fn changed(&mut self, issued: Option<Issued>, now: Instant) {
        self.issued = issued.map(Arc::new).or(self.issued.take());
        self.write_at = Some(now);
    }

    /// The next thing to write, if its time has come. It counts as being written until [`Self::ended`].
    pub(super) fn next(&mut self, now: Instant) -> Option<Write> {
        if self.busy.is_some() {
            return None;
        }
        let write = if self.write_at.take_if(|at| *at <= now).is_some() {
            Write::Identity(self.issued.clone())
        } else if self.clock_at <= now {
            self.clock_at = now + CLOCK_EVERY;
            Write::Clock
        } else {
            return None;
        };
        self.busy = Some(write.clone());
        Some(write)
    }

    /// Notes how it went.
    pub(super) fn ended(&mut self, is_written: bool, now: Instant) -> Told {
        match self.busy.take() {
            // The next hour's will do.
            Some(Write::Clock) if !is_written => Told::Failed(CLOCK_EVERY),
            Some(Write::Clock) | None => Told::Nothing,
            Some(Write::Identity(written)) if is_written => {
                // Unless one has come since.
                self.issued.take_if(|issued| written.is_some_and(|written| Arc::ptr_eq(issued, &written)));
                match std::mem::take(&mut self.failed) {
                    true => Told::Mended,
                    false => Told::Nothing,
                }
            }
            Some(Write::Identity(_)) => {
                self.failed = true;
                self.write_at = Some(now + WRITE_EVERY);
                Told::Failed(WRITE_EVERY)
            }
        }
    }

    /// When something is to be written.
    pub(super) fn next_wake(&self) -> Option<Instant> {
        if self.busy.is_some() {
            return None;
        }
        self.write_at.into_iter().chain([self.clock_at]).min()
    }
}

/// Where it is written.
#[derive(Debug)]
pub(super) struct Place {
    /// The directory of the identity.
    pub(super) identity: PathBuf,
    /// Where the time is kept.
    pub(super) state: PathBuf,
}

impl Write {
    /// Writes it.
    pub(super) async fn to(
        self,
        place: Arc<Place>,
        present: Arc<Identity>,
        clock: Clock,
    ) -> Result<(), String> {
        on_thread(move || match self {
            Self::Identity(issued) => {
                let saved = save(&place.identity, issued.as_deref(), &present);
                saved.map_err(|error| error.to_string())
            }
            Self::Clock => keep_clock(&clock, &place.state, present.not_after()),
        })
        .await
    }
}

fn save(directory: &Path, issued: Option<&Issued>, identity: &Identity) -> Result<(), IdentityError> {
    if let Some(issued) = issued {
        Identity::store_renewed(directory, issued)?;
    }
    Identity::store_trust(directory, identity.trust())
}

fn keep_clock(clock: &Clock, state: &Path, not_after: SystemTime) -> Result<(), String> {
    clock.keep(state, not_after).map_err(|error| error.to_string())
}

/// Waits for the disk on a thread of its own.
pub(super) async fn on_thread<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let (done, result) = oneshot::channel();
    let thread = thread::Builder::new().name("lineside-store".to_owned()).spawn(move || {
        let _nobody_waits = done.send(work());
    });
    thread.map_err(|error| error.to_string())?;
    result.await.unwrap_or_else(|_| Err("the thread that writes ended; see the log".to_owned()))
}

#[cfg(test)]
mod tests {
    use lineside_certs::{Authority, Subject};
    use lineside_wire::Role;

    use super::*;

    fn certificate() -> Issued {
        let home = tempfile::tempdir().expect("a directory");
        let authority = Authority::create(&home.path().join("ca"), "floor", SystemTime::now());
        let authority = authority.expect("a fresh directory");
        authority.issue(&Subject::new(Role::Node, "press"), SystemTime::now()).expect("the disk works")
    }

    /// One whose clock was kept already.
    fn saving() -> (Saving, Instant) {
        let now = Instant::now();
        let mut saving = Saving::new(now);
        assert!(matches!(saving.next(now), Some(Write::Clock)));
        assert_eq!(saving.ended(true, now), Told::Nothing);
        (saving, now)
    }

    #[test]
    fn what_cannot_be_written_is_tried_again_with_its_certificate() {
        let (mut saving, now) = saving();
        saving.changed(Some(certificate()), now);
        assert!(matches!(saving.next(now), Some(Write::Identity(Some(_)))));
        assert_eq!(saving.ended(false, now), Told::Failed(WRITE_EVERY));
        assert!(saving.next(now).is_none());
        // A trust list comes meanwhile: the certificate goes with it.
        let later = now + Duration::from_secs(1);
        saving.changed(None, later);
        assert!(matches!(saving.next(later), Some(Write::Identity(Some(_)))));
        assert_eq!(saving.ended(true, later), Told::Mended);
        assert_eq!(saving.next_wake(), Some(now + CLOCK_EVERY));
    }

    #[test]
    fn a_disk_that_hangs_has_one_thread_wait_and_what_came_since_is_written_after() {
        let (mut saving, now) = saving();
        saving.changed(Some(certificate()), now);
        assert!(saving.next(now).is_some());
        saving.changed(Some(certificate()), now);
        let later = now + 2 * CLOCK_EVERY;
        assert!(saving.next(later).is_none() && saving.next_wake().is_none());
        assert_eq!(saving.ended(true, later), Told::Nothing);
        assert!(matches!(saving.next(later), Some(Write::Identity(Some(_)))), "the second certificate");
        saving.ended(true, later);
        assert!(matches!(saving.next(later), Some(Write::Clock)));
        saving.ended(false, later);
        assert!(saving.next(later).is_none());
    }

    #[test]
    fn a_trust_list_alone_is_written_without_a_certificate() {
        let (mut saving, now) = saving();
        saving.changed(None, now);
        assert!(matches!(saving.next(now), Some(Write::Identity(None))));
    }
}
