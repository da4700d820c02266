//! Keeps this member's certificate and trust list up to date, as long as it runs.
//!
//! ```text
//!   view: who goes by a newer list ─► lists ── trust.get ──► member          ┌► disk, then
//!   desk: a list signed here ─────────────────────────────────────────► verified ─► Credentials ─► every mesh
//!   clock ─► renewal: due ── certs.renew ──► desk, or a member with the key ─┘        └► own state ─► gossip
//! ```
//!
//! What to do when is decided in `lists` and `renewal`; here it is done. What cannot be written to the disk is used all
//! the same. For a trust list that is the safe side: it trusts less than the one before, and after a restart the others
//! tell it again. For a certificate it is safe because the one on the disk stays good until its own end: a restart falls
//! back to it and renews again, while not using the new one would shut this member out for a full disk.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use lineside_certs::{Alarm, Credentials, Identity, Issued, Trust, TrustError, Verdict};
use lineside_discovery::{ClusterView, Discovery, Member};
use lineside_gateway::TrustReport;
use lineside_mesh::{Destination, Mesh};
use lineside_wire::{MemberState, NodeId, SignedTrust};
use rand::{SeedableRng as _, rngs::StdRng, seq::SliceRandom as _};
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Instant, sleep},
};

use super::{
    asks::{fetch, renew},
    desk::Desk,
    lists::{Lists, Seen, Worth},
    own::Own,
    renewal::Plan,
    saving::{on_thread, save},
};

/// Members with the key that are asked in one try.
const HOLDERS_MAX: usize = 4;

/// How long a member that has just started waits to see one with the authority's key, before that is a failure.
const START_GRACE: Duration = Duration::from_secs(10);

/// How often what could not be written is tried again.
const WRITE_EVERY: Duration = Duration::from_secs(60);

/// How often the time is kept for the next start.
const CLOCK_EVERY: Duration = Duration::from_secs(3600);

/// Longest sleep: the system's clock may be set at any time, and certificates come near their end.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// And shortest, so that nothing that is due and cannot be done makes a busy loop.
const SLEEP_MIN: Duration = Duration::from_millis(50);

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

/// What the keeper works with.
pub(super) struct Parts {
    /// The directory of the identity.
    pub(super) directory: PathBuf,
    /// Where the time is kept.
    pub(super) state: PathBuf,
    pub(super) credentials: Credentials,
    pub(super) own: Arc<Own>,
    pub(super) discovery: Discovery,
    pub(super) mesh: Mesh,
    pub(super) desk: Option<Desk>,
    pub(super) counts: Arc<TrustCounts>,
}

/// Writes what an identity says into the state that others are told.
pub(super) fn describe(state: &mut MemberState, identity: &Identity, authority: bool) {
    let expires = identity.not_after().duration_since(UNIX_EPOCH);
    state.certificate_expires = expires.map_or(0, |since| since.as_secs());
    state.certificate_generation = identity.holder().generation;
    state.trust = identity.trust().stamp();
    state.authority = authority;
}

/// The end of something that was begun.
enum Done {
    List { node: NodeId, list: Result<SignedTrust, String> },
    Renewed(Result<Issued, String>),
}

/// What is in force and not on the disk.
struct Unsaved {
    issued: Option<Arc<Issued>>,
    again_at: Instant,
}

pub(super) struct Keeper {
    parts: Parts,
    plan: Plan,
    lists: Lists,
    jobs: JoinSet<Done>,
    renewing: bool,
    /// Nobody with the key was there when a renewal was due.
    waits: bool,
    /// A failure of this certificate's renewal was told.
    told: bool,
    unsaved: Option<Unsaved>,
    started: Instant,
    keep_clock_at: Instant,
    rng: StdRng,
}

impl Keeper {
    pub(super) fn new(parts: Parts) -> Self {
        let mut rng = StdRng::from_rng(&mut rand::rng());
        let (identity, now) = (parts.credentials.identity(), Instant::now());
        let plan = plan(&identity, parts.credentials.clock().now(), &mut rng);
        Self {
            parts,
            plan,
            lists: Lists::default(),
            jobs: JoinSet::new(),
            renewing: false,
            waits: false,
            told: false,
            unsaved: None,
            started: now,
            keep_clock_at: now,
            rng,
        }
    }

    /// Runs until it is aborted, or something that it needs ends, which is named.
    pub(super) async fn run(mut self) -> &'static str {
        let mut views = self.parts.discovery.view();
        let mut signed = self.parts.desk.as_ref().map(Desk::lists);
        loop {
            let view = Arc::clone(&views.borrow_and_update());
            self.begin(&view);
            self.alarm();
            let wake = self.next_wake();
            tokio::select! {
                changed = views.changed() => if changed.is_err() {
                    return "discovery";
                },
                Some(done) = self.jobs.join_next() => if self.take(done).await.is_err() {
                    return "the trust keeper";
                },
                list = next_signed(&mut signed) => match list {
                    Some(list) => self.take_signed_here(&list).await,
                    None => {
                        signed = None;
                        self.parts.mesh.set_enrolment(None);
                        self.tell();
                    }
                },
                () = sleep(wake) => self.tick().await,
            }
        }
    }

    /// Begins whatever is to be done with the cluster as it is now.
    fn begin(&mut self, view: &ClusterView) {
        let others: Vec<&Arc<Member>> = view.active().filter(|member| member.node != view.own).collect();
        let seen: Vec<_> = others
            .iter()
            .map(|member| Seen { node: member.node, address: member.address, stamp: member.trust })
            .collect();
        let (own, merges) = (self.parts.credentials.identity().trust().stamp(), self.desk().is_some());
        while let Some(Seen { node, address, .. }) =
            self.lists.next(own, merges, &seen, Instant::now(), &mut self.rng)
        {
            let mesh = self.parts.mesh.clone();
            self.jobs.spawn(async move {
                let list = fetch(&mesh, Destination { node, address }).await;
                Done::List { node, list }
            });
        }
        let has_key = |member: &&&Arc<Member>| member.state.as_ref().is_some_and(|state| state.authority);
        let holders = others.iter().filter(has_key);
        let to = |member: &&Arc<Member>| Destination { node: member.node, address: member.address };
        self.begin_renewal(holders.map(to).collect());
    }

    fn begin_renewal(&mut self, mut holders: Vec<Destination>) {
        let now = self.now();
        let desk = self.desk().cloned();
        let somebody = desk.is_some() || !holders.is_empty();
        if self.waits && somebody {
            self.waits = false;
            self.plan.found(now, &mut self.rng);
        }
        if self.renewing || !self.plan.is_due(now) {
            return;
        }
        if !somebody {
            if START_GRACE <= self.started.elapsed() {
                self.waits = true;
                self.not_renewed("no member with the authority's key is there");
            }
            return;
        }
        self.renewing = true;
        holders.shuffle(&mut self.rng);
        holders.truncate(HOLDERS_MAX);
        let (present, mesh) = (self.parts.credentials.identity(), self.parts.mesh.clone());
        self.jobs.spawn(async move { Done::Renewed(renew(&present, desk, &mesh, &holders).await) });
    }

    async fn take(&mut self, done: Result<Done, JoinError>) -> Result<(), JoinError> {
        match done? {
            Done::List { node, list } => {
                let worth = self.take_list(node, list).await;
                self.lists.answered(node, worth, Instant::now());
            }
            Done::Renewed(renewed) => {
                self.renewing = false;
                match renewed {
                    Ok(issued) => self.take_certificate(issued).await,
                    Err(reason) => self.not_renewed(&reason),
                }
            }
        }
        Ok(())
    }

    /// Takes a list that a member told.
    async fn take_list(&mut self, node: NodeId, list: Result<SignedTrust, String>) -> Worth {
        let list = match list {
            Ok(list) => list,
            Err(reason) => {
                tracing::debug!(%node, reason, "no trust list from this member");
                return Worth::Nothing;
            }
        };
        match self.parts.credentials.identity().trust().succeed(&list) {
            Ok(trust) => {
                self.adopt(trust).await;
                self.merge(&list);
                Worth::Taken
            }
            // Of a second holder of the key. When the desk here is full, the same is told again.
            Err(TrustError::SameNumber(_)) if self.merge(&list) => Worth::Taken,
            Err(TrustError::SameNumber(_) | TrustError::Older { .. }) => Worth::Nothing,
            Err(error) => {
                tracing::warn!(%node, %error, "this member told a trust list that is not taken");
                Worth::Bad
            }
        }
    }

    /// Lets the authority here take in what another one signed. False when it has too much to do, or is not here.
    fn merge(&self, list: &SignedTrust) -> bool {
        self.desk().is_some_and(|desk| desk.merge(list.clone()))
    }

    /// Takes a list that the authority on this machine signed.
    async fn take_signed_here(&mut self, list: &SignedTrust) {
        let identity = self.parts.credentials.identity();
        match identity.trust().succeed(list) {
            Ok(trust) => self.adopt(trust).await,
            Err(TrustError::SameNumber(_)) => {}
            Err(error) => {
                // The cluster is ahead of the authority here: a copy of its directory that was kept for a while.
                tracing::warn!(%error, "the authority on this machine lags behind the cluster and is told what it missed");
                if let Some(newer) = identity.trust().signed() {
                    self.merge(newer);
                }
            }
        }
    }

    async fn adopt(&mut self, trust: Trust) {
        let present = self.parts.credentials.identity();
        let (number, issuing) = (trust.stamp().number, trust.issuing());
        let next = Arc::new(present.with_trust(trust));
        self.store(Arc::clone(&next), None).await;
        let revoked = next.trust().judge(next.holder()) == Verdict::Revoked;
        self.parts.credentials.replace(next);
        let now = self.now();
        self.plan.issues(issuing, now, &mut self.rng);
        self.tell();
        tracing::info!(number, issuing, "a new trust list is in force");
        if revoked {
            tracing::error!(
                "this member was revoked: the others refuse it; to let the machine back in, move its identity \
                 directory away and join anew with a token"
            );
        }
    }

    async fn take_certificate(&mut self, issued: Issued) {
        let present = self.parts.credentials.identity();
        let renewed = match Identity::of(&issued) {
            Ok(renewed) => renewed,
            Err(error) => return self.not_renewed(&error.to_string()),
        };
        let newer = renewed.trust().signed().and_then(|list| present.trust().succeed(list).ok());
        let has_newer = newer.is_some();
        let renewed = Arc::new(renewed.with_trust(newer.unwrap_or_else(|| present.trust().clone())));
        self.store(Arc::clone(&renewed), Some(Arc::new(issued))).await;
        let now = self.now();
        self.plan = plan(&renewed, now, &mut self.rng);
        self.told = false;
        self.parts.counts.renewed.fetch_add(1, Ordering::Relaxed);
        tracing::info!(
            serial = renewed.holder().serial,
            generation = renewed.holder().generation,
            good_for_s = renewed.expires_in(now).unwrap_or_default().as_secs(),
            "the certificate was renewed"
        );
        if has_newer {
            tracing::info!(number = renewed.trust().stamp().number, "a new trust list is in force");
        }
        self.parts.credentials.replace(renewed);
        self.tell();
    }

    fn not_renewed(&mut self, reason: &str) {
        let now = self.now();
        self.plan.failed(now, &mut self.rng);
        self.parts.counts.failed.fetch_add(1, Ordering::Relaxed);
        if std::mem::replace(&mut self.told, true) {
            tracing::debug!(reason, "the certificate was not renewed");
        } else {
            tracing::warn!(
                reason,
                "the certificate was not renewed; it is still good, and this is tried again"
            );
        }
    }

    fn alarm(&mut self) {
        let now = self.now();
        let left_s = self.parts.credentials.identity().expires_in(now).unwrap_or_default().as_secs();
        match self.plan.alarm(now) {
            Some(Alarm::Warn) => tracing::warn!(
                left_s,
                "three quarters of this member's certificate are over and it was not renewed: see that a member with \
                 the authority's key runs and is reached"
            ),
            Some(Alarm::Error) => tracing::error!(
                left_s,
                "this member's certificate ends soon, and then nobody talks to it: start a member with the authority's \
                 key"
            ),
            Some(Alarm::Expired) => tracing::error!(
                "this member's certificate has ended: the others refuse it; move its identity directory away and join \
                 anew with a token"
            ),
            Some(Alarm::None) | None => {}
        }
    }

    /// Writes a certificate or the trust list, before it is in force.
    async fn store(&mut self, identity: Arc<Identity>, issued: Option<Arc<Issued>>) {
        let pending = self.unsaved.take().and_then(|unsaved| unsaved.issued);
        let issued = issued.or(pending);
        let written = save(self.parts.directory.clone(), issued.clone(), identity).await;
        if let Err(error) = written {
            tracing::warn!(
                error, again_in = ?WRITE_EVERY,
                "a new certificate or trust list could not be written: it is used all the same, and a restart would \
                 begin with the one before"
            );
            self.unsaved = Some(Unsaved { issued, again_at: Instant::now() + WRITE_EVERY });
        }
    }

    /// What has its time.
    async fn tick(&mut self) {
        let now = Instant::now();
        if self.unsaved.as_ref().is_some_and(|unsaved| unsaved.again_at <= now) {
            self.store(self.parts.credentials.identity(), None).await;
            if self.unsaved.is_none() {
                tracing::info!("what could not be written before is on the disk now");
            }
        }
        if self.keep_clock_at <= now {
            self.keep_clock_at = now + CLOCK_EVERY;
            let (clock, state) = (self.parts.credentials.clock().clone(), self.parts.state.clone());
            let not_after = self.parts.credentials.identity().not_after();
            let kept =
                on_thread(move || clock.keep(&state, not_after).map_err(|error| error.to_string())).await;
            if let Err(error) = kept {
                tracing::warn!(error, "the time cannot be kept for the next start");
            }
        }
    }

    fn next_wake(&self) -> Duration {
        let (now, wall) = (Instant::now(), self.now());
        let grace = self.started + START_GRACE;
        let plan = match self.renewing {
            true => SLEEP_MAX,
            // Due, and nobody to ask yet.
            false if self.plan.is_due(wall) && now < grace => grace - now,
            false => self.plan.due().duration_since(wall).unwrap_or_default(),
        };
        let times = [
            Some(self.keep_clock_at),
            self.lists.next_wake(),
            self.unsaved.as_ref().map(|unsaved| unsaved.again_at),
        ];
        let soonest = times.into_iter().flatten().map(|time| time.saturating_duration_since(now)).min();
        soonest.map_or(plan, |soonest| soonest.min(plan)).clamp(SLEEP_MIN, SLEEP_MAX)
    }

    /// Tells the others what changed.
    fn tell(&self) {
        let (identity, authority) = (self.parts.credentials.identity(), self.desk().is_some());
        if let Some(state) = self.parts.own.change(|state| describe(state, &identity, authority)) {
            self.parts.discovery.own(state);
        }
    }

    fn desk(&self) -> Option<&Desk> {
        self.parts.desk.as_ref().filter(|desk| desk.is_open())
    }

    /// The time by which certificates are judged.
    fn now(&self) -> SystemTime {
        self.parts.credentials.clock().now()
    }
}

fn plan(identity: &Identity, now: SystemTime, rng: &mut StdRng) -> Plan {
    Plan::new(identity.renewal(), identity.holder().generation, identity.trust().issuing(), now, rng)
}

/// The next list that is signed on this machine; `None` once, when none will be any more.
async fn next_signed(lists: &mut Option<watch::Receiver<Option<SignedTrust>>>) -> Option<SignedTrust> {
    let Some(lists) = lists else { return std::future::pending().await };
    loop {
        lists.changed().await.ok()?;
        if let Some(list) = lists.borrow_and_update().clone() {
            return Some(list);
        }
    }
}
