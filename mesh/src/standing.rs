//! How long a connection may stand: as long as its peer is trusted, and until a certificate on it ends.
//!
//! ```text
//!  made ─────────────────────────── retired ──────── end ───────────── closed
//!        calls go over it            new calls dial    of the earlier    after a while for
//!                                    anew              certificate       what still runs
//! ```

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use lineside_certs::{Credentials, PeerIdentity, Refusal};
use rustls::pki_types::CertificateDer;
use tokio::{sync::watch, time::sleep};

/// The last part of a connection's time, in which new calls dial anew: a twentieth, and at most this long.
const MARGIN_MAX: Duration = Duration::from_secs(60);

/// The longest wait without a look at the clock, which can be set meanwhile.
const LOOK_MAX: Duration = Duration::from_secs(3600);

/// What has to be done with a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// What is new goes over a fresh connection.
    Retire,
    /// It is over.
    Close(Refusal),
}

/// When a connection's certificates end it. Pure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ends {
    retire: SystemTime,
    close: SystemTime,
}

impl Ends {
    /// For a connection that is made now, over which the earlier of its certificates ends at `not_after`.
    fn new(not_after: SystemTime, now: SystemTime, grace: Duration) -> Self {
        match not_after.duration_since(now) {
            Ok(left) => Self { retire: not_after - (left / 20).min(MARGIN_MAX), close: not_after + grace },
            // The two clocks differ, or the peer is about to say that it has ended. The peer's word counts.
            Err(_) => Self { retire: now + grace, close: now + grace },
        }
    }
}

/// Watches one connection.
pub(crate) struct Standing {
    credentials: Credentials,
    changes: watch::Receiver<u64>,
    peer: Arc<PeerIdentity>,
    chain: Vec<CertificateDer<'static>>,
    ends: Ends,
    retired: bool,
}

impl Standing {
    /// For a connection that is made now, on which the peer showed `chain`. `own_not_after` is the end of the certificate
    /// that was shown to it; `grace` is how long it stands past the end.
    pub(crate) fn new(
        credentials: &Credentials,
        peer: &Arc<PeerIdentity>,
        chain: Vec<CertificateDer<'static>>,
        own_not_after: SystemTime,
        grace: Duration,
    ) -> Self {
        let changes = credentials.changes();
        let ends = Ends::new(own_not_after.min(peer.not_after), credentials.clock().now(), grace);
        let (credentials, peer) = (credentials.clone(), Arc::clone(peer));
        Self { credentials, changes, peer, chain, ends, retired: false }
    }

    /// Waits until something has to be done. Cancel-safe.
    pub(crate) async fn due(&mut self) -> Due {
        loop {
            let verdict = self.credentials.identity().trust().judge_shown(&self.peer, &self.chain);
            if let Some(refusal) = verdict.refusal() {
                return Due::Close(refusal);
            }
            let now = self.credentials.clock().now();
            let until = |at: SystemTime| at.duration_since(now).unwrap_or_default();
            let wait = match (self.retired, until(self.ends.retire), until(self.ends.close)) {
                (_, _, Duration::ZERO) => return Due::Close(Refusal::Expired),
                (false, Duration::ZERO, _) => {
                    self.retired = true;
                    return Due::Retire;
                }
                (false, retire, _) => retire,
                (true, _, close) => close,
            };
            tokio::select! {
                // The handle holds the sender: this cannot fail.
                _ = self.changes.changed() => {}
                () = sleep(wait.min(LOOK_MAX)) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_connection_is_retired_shortly_before_a_certificate_ends_and_closed_after() {
        let now = SystemTime::UNIX_EPOCH + s(1_795_514_820);
        let retires = |left| Ends::new(now + left, now, s(30)).retire.duration_since(now).unwrap();
        let fortnight = s(14 * 24 * 3600);
        assert_eq!(retires(fortnight), fortnight - s(60));
        assert_eq!(retires(s(1200)), s(1140));
        assert_eq!(retires(s(20)), s(19));
        assert_eq!(retires(s(0)), s(0));
        assert_eq!(Ends::new(now + s(20), now, s(30)).close, now + s(50));
    }

    #[test]
    fn a_certificate_that_ended_before_leaves_the_peer_time_to_say_so() {
        let now = SystemTime::UNIX_EPOCH + s(1_795_514_820);
        let ends = Ends::new(now - s(10), now, s(30));
        assert_eq!((ends.retire, ends.close), (now + s(30), now + s(30)));
    }
}
