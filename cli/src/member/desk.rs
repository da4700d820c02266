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
use lineside_wire::{Enrolled, Fault, FaultCode, JoinParams, NodeId, RenewParams, SignedTrust};
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
        Ok(Self { jobs, waiting: Waiting::default(), certificates, lists })
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
            Job::Join { answer, .. } | Job::Renew { answer, .. } if answer.is_closed() => {}
            Job::Join { params, exporter, remote, answer } => {
                let joined = self.authority.join(&params, &exporter, &remote.ip().to_string(), now);
                let _gone = answer.send(joined.map_err(|refusal| join_fault(&refusal)));
            }
            Job::Renew { peer, params, answer, _place } => {
                let renewed = self.authority.renew(&peer, &params, now);
                let _gone = answer.send(renewed.map_err(|refusal| renew_fault(&refusal)));
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
mod tests {
    use futures_util::FutureExt as _;
    use lineside_wire::Role;

    use super::*;

    #[test]
    fn whatever_is_wrong_with_a_token_is_told_in_the_same_words() {
        let refusals = [
            JoinRefusal::Unknown,
            JoinRefusal::Expired,
            JoinRefusal::Used,
            JoinRefusal::OtherRole(Role::Node),
        ];
        let told: Vec<_> = refusals.iter().map(|refusal| join_fault(refusal).to_string()).collect();
        assert!(told.iter().all(|text| *text == told[0]), "{told:?}");
        assert_eq!(join_fault(&JoinRefusal::Unknown).code, FaultCode::PermissionDenied);
    }

    fn peer(n: u8) -> PeerIdentity {
        PeerIdentity {
            cluster: lineside_wire::ClusterId::from_bytes([9; 16]),
            node: NodeId::from_bytes([n; 16]),
            role: Role::Node,
            name: "press".to_owned(),
            not_after: std::time::SystemTime::UNIX_EPOCH,
            serial: String::new(),
            generation: 1,
        }
    }

    /// A desk that nobody works at yet, and its clerk.
    fn desk_and_clerk(directory: &std::path::Path) -> (Desk, Clerk, Receiver<Job>) {
        let authority = Authority::create(directory, "floor", std::time::SystemTime::now());
        let (jobs, jobs_out) = sync_channel(JOBS_MAX);
        let (lists_in, lists) = watch::channel(None);
        let certificates = Arc::<ArcSwap<JoinCertificates>>::default();
        let clerk = Clerk {
            authority: authority.expect("a fresh directory"),
            node: NodeId::from_bytes([1; 16]),
            clock: Clock::system(),
            lists: lists_in,
            certificates: Arc::clone(&certificates),
            version: None,
            refresh_at: Instant::now(),
            troubled: false,
            missed: None,
        };
        (Desk { jobs, waiting: Waiting::default(), certificates, lists }, clerk, jobs_out)
    }

    #[tokio::test]
    async fn nothing_is_signed_for_those_who_gave_up_waiting() {
        let home = tempfile::tempdir().expect("a directory");
        let (desk, mut clerk, jobs) = desk_and_clerk(&home.path().join("ca"));
        let cluster = clerk.authority.cluster();
        let request = lineside_certs::CertificateRequest::new();
        let params = RenewParams { csr: request.csr().to_vec().into() };
        let ask = |n| desk.renew(PeerIdentity { cluster, ..peer(n) }, params.clone());
        let (gone, waiting) = (ask(1), ask(2));
        drop(gone);
        while let Ok(job) = jobs.try_recv() {
            clerk.work(job);
        }
        waiting.await.expect("whoever waits is served");
        assert_eq!(clerk.authority.issued().expect("the disk works").len(), 1);
    }

    #[tokio::test]
    async fn a_disk_that_hangs_has_those_in_the_queue_wait_and_nobody_else() {
        let home = tempfile::tempdir().expect("a directory");
        let directory = home.path().join("ca");
        let authority = Authority::create(&directory, "floor", std::time::SystemTime::now());
        let authority = authority.expect("a fresh directory");
        let cluster = authority.cluster();
        let desk = Desk::open(authority, NodeId::from_bytes([1; 16]), Clock::system()).expect("a thread");
        let request = lineside_certs::CertificateRequest::new();
        let params = RenewParams { csr: request.csr().to_vec().into() };
        let ask = |n| desk.renew(PeerIdentity { cluster, ..peer(n) }, params.clone());
        let hangs = std::fs::File::open(directory.join("lock")).expect("it is there");
        hangs.lock().expect("nobody has it");

        // One is at work, or will be; so many wait behind it; all others hear at once that there is no room.
        let mut waiting = Vec::new();
        for mut answer in (1..=50).map(ask) {
            match (&mut answer).now_or_never() {
                Some(told) => assert_eq!(told.expect_err("there is no room").code, FaultCode::Busy),
                None => waiting.push(answer),
            }
        }
        let places = JOBS_MAX..=JOBS_MAX + 1;
        assert!(places.contains(&waiting.len()), "{} wait", waiting.len());
        let _at_once = desk.certificates();
        assert_eq!(ask(1).await.expect_err("it waits already").code, FaultCode::Busy);
        drop(hangs);
        for answer in waiting {
            answer.await.expect("the disk works again");
        }
        ask(1).await.expect("it waits no more");
    }

    #[test]
    fn what_another_holder_changed_is_taken_in_once_the_disk_has_room_again() {
        let home = tempfile::tempdir().expect("a directory");
        let [first, second] = ["first", "second"].map(|name| home.path().join(name));
        let (_desk, mut clerk, _jobs) = desk_and_clerk(&first);
        let copied = std::process::Command::new("cp").arg("-a").args([&first, &second]).status();
        assert!(copied.expect("cp can be run").success());
        let other = Authority::load(&second).expect("a copy is as good");
        let (node, now) = (NodeId::from_bytes([7; 16]), std::time::SystemTime::now());
        other.revoke(&lineside_certs::Revoke::Node(node), now).expect("the disk works");
        let told = other.trust().expect("the disk works");

        // Nothing can be appended to a directory: as with a full disk, but also for root.
        let (audit, aside) = (first.join("audit.jsonl"), first.join("aside"));
        std::fs::rename(&audit, &aside).expect("writable");
        std::fs::create_dir(&audit).expect("writable");
        clerk.merge(Box::new(told.clone()));
        assert!(clerk.missed.is_some() && clerk.authority.trust().expect("readable") != told);
        std::fs::remove_dir(&audit).expect("it is empty");
        std::fs::rename(&aside, &audit).expect("writable");
        clerk.merge_missed();
        assert!(clerk.missed.is_some(), "not before its time");
        clerk.missed.as_mut().expect("it was missed").1 = Instant::now();
        clerk.merge_missed();
        assert!(clerk.missed.is_none());
        assert_eq!(clerk.authority.trust().expect("readable"), told);
    }

    #[tokio::test]
    async fn a_full_desk_says_busy_at_once_and_a_closed_one_says_so() {
        let (jobs, jobs_out) = sync_channel(1);
        let (lists_in, lists) = watch::channel(None);
        let desk = Desk { jobs, waiting: Waiting::default(), certificates: Arc::default(), lists };
        let ask = |n| desk.renew(peer(n), RenewParams { csr: Vec::new().into() });
        let waiting = ask(1);
        assert_eq!(ask(2).await.expect_err("one job fills it").code, FaultCode::Busy);
        assert!(desk.is_open());
        drop((jobs_out, lists_in));
        assert_eq!(waiting.await.expect_err("nobody works").code, FaultCode::Unreachable);
        assert_eq!(ask(3).await.expect_err("nobody works").code, FaultCode::Unreachable);
        assert!(!desk.is_open());
    }
}
