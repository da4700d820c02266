//! The desk of the cluster's authority, on members with its key: joins and renewals, one after the other.
//!
//! A thread of its own, because each answer waits for the disk. It also looks twice a second whether a command on this
//! machine changed the authority (a token, a revocation, a rotation), and tells the trust keeper of the new list.

use std::{
    fs, io,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::Duration,
};

use arc_swap::ArcSwap;
use futures_util::future::BoxFuture;
use lineside_certs::{
    AUTHORITY_DIRECTORY, Authority, AuthorityError, Clock, Identity, JoinCertificates, JoinRefusal,
    PeerIdentity, RenewRefusal, disk,
};
use lineside_mesh::Enrolment;
use lineside_wire::{Enrolled, Fault, FaultCode, JoinParams, NodeId, RenewParams, SignedTrust};
use tokio::{
    sync::{oneshot, watch},
    time::Instant,
};
use zeroize::Zeroizing;

use crate::{
    config::Config,
    exit::{Exit, Failure, OrFail as _},
};

/// Jobs that wait. Each takes a few syncs of the disk; beyond, the caller asks again or elsewhere.
const JOBS_MAX: usize = 8;

/// When a caller that found the desk full is to come again.
const BUSY_FOR_MS: u64 = 500;

/// How often the desk looks for changes that others made on this machine.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How often the certificates that joiners are shown are made anew; they last a day.
const CERTIFICATES_EVERY: Duration = Duration::from_secs(3600);

/// Largest file with a passphrase: a line.
const PASSPHRASE_BYTES_MAX: u64 = 4096;

/// What is asked of the desk.
enum Job {
    Join { params: JoinParams, exporter: [u8; 32], remote: SocketAddr, answer: Answer },
    Renew { peer: Box<PeerIdentity>, params: RenewParams, answer: Answer },
    Merge { seen: Box<SignedTrust> },
}

type Answer = oneshot::Sender<Result<Enrolled, Fault>>;

/// A way to the desk, cheap to clone. The thread ends with the last one.
#[derive(Clone)]
pub(super) struct Desk {
    jobs: SyncSender<Job>,
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
        };
        // Before the first joiner can come.
        clerk.look();
        thread::Builder::new().name("lineside-authority".to_owned()).spawn(move || clerk.run(&jobs_out))?;
        Ok(Self { jobs, certificates, lists })
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
        self.ask(|answer| Job::Renew { peer: Box::new(peer), params, answer })
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
}

impl Clerk {
    fn run(&mut self, jobs: &Receiver<Job>) {
        loop {
            match jobs.recv_timeout(LOOK_EVERY) {
                Ok(job) => self.work(job),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            if !self.look() {
                return;
            }
        }
    }

    fn work(&mut self, job: Job) {
        let now = self.clock.now();
        // Whoever asked may have gone: the work is done all the same, and a joiner that comes again gets it.
        match job {
            Job::Join { params, exporter, remote, answer } => {
                let joined = self.authority.join(&params, &exporter, &remote.ip().to_string(), now);
                let _gone = answer.send(joined.map_err(|refusal| join_fault(&refusal)));
            }
            Job::Renew { peer, params, answer } => {
                let renewed = self.authority.renew(&peer, &params, now);
                let _gone = answer.send(renewed.map_err(|refusal| renew_fault(&refusal)));
            }
            Job::Merge { seen } => match self.authority.merge(&seen, now) {
                Ok(true) => {
                    tracing::info!("another holder of the authority's key revoked something: taken in");
                }
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(%error, "a trust list of another holder of the key was not taken in");
                }
            },
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

fn behind() {
    tracing::warn!(
        "the authority's key here signs no more: it was rotated on another machine; copy the directory of the \
         authority from there, or remove this one"
    );
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
        RenewRefusal::Revoked | RenewRefusal::Role(_) => {
            Fault::new(FaultCode::PermissionDenied, refusal.to_string())
        }
        RenewRefusal::Request(_) => Fault::new(FaultCode::InvalidParams, refusal.to_string()),
        RenewRefusal::Authority(error) => cannot(error),
    }
}

/// A full disk, say: told here in full, and to the caller that another try can help.
fn cannot(error: &AuthorityError) -> Fault {
    tracing::warn!(%error, "the authority cannot issue a certificate now");
    Fault::new(FaultCode::Unreachable, "the authority cannot issue a certificate now; its log says why")
}

/// The authority below the data directory, if its key is there and can be used. What keeps it from being used is told
/// here, and does not keep the member from working.
///
/// # Errors
/// Others can read the key: nothing is started with that.
pub(super) fn authority(config: &Config, identity: &Identity) -> Result<Option<Authority>, Failure> {
    let directory = config.data_dir().join(AUTHORITY_DIRECTORY);
    if !disk::is_there(&directory).unwrap_or(true) {
        return Ok(None);
    }
    let loaded = match load(config, &directory) {
        Ok(loaded) => loaded,
        Err(AuthorityError::Missing(_)) => return Ok(None),
        Err(error @ AuthorityError::Unsafe(_)) => {
            return Err(error).or_fail(Exit::Config, "the authority's key is not safe to use", "");
        }
        Err(error) => {
            tracing::error!(%error, "the authority on this machine cannot be used: no certificate is issued here");
            return Ok(None);
        }
    };
    let Some(authority) = loaded else { return Ok(None) };
    if authority.cluster() != identity.cluster() {
        tracing::error!(
            authority = %authority.cluster(), own = %identity.cluster(),
            "the authority on this machine is another cluster's: no certificate is issued here"
        );
        return Ok(None);
    }
    if !authority.is_current() {
        behind();
        return Ok(None);
    }
    Ok(Some(authority.with_lifetimes(config.lifetimes())))
}

/// `None` when the key has a passphrase that nobody gave, which was told.
fn load(config: &Config, directory: &Path) -> Result<Option<Authority>, AuthorityError> {
    if !Authority::is_locked(directory)? {
        return Authority::load(directory).map(Some);
    }
    let Some(file) = &config.certs.passphrase_file.0 else {
        tracing::warn!(
            "the authority's key has a passphrase, so no certificate is issued or renewed here: name a file with it \
             in certs.passphrase_file"
        );
        return Ok(None);
    };
    match passphrase(file) {
        Ok(passphrase) => Authority::unlock(directory, &passphrase).map(Some),
        Err(error) => {
            tracing::warn!(
                file = %file.display(), error,
                "the passphrase of the authority's key cannot be read: no certificate is issued or renewed here"
            );
            Ok(None)
        }
    }
}

fn passphrase(file: &Path) -> Result<Zeroizing<String>, String> {
    disk::check_secret(file).map_err(|error| error.to_string())?;
    let length = fs::metadata(file).map_err(|error| error.to_string())?.len();
    if PASSPHRASE_BYTES_MAX < length {
        return Err(format!("it has {length} bytes, and a passphrase has at most {PASSPHRASE_BYTES_MAX}"));
    }
    let text = Zeroizing::new(fs::read_to_string(file).map_err(|error| error.to_string())?);
    Ok(Zeroizing::new(text.trim_end_matches(['\r', '\n']).to_owned()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

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

    #[test]
    fn a_passphrase_is_one_line_of_a_private_file() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("passphrase");
        fs::write(&file, "three blind mice\n").expect("writable");
        fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("its owner may");
        assert!(passphrase(&file).expect_err("others can read it").contains("chmod 600"));
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("its owner may");
        assert_eq!(*passphrase(&file).expect("private"), "three blind mice");
        fs::write(&file, vec![b'x'; 5000]).expect("writable");
        assert!(passphrase(&file).is_err());
    }

    #[tokio::test]
    async fn a_full_desk_says_busy_at_once_and_a_closed_one_says_so() {
        let (jobs, jobs_out) = sync_channel(1);
        let (lists_in, lists) = watch::channel(None);
        let desk = Desk { jobs, certificates: Arc::default(), lists };
        let peer = PeerIdentity {
            cluster: lineside_wire::ClusterId::from_bytes([9; 16]),
            node: NodeId::from_bytes([1; 16]),
            role: Role::Node,
            name: "press".to_owned(),
            not_after: std::time::SystemTime::UNIX_EPOCH,
            serial: String::new(),
            generation: 1,
        };
        let ask = || desk.renew(peer.clone(), RenewParams { csr: Vec::new().into() });
        let waiting = ask();
        assert_eq!(ask().await.expect_err("one job fills it").code, FaultCode::Busy);
        assert!(desk.is_open());
        drop((jobs_out, lists_in));
        assert_eq!(waiting.await.expect_err("nobody works").code, FaultCode::Unreachable);
        assert_eq!(ask().await.expect_err("nobody works").code, FaultCode::Unreachable);
        assert!(!desk.is_open());
    }
}
