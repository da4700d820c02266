//! What people are told of this member's certificate: counts for the metrics, and lines for the log. And what discovery
//! did not take, by reason.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use lineside_certs::{Alarm, Credentials, Identity};
use lineside_discovery::Counters;
use lineside_gateway::TrustReport;

/// What is counted for the metrics.
pub(crate) struct TrustCounts {
    credentials: Credentials,
    renewed: AtomicU64,
    failed: AtomicU64,
}

impl TrustCounts {
    /// Nothing was renewed yet.
    pub(super) fn new(credentials: Credentials) -> Arc<Self> {
        Arc::new(Self { credentials, renewed: AtomicU64::new(0), failed: AtomicU64::new(0) })
    }

    /// Counts a renewal, or a try.
    pub(super) fn count(&self, is_renewed: bool) {
        let counter = if is_renewed { &self.renewed } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// How things are now.
    pub(super) fn report(&self) -> TrustReport {
        let identity = self.credentials.identity();
        TrustReport {
            certificate_left: identity.expires_in(self.credentials.clock().now()).unwrap_or_default(),
            renewals: self.renewed.load(Ordering::Relaxed),
            renewals_failed: self.failed.load(Ordering::Relaxed),
            trust_number: identity.trust().stamp().number,
        }
    }
}

/// What discovery did not take since the start, by reason.
pub(super) fn rejected(counters: &Counters) -> Vec<(&'static str, u64)> {
    let gossip = &counters.gossip;
    vec![
        ("foreign_cluster_record", counters.mdns_foreign),
        ("invalid_record", counters.mdns_invalid),
        ("too_many_hints", counters.hints_refused),
        ("wrong_identity", counters.dials_wrong_identity),
        ("no_member", counters.dials_no_member),
        ("overload", counters.dropped),
        ("src_mismatch", gossip.src_mismatch),
        ("foreign_cluster_packet", gossip.foreign_cluster),
        ("misdirected_packet", gossip.misdirected),
        ("malformed_packet", gossip.malformed),
        ("too_many_members", gossip.over_limit),
        ("contested_life", gossip.rebirths_refused),
    ]
}

/// Tells of a certificate that nears its end.
pub(super) fn tell_alarm(alarm: Alarm, left_s: u64) {
    match alarm {
        Alarm::Warn => tracing::warn!(
            left_s,
            "three quarters of this member's certificate are over and it was not renewed: see that a member with the \
             authority's key runs and is reached"
        ),
        Alarm::Error => tracing::error!(
            left_s,
            "this member's certificate ends soon, and then nobody talks to it: start a member with the authority's key"
        ),
        Alarm::Expired => tracing::error!(
            "this member's certificate has ended: the others refuse it; move its identity directory away and join anew \
             with a token"
        ),
        Alarm::None => {}
    }
}

/// Tells of a new certificate.
pub(super) fn tell_renewed(identity: &Identity, good_for_s: u64) {
    let holder = identity.holder();
    tracing::info!(
        serial = holder.serial,
        generation = holder.generation,
        good_for_s,
        "the certificate was renewed"
    );
}

/// Tells of a new trust list.
pub(super) fn tell_trust(identity: &Identity) {
    let trust = identity.trust();
    tracing::info!(number = trust.stamp().number, issuing = trust.issuing(), "a new trust list is in force");
    if trust.judge(identity.holder()) == lineside_certs::Verdict::Revoked {
        tracing::error!(
            "this member was revoked: the others refuse it; to let the machine back in, move its identity directory away \
             and join anew with a token"
        );
    }
}
