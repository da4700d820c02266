//! Keeps this member's certificate and trust list up to date, as long as it runs.
//!
//! ```text
//!   view: who goes by a newer list ─► lists ── trust.get ──► member          ┌► Credentials ─► every mesh
//!   desk: a list signed here ─────────────────────────────────────────► verified ─► own state ─► gossip
//!   clock ─► renewal: due ── certs.renew ──► desk, or a member with the key ─┘        └► saving ─► disk
//! ```
//!
//! What to do when is decided in `lists`, `renewal` and `saving`; here it is begun. Nothing here waits: what may take its time
//! is a job beside the loop, with an end. So neither a silent member nor a disk that hangs holds up a revocation.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use lineside_certs::{Credentials, Identity, Issued, Trust, TrustError};
use lineside_discovery::{ClusterView, Discovery, Member};
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
    report::{TrustCounts, tell_alarm, tell_renewed, tell_trust},
    saving::{Place, Saving, Told},
};

/// Members with the key that are asked in one try.
const HOLDERS_MAX: usize = 4;

/// How long a member that has just started waits to see one with the authority's key, before that is a failure.
const START_GRACE: Duration = Duration::from_secs(10);

/// How often a desk that was full is asked again to take in a list.
const MERGE_EVERY: Duration = Duration::from_secs(1);

/// Longest sleep: the system's clock may be set at any time, and certificates come near their end.
const SLEEP_MAX: Duration = Duration::from_secs(60);
/// And shortest, so that nothing that is due and cannot be done makes a busy loop.
const SLEEP_MIN: Duration = Duration::from_millis(50);

/// What the keeper works with.
pub(super) struct Parts {
    pub(super) place: Arc<Place>,
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
    Written(Result<(), String>),
}

pub(super) struct Keeper {
    parts: Parts,
    plan: Plan,
    lists: Lists,
    saving: Saving,
    jobs: JoinSet<Done>,
    renewing: bool,
    /// Nobody with the key was there when a renewal was due.
    waits: bool,
    /// A failure of this certificate's renewal was told.
    told: bool,
    /// A list that the desk had no room for.
    unmerged: Option<SignedTrust>,
    started: Instant,
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
            saving: Saving::new(now),
            jobs: JoinSet::new(),
            renewing: false,
            waits: false,
            told: false,
            unmerged: None,
            started: now,
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
                Some(done) = self.jobs.join_next() => if self.take(done).is_err() {
                    return "the trust keeper";
                },
                list = next_signed(&mut signed) => match list {
                    Some(list) => self.take_signed_here(&list),
                    None => {
                        signed = None;
                        self.parts.mesh.set_enrolment(None);
                        self.tell();
                    }
                },
                () = sleep(wake) => {}
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
        self.begin_writing();
        if let Some(list) = self.unmerged.take() {
            self.merge(&list);
        }
    }

    fn begin_writing(&mut self) {
        while let Some(write) = self.saving.next(Instant::now()) {
            let (place, credentials) = (Arc::clone(&self.parts.place), &self.parts.credentials);
            let writing = write.to(place, credentials.identity(), credentials.clock().clone());
            self.jobs.spawn(async move { Done::Written(writing.await) });
        }
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

    fn take(&mut self, done: Result<Done, JoinError>) -> Result<(), JoinError> {
        match done? {
            Done::List { node, list } => self.take_list(node, list),
            Done::Renewed(renewed) => {
                self.renewing = false;
                match renewed {
                    Ok(issued) => self.take_certificate(issued),
                    Err(reason) => self.not_renewed(&reason),
                }
            }
            Done::Written(written) => {
                let told = self.saving.ended(written.is_ok(), Instant::now());
                tell_written(told, &written.err().unwrap_or_default());
            }
        }
        Ok(())
    }

    /// Takes what a member answered that was asked for its list.
    fn take_list(&mut self, node: NodeId, list: Result<SignedTrust, String>) {
        let (worth, reason) = match list {
            Ok(list) => match self.judge_list(&list) {
                Ok(worth) => (worth, String::new()),
                Err(error) => (Worth::Bad, error.to_string()),
            },
            Err(reason) => (Worth::Nothing, reason),
        };
        let is_news = self.lists.answered(node, worth, Instant::now());
        match worth {
            Worth::Bad if is_news => {
                tracing::warn!(%node, reason, "this member told a trust list that is not taken");
            }
            Worth::Bad | Worth::Nothing => tracing::debug!(%node, reason, "no trust list from this member"),
            Worth::Taken => {}
        }
    }

    fn judge_list(&mut self, list: &SignedTrust) -> Result<Worth, TrustError> {
        match self.parts.credentials.identity().trust().succeed(list) {
            Ok(trust) => {
                self.adopt(trust);
                self.merge(list);
                Ok(Worth::Taken)
            }
            // Of a second holder of the key.
            Err(TrustError::SameNumber(_)) if self.desk().is_some() => {
                self.merge(list);
                Ok(Worth::Taken)
            }
            Err(TrustError::SameNumber(_) | TrustError::Older { .. }) => Ok(Worth::Nothing),
            Err(error) => Err(error),
        }
    }

    /// Lets the authority here, if it is, take in what another one signed; later, when it has too much to do now.
    fn merge(&mut self, list: &SignedTrust) {
        if self.desk().is_some_and(|desk| !desk.merge(list.clone())) {
            self.unmerged = Some(list.clone());
        }
    }

    /// Takes a list that the authority on this machine signed.
    fn take_signed_here(&mut self, list: &SignedTrust) {
        let identity = self.parts.credentials.identity();
        match identity.trust().succeed(list) {
            Ok(trust) => {
                // A copy of its directory that was kept for a while, and made changes alone: its numbers are higher.
                if trust.lacks_revocations()
                    && let Some(before) = identity.trust().signed()
                {
                    tracing::warn!(
                        "the authority on this machine knows less than the cluster and is told what it missed"
                    );
                    self.merge(before);
                }
                self.adopt(trust);
            }
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

    /// Puts a list in force at once: whom it shuts out is not to stay for as long as a disk takes.
    fn adopt(&mut self, trust: Trust) {
        let issuing = trust.issuing();
        let next = Arc::new(self.parts.credentials.identity().with_trust(trust));
        tell_trust(&next);
        self.put_in_force(next, None);
        let now = self.now();
        self.plan.issues(issuing, now, &mut self.rng);
    }

    fn take_certificate(&mut self, issued: Issued) {
        let present = self.parts.credentials.identity();
        let renewed = match Identity::of(&issued) {
            Ok(renewed) => renewed,
            Err(error) => return self.not_renewed(&error.to_string()),
        };
        let newer = renewed.trust().signed().cloned();
        let newer = newer.and_then(|list| Some((present.trust().succeed(&list).ok()?, list)));
        let (trust, newer) =
            newer.map_or((present.trust().clone(), None), |(trust, list)| (trust, Some(list)));
        let renewed = Arc::new(renewed.with_trust(trust));
        let now = self.now();
        self.plan = plan(&renewed, now, &mut self.rng);
        self.told = false;
        self.parts.counts.count(true);
        tell_renewed(&renewed, renewed.expires_in(now).unwrap_or_default().as_secs());
        if let Some(list) = newer {
            tell_trust(&renewed);
            self.merge(&list);
        }
        self.put_in_force(renewed, Some(issued));
    }

    fn put_in_force(&mut self, identity: Arc<Identity>, issued: Option<Issued>) {
        self.parts.credentials.replace(identity);
        self.saving.changed(issued, Instant::now());
        self.tell();
    }

    fn not_renewed(&mut self, reason: &str) {
        let now = self.now();
        self.plan.failed(now, &mut self.rng);
        self.parts.counts.count(false);
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
        let left = self.parts.credentials.identity().expires_in(now).unwrap_or_default();
        if let Some(alarm) = self.plan.alarm(now) {
            tell_alarm(alarm, left.as_secs());
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
        let merge = self.unmerged.as_ref().map(|_| now + MERGE_EVERY);
        let times = [self.saving.next_wake(), self.lists.next_wake(now), merge];
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

fn tell_written(told: Told, error: &str) {
    match told {
        Told::Nothing => {}
        Told::Failed(again_in) => tracing::warn!(
            error,
            ?again_in,
            "what a restart begins with (certificate, trust list, time) could not be written: what is new is used all the \
             same, and written later"
        ),
        Told::Mended => tracing::info!("what could not be written before is on the disk now"),
    }
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
