//! The desk of the cluster's authority, on members with its key: joins and renewals, one after the other.
//!
//! A thread of its own, because each answer waits for the disk. It also looks twice a second whether a command on this
//! machine changed the authority (a token, a revocation, a rotation), and tells the trust keeper of the new list.

use std::{
    collections::BTreeSet,
    io,
    net::SocketAddr,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use lineside_certs::{
    Authority, AuthorityError, Clock, JoinCertificates, JoinRefusal, PeerIdentity, RenewRefusal,
};
use lineside_mesh::Enrolment;
use lineside_wire::{Enrolled, Fault, FaultCode, JoinParams, NodeId, RenewParams, SignedTrust, WebParams};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};

use super::office::behind;

/// Jobs that wait. Each takes a few syncs of the disk; beyond, the caller asks again or elsewhere.
const JOBS_MAX: usize = 8;

/// When a caller that found the desk full is to come again.
const BUSY_FOR_MS: u64 = 500;

/// How often the desk looks for changes that others made on this machine.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often a list of another holder is taken in again that could not be written.
const MERGE_EVERY: Duration = Duration::from_secs(30);

/// How often the certificates that joiners are shown are made anew; they last a day.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(3600);

/// What is asked of the desk.
enum Job {
    Join { params: JoinParams, exporter: [u8; 32], remote: SocketAddr, answer: Answer },
    Renew { peer: Box<PeerIdentity>, params: RenewParams, answer: Answer, _place: Place },
    Web { peer: Box<PeerIdentity>, params: WebParams, answer: Answer, _place: Place },
    Merge { seen: Box<SignedTrust> },
}

type Answer = oneshot::Sender<Result<Enrolled, Fault>>;

/// Nodes whose renewal waits: each has one place, so that one that asks without end keeps nobody else away.
type Waiting = Arc<Mutex<BTreeSet<NodeId>>>;

/// The place of one, until it is dropped. The lock is held for a look-up.
struct Place {
    node: NodeId,
    waiting: Waiting,
}

impl Place {
    fn take(waiting: &Waiting, node: NodeId) -> Option<Self> {
        let is_free = waiting.lock().unwrap_or_else(PoisonError::into_inner).insert(node);
        is_free.then(|| Self { node, waiting: Arc::clone(waiting) })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.node);
    }
}

/// A way to the desk, cheap to clone. The thread ends with the last one.
#[derive(Clone)]
pub(super) struct Desk {
    jobs: SyncSender<Job>,
    waiting: Waiting,
    /// Of those that wait for a certificate for HTTPS: a node may wait for both.
    waiting_web: Waiting,
    certificates: Arc<ArcSwap<JoinCertificates>>,
    lists: watch::Receiver<Option<SignedTrust>>,
}

impl Desk {
    /// Begins to serve for the member `node`.
    ///
    /// # Errors
    /// The system gives no thread.
    pub(super) fn open(authority: Authority, node: NodeId, clock: Clock) -> io::Result<Self> {
        let (jobs, jobs_out) = sync_channel(JOBS_MAX);
        let (lists_in, lists) = watch::channel(None);
        let certificates = Arc::<ArcSwap<JoinCertificates>>::default();
        let mut clerk = Clerk {
            authority,
            node,
            clock,
            lists: lists_in,
            certificates: Arc::clone(&certificates),
            version: None,
            refresh_at: Instant::now(),
            troubled: false,
            missed: None,
        };
        // Before the first joiner can come.
        clerk.look();
        thread::Builder::new().name("lineside-authority".to_owned()).spawn(move || clerk.run(&jobs_out))?;
        let (waiting, waiting_web) = (Waiting::default(), Waiting::default());
        Ok(Self { jobs, waiting, waiting_web, certificates, lists })
    }

    /// Told of every list that the authority signed. Closed when the desk is.
    pub(super) fn lists(&self) -> watch::Receiver<Option<SignedTrust>> {
        self.lists.clone()
    }

    /// Whether the desk serves: it closes when the authority moved on without the key here.
    pub(super) fn is_open(&self) -> bool {
        self.lists.has_changed().is_ok()
    }

    /// Renews the certificate of a peer, or our own.
    pub(super) fn renew(
        &self,
        peer: PeerIdentity,
        params: RenewParams,
    ) -> BoxFuture<'static, Result<Enrolled, Fault>> {
        match Place::take(&self.waiting, peer.node) {
            Some(_place) => self.ask(|answer| Job::Renew { peer: Box::new(peer), params, answer, _place }),
            None => Box::pin(std::future::ready(Err(busy()))),
        }
    }

    /// Issues a certificate for HTTPS to a peer, or to ourselves.
    pub(super) fn web(
        &self,
        peer: PeerIdentity,
        params: WebParams,
    ) -> BoxFuture<'static, Result<Enrolled, Fault>> {
        match Place::take(&self.waiting_web, peer.node) {
            Some(_place) => self.ask(|answer| Job::Web { peer: Box::new(peer), params, answer, _place }),
            None => Box::pin(std::future::ready(Err(busy()))),
        }
    }

    /// Takes in a list that came from elsewhere. Lost when the desk has much to do: it is told again.
    pub(super) fn merge(&self, seen: SignedTrust) -> bool {
        self.jobs.try_send(Job::Merge { seen: Box::new(seen) }).is_ok()
    }

    fn ask(&self, job: impl FnOnce(Answer) -> Job) -> BoxFuture<'static, Result<Enrolled, Fault>> {
        let (answer, answered) = oneshot::channel();
        let refused = match self.jobs.try_send(job(answer)) {
            Ok(()) => None,
            Err(TrySendError::Full(_)) => Some(busy()),
            Err(TrySendError::Disconnected(_)) => Some(closed()),
        };
        Box::pin(async move {
            match refused {
                Some(fault) => Err(fault),
                None => answered.await.unwrap_or_else(|_| Err(closed())),
            }
        })
    }
}

impl Enrolment for Desk {
    fn certificates(&self) -> JoinCertificates {
        JoinCertificates::clone(&self.certificates.load())
    }

    fn join(
        &self,
        params: JoinParams,
        exporter: [u8; 32],
        remote: SocketAddr,
    ) -> BoxFuture<'static, Result<Enrolled, Fault>> {
        self.ask(|answer| Job::Join { params, exporter, remote, answer })
    }
}

fn busy() -> Fault {
    Fault::new(FaultCode::Busy, "the authority has much to do; ask again").retry_after_ms(BUSY_FOR_MS)
}

fn closed() -> Fault {
    Fault::new(FaultCode::Unreachable, "this member does not issue certificates any more; ask another one")
}

/// The one who works at the desk.
struct Clerk {
    authority: Authority,
    node: NodeId,
    clock: Clock,
    lists: watch::Sender<Option<SignedTrust>>,
    certificates: Arc<ArcSwap<JoinCertificates>>,
    /// Of what is on the disk, when it was last looked at.
    version: Option<u64>,
    refresh_at: Instant,
    /// Whether the last look failed: told once.
    troubled: bool,
    /// A list of another holder that could not be written, and when to try again.
    missed: Option<(Box<SignedTrust>, Instant)>,
}

impl Clerk {
    fn run(&mut self, jobs: &Receiver<Job>) {
        loop {
            match jobs.recv_timeout(LOOK_EVERY) {
                Ok(job) => self.work(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            self.merge_missed();
            if !self.look() {
                return;
            }
        }
    }

    fn work(&mut self, job: Job) {
        let now = self.clock.now();
        match job {
            // Whoever waited too long has gone, after a disk that hung, say: no token is used up and no certificate made for
            // nobody. Who goes later has lost nothing: a joiner that comes again gets the same.
            Job::Join { answer, .. } | Job::Renew { answer, .. } | Job::Web { answer, .. }
                if answer.is_closed() => {}
            Job::Join { params, exporter, remote, answer } => {
                let joined = self.authority.join(&params, &exporter, &remote.ip().to_string(), now);
                let _gone = answer.send(joined.map_err(|refusal| join_fault(&refusal)));
            }
            Job::Renew { peer, params, answer, _place } => {
                let renewed = self.authority.renew(&peer, &params, now);
                let _gone = answer.send(renewed.map_err(|refusal| renew_fault(&refusal)));
            }
            Job::Web { peer, params, answer, _place } => {
                let issued = self.authority.web(&peer, &params, now);
                let _gone = answer.send(issued.map_err(|refusal| renew_fault(&refusal)));
            }
            Job::Merge { seen } => self.merge(seen),
        }
    }

    fn merge(&mut self, seen: Box<SignedTrust>) {
        // One that comes later holds what this one did: their numbers grow.
        self.missed = None;
        match self.authority.merge(&seen, self.clock.now()) {
            Ok(true) => tracing::info!("another holder of the authority's key changed something: taken in"),
            Ok(false) => {}
            Err(error) => {
                tracing::warn!(%error, "a trust list of another holder of the key was not taken in");
                if let AuthorityError::File { .. } | AuthorityError::Busy(_) = error {
                    self.missed = Some((seen, Instant::now() + MERGE_EVERY));
                }
            }
        }
    }

    fn merge_missed(&mut self) {
        if let Some((seen, _)) = self.missed.take_if(|(_, at)| *at <= Instant::now()) {
            self.merge(seen);
        }
    }

    /// Looks for changes on the disk; false when this desk has to close.
    fn look(&mut self) -> bool {
        let version = self.authority.disk_version();
        let is_new = self.version != Some(version);
        let now = Instant::now();
        if !is_new && now < self.refresh_at {
            return true;
        }
        match self.publish() {
            Ok(()) => {
                (self.version, self.troubled) = (Some(version), false);
                self.refresh_at = now + CERTIFICATES_EVERY;
            }
            Err(error) => {
                if !std::mem::replace(&mut self.troubled, true) {
                    tracing::warn!(%error, "the authority on this machine cannot be read, trying again");
                }
            }
        }
        if !self.authority.is_current() {
            behind();
            return false;
        }
        true
    }

    fn publish(&mut self) -> Result<(), AuthorityError> {
        let list = self.authority.trust()?;
        let certificates = self.authority.join_certificates(self.node, self.clock.now())?;
        self.certificates.store(Arc::new(certificates));
        self.lists.send_if_modified(|told| {
            let is_new = told.as_ref() != Some(&list);
            if is_new {
                *told = Some(list);
            }
            is_new
        });
        Ok(())
    }
}

/// One text for whatever is wrong with a token: the true reason is in the audit log, and is nobody's business outside.
fn join_fault(refusal: &JoinRefusal) -> Fault {
    match refusal {
        JoinRefusal::Unknown | JoinRefusal::Expired | JoinRefusal::Used | JoinRefusal::OtherRole(_) => {
            Fault::new(
                FaultCode::PermissionDenied,
                "the token is not good here: it is unknown, used, over, or for another role",
            )
        }
        JoinRefusal::Request(_) => Fault::new(FaultCode::InvalidParams, refusal.to_string()),
        JoinRefusal::Authority(error) => cannot(error),
    }
}

fn renew_fault(refusal: &RenewRefusal) -> Fault {
    match refusal {
        RenewRefusal::Revoked | RenewRefusal::InDoubt | RenewRefusal::Role(_) => {
            Fault::new(FaultCode::PermissionDenied, refusal.to_string())
        }
        RenewRefusal::TooOften { within } => Fault::new(FaultCode::RateLimited, refusal.to_string())
            .retry_after_ms(u64::try_from(within.as_millis()).unwrap_or(u64::MAX)),
        RenewRefusal::Request(_) => Fault::new(FaultCode::InvalidParams, refusal.to_string()),
        RenewRefusal::Authority(error) => cannot(error),
    }
}

/// A full disk, say: told here in full, and to the caller that another try can help.
fn cannot(error: &AuthorityError) -> Fault {
    if let AuthorityError::Busy(_) = error {
        return busy();
    }
    tracing::warn!(%error, "the authority cannot issue a certificate now");
    Fault::new(FaultCode::Unreachable, "the authority cannot issue a certificate now; its log says why")
}

#[cfg(test)]
mod tests;
