//! HTTPS: keeps the door's certificate and the trust that client certificates are judged by up to date.
//!
//! ```text
//!   gateway.tls = "files":    two files ── changed? ──────────────────────────────────┐
//!   gateway.tls = "cluster":  DATA/web ── due? names? ── certs.web ──► desk or holder ─┴─► WebTls ─► every shard
//!   Credentials: another trust list ───────────────────────────────────────────────────┘    └► keys ─► Shared
//! ```
//!
//! What to do when is decided in `files` and `plan`, both pure. Nothing here waits: a disk or a member that hangs holds up
//! no other certificate, and no revocation.

mod files;
mod names;
mod plan;

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, UNIX_EPOCH},
};

use lineside_certs::{CertificateSummary, Credentials, Renewal, WebCertificate, WebName};
use lineside_gateway::{Shared, WebTls, WebTlsError};
use lineside_mesh::{Destination, Mesh};
use lineside_wire::MemberRow;
use rand::seq::SliceRandom as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::{
    sync::watch,
    task::{JoinError, JoinSet},
    time::{Instant, sleep},
};

use super::{asks, desk::Desk, known::Known, own::Own, saving::on_thread};
use crate::{
    config::{Config, Tls},
    exit::{Exit, Failure, OrFail as _},
};
use files::{Look, Pair, Watched};
use plan::Plan;

/// Below the data directory: the certificate for HTTPS that the cluster's authority issued.
const DIRECTORY: &str = "web";

/// How often the files, the own names and the time are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(2);

/// Members with the key that are asked in one try.
const HOLDERS_MAX: usize = 4;

/// The door's certificate, before anybody keeps it up to date.
pub(super) struct Web {
    pub(super) tls: Arc<WebTls>,
    shown: Option<Shown>,
    source: Source,
}

/// A certificate with its key, as clients are shown it.
struct Shown {
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
}

/// Where it comes from.
enum Source {
    Files(Watched),
    Cluster { plan: Box<Plan>, certificate: Option<Arc<WebCertificate>> },
}

/// Prepares HTTPS as the settings say; `None` when there is none.
///
/// # Errors
/// The files cannot be used; or others can read the key that was kept of the cluster's certificate.
pub(super) fn open(config: &Config, credentials: &Credentials) -> Result<Option<Web>, Failure> {
    let (shown, source) = match config.gateway.tls {
        Tls::Off => return Ok(None),
        Tls::Files => {
            let pair = Pair::of(config);
            let (look, read) = pair.look_and_read();
            let (chain, key) = read.or_fail(
                Exit::Config,
                "HTTPS cannot be served",
                "name a certificate and its key in gateway.tls_certificate and gateway.tls_key",
            )?;
            let (shown, mut watched) = (Shown { chain, key }, Watched::new(pair, look));
            watched.shows(shown.life());
            (Some(shown), Source::Files(watched))
        }
        Tls::Cluster => {
            let directory = config.data_dir().join(DIRECTORY);
            let kept = WebCertificate::load(&directory).or_fail(
                Exit::Config,
                "the certificate for HTTPS cannot be used",
                format!("remove {}: another one is asked for then", directory.display()),
            )?;
            let now = credentials.clock().now();
            let kept = kept.filter(|kept| now < kept.life().not_after);
            let known = kept.as_ref().map(|kept| (kept.names().iter().cloned().collect(), kept.life()));
            let plan = Box::new(Plan::new(known, rand::random(), Instant::now()));
            (kept.as_ref().map(Shown::of), Source::Cluster { plan, certificate: kept.map(Arc::new) })
        }
    };
    let tls = match &shown {
        Some(shown) => {
            let (identity, (chain, key)) = (credentials.identity(), shown.pair());
            WebTls::new(chain, key, Some((identity.trust(), credentials.clock())))
        }
        None => WebTls::pending(),
    };
    let tls = tls.or_fail(Exit::Config, "HTTPS cannot be served", "")?;
    Ok(Some(Web { tls: Arc::new(tls), shown, source }))
}

impl Shown {
    fn of(certificate: &WebCertificate) -> Self {
        Self { chain: certificate.chain(), key: certificate.key() }
    }

    /// From when to when the first of the chain is good.
    fn life(&self) -> Option<Renewal> {
        let own = CertificateSummary::of_der(self.chain.first()?).ok()?;
        let at = |seconds| UNIX_EPOCH + Duration::from_secs(seconds);
        Some(Renewal { not_before: at(own.not_before), not_after: at(own.not_after) })
    }

    fn pair(&self) -> (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>) {
        (self.chain.clone(), self.key.clone_key())
    }
}

/// What the keeper works with.
pub(super) struct Parts {
    pub(super) credentials: Credentials,
    pub(super) shared: Arc<Shared>,
    pub(super) own: Arc<Own>,
    pub(super) known: Arc<Known>,
    pub(super) mesh: Mesh,
    pub(super) desk: Option<Desk>,
    /// The settings in force; rings when they were read again.
    pub(super) settings: watch::Receiver<Arc<Config>>,
}

/// The end of something that was begun.
enum Done {
    Looked(Look),
    Read(Box<(Look, files::Read)>),
    Issued(Result<Box<WebCertificate>, String>),
    Stored(Result<(), String>),
}

/// Keeps what the door shows, and whom it lets in.
pub(super) struct WebKeeper {
    parts: Parts,
    web: Option<Web>,
    directory: PathBuf,
    jobs: JoinSet<Done>,
    /// A job for the certificate runs: one at a time.
    busy: bool,
}

impl WebKeeper {
    /// Puts the keys in force that are known now. `web` is `None` where there is no HTTPS.
    pub(super) fn new(parts: Parts, web: Option<Web>) -> Self {
        let directory = parts.settings.borrow().data_dir().join(DIRECTORY);
        let mut keeper = Self { parts, web, directory, jobs: JoinSet::new(), busy: false };
        keeper.adopt_keys();
        keeper.judge();
        keeper
    }

    /// Runs until it is aborted, or something that it needs ends, which is named.
    pub(super) async fn run(mut self) -> &'static str {
        let mut trust = self.parts.credentials.changes();
        loop {
            self.begin();
            tokio::select! {
                changed = trust.changed() => {
                    if changed.is_err() {
                        return "the identity";
                    }
                    self.adopt_keys();
                    self.judge();
                    self.show();
                }
                Ok(()) = self.parts.settings.changed() => self.read_again(),
                Some(done) = self.jobs.join_next() => if self.take(done).is_err() {
                    return "the keeper of the certificate for HTTPS";
                },
                () = sleep(LOOK_EVERY) => {}
            }
        }
    }

    fn adopt_keys(&self) {
        self.parts.shared.set_keys(self.parts.credentials.identity().trust().keys().to_vec());
    }

    /// Whether the certificate is still one of the authority that signs now.
    fn judge(&mut self) {
        if let Some(Web { source: Source::Cluster { plan, certificate: Some(certificate) }, .. }) =
            &mut self.web
        {
            plan.judged(certificate.is_of(self.parts.credentials.identity().trust()));
        }
    }

    /// Begins what is to be done for the certificate now.
    fn begin(&mut self) {
        if self.busy {
            return;
        }
        let Some(web) = &mut self.web else { return };
        match &mut web.source {
            Source::Files(watched) => {
                if watched.ends(self.parts.credentials.clock().now()) {
                    tracing::error!(
                        left_s = web.tls.left(self.parts.credentials.clock().now()).as_secs(),
                        certificate = %watched.pair().certificate.display(),
                        "the certificate for HTTPS ends soon or has ended: write a new one to the same files"
                    );
                }
                if !watched.is_due(Instant::now()) {
                    return;
                }
                let pair = watched.pair().clone();
                self.jobs.spawn(async move {
                    Done::Looked(on_thread(move || Ok(pair.look())).await.unwrap_or_default())
                });
                self.busy = true;
            }
            Source::Cluster { .. } => self.begin_asking(),
        }
    }

    fn begin_asking(&mut self) {
        let Some(Web { source: Source::Cluster { plan, .. }, .. }) = &mut self.web else { return };
        let (identity, at) = (self.parts.credentials.identity(), Instant::now());
        let names = names::wanted(&self.parts.settings.borrow(), self.parts.own.state().address.ip());
        if !plan.is_due(&names, self.parts.credentials.clock().now(), at) {
            return;
        }
        let desk = self.parts.desk.clone().filter(Desk::is_open);
        let mut holders = holders(self.parts.known.roster().rows(), identity.node());
        if desk.is_none() && holders.is_empty() {
            return tell_failure(plan, "no member with the authority's key is there", at);
        }
        holders.shuffle(&mut rand::rng());
        holders.truncate(HOLDERS_MAX);
        plan.asked(names.clone());
        let mesh = self.parts.mesh.clone();
        self.jobs.spawn(async move {
            let names = names.iter().map(ToString::to_string).collect();
            let issued = asks::web(&identity, desk, &mesh, &holders, names).await;
            Done::Issued(issued.map(Box::new))
        });
        self.busy = true;
    }

    fn take(&mut self, done: Result<Done, JoinError>) -> Result<(), JoinError> {
        match done? {
            Done::Looked(look) => {
                self.busy = false;
                if let Some(Web { source: Source::Files(watched), .. }) = &mut self.web
                    && watched.is_to_be_read(look)
                {
                    self.read_files();
                }
            }
            Done::Read(read) => {
                self.busy = false;
                let (look, read) = *read;
                self.take_files(look, read);
            }
            Done::Issued(issued) => {
                self.busy = false;
                self.take_certificate(issued);
            }
            Done::Stored(Ok(())) => {}
            Done::Stored(Err(error)) => tracing::warn!(
                error,
                "the certificate for HTTPS could not be written: it is used all the same, and a restart asks for another"
            ),
        }
        Ok(())
    }

    /// The settings were read again, or a person asked for that: what they name is looked at anew.
    fn read_again(&mut self) {
        let settings = Arc::clone(&self.parts.settings.borrow_and_update());
        if let Some(Web { source: Source::Files(watched), .. }) = &mut self.web {
            watched.point_to(Pair::of(&settings));
            self.read_files();
        }
    }

    fn read_files(&mut self) {
        let Some(Web { source: Source::Files(watched), .. }) = &self.web else { return };
        let pair = watched.pair().clone();
        self.busy = true;
        self.jobs.spawn(async move {
            let read = on_thread(move || Ok(pair.look_and_read())).await;
            let failed = |reason| {
                let path = "the certificate for HTTPS".to_owned();
                (Look::default(), Err(WebTlsError::File { path, reason }))
            };
            Done::Read(Box::new(read.unwrap_or_else(failed)))
        });
    }

    fn take_files(&mut self, look: Look, read: files::Read) {
        let taken = read.and_then(|(chain, key)| {
            let shown = Shown { chain, key };
            let life = shown.life();
            self.replace(shown).map(|()| life)
        });
        let Some(Web { source: Source::Files(watched), .. }) = &mut self.web else { return };
        watched.was_read(look);
        match taken {
            Ok(life) => {
                watched.shows(life);
                tracing::info!(
                    certificate = %watched.pair().certificate.display(),
                    "the certificate for HTTPS was read and is in force for new connections"
                );
            }
            Err(error) => tracing::warn!(
                %error,
                "the files for HTTPS cannot be used; the certificate from before stays in force"
            ),
        }
    }

    fn take_certificate(&mut self, issued: Result<Box<WebCertificate>, String>) {
        let at = Instant::now();
        let taken = issued.and_then(|certificate| {
            self.replace(Shown::of(&certificate)).map_err(|error| error.to_string())?;
            Ok(certificate)
        });
        let Some(Web { source: Source::Cluster { plan, certificate: held }, .. }) = &mut self.web else {
            return;
        };
        match taken {
            Ok(certificate) => {
                let certificate = Arc::<WebCertificate>::from(certificate);
                let left_out = plan.issued(certificate.names(), certificate.life(), rand::random(), at);
                tell_issued(&certificate, &left_out);
                *held = Some(Arc::clone(&certificate));
                let directory = self.directory.clone();
                self.jobs.spawn(async move {
                    let store = move || certificate.store(&directory).map_err(|error| error.to_string());
                    Done::Stored(on_thread(store).await)
                });
            }
            Err(reason) => tell_failure(plan, &reason, at),
        }
    }

    /// Puts another certificate in force. What was in force stays when it cannot be.
    fn replace(&mut self, shown: Shown) -> Result<(), WebTlsError> {
        let Some(web) = &mut self.web else { return Ok(()) };
        let (identity, (chain, key)) = (self.parts.credentials.identity(), shown.pair());
        web.tls.replace(chain, key, Some((identity.trust(), self.parts.credentials.clock())))?;
        web.shown = Some(shown);
        Ok(())
    }

    /// Shows the same certificate under the trust that is in force now.
    fn show(&mut self) {
        let Some(shown) = self.web.as_mut().and_then(|web| web.shown.take()) else { return };
        let (chain, key) = shown.pair();
        if let Err(error) = self.replace(shown) {
            tracing::warn!(%error, "client certificates over HTTPS are judged by the trust list from before");
            if let Some(web) = &mut self.web {
                web.shown = Some(Shown { chain, key });
            }
        }
    }
}

fn tell_issued(certificate: &WebCertificate, left_out: &[WebName]) {
    let texts = |names: &[WebName]| names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    tracing::info!(
        names = texts(certificate.names()),
        good_for_s = certificate.life().validity().as_secs(),
        "the cluster's authority issued a certificate for HTTPS, which is in force for new connections"
    );
    if !left_out.is_empty() {
        tracing::warn!(
            names = texts(left_out),
            "the certificate for HTTPS is not good for these names: the authority is older than HTTPS and may not speak \
             for them; replace it with `lineside certs rotate-ca`, or have clients dial the IP address"
        );
    }
}

fn tell_failure(plan: &mut Plan, reason: &str, at: Instant) {
    match (plan.failed(at), plan.has_one()) {
        (false, _) => tracing::debug!(reason, "no certificate for HTTPS yet"),
        (true, true) => tracing::warn!(
            reason,
            "the certificate for HTTPS was not renewed; the present one is shown, and this is tried again"
        ),
        (true, false) => tracing::warn!(
            reason,
            "there is no certificate for HTTPS yet, so no HTTPS is served; this is tried again"
        ),
    }
}

/// The others with the authority's key.
fn holders(rows: &[MemberRow], own: lineside_wire::NodeId) -> Vec<Destination> {
    let there = rows.iter().filter(|row| {
        let has_key = row.member.as_ref().is_some_and(|state| state.authority);
        has_key && row.node != own && row.state.parse().is_ok_and(lineside_client::Standing::is_present)
    });
    there.map(|row| Destination { node: row.node, address: row.address }).collect()
}

#[cfg(test)]
mod tests {
    use lineside_certs::Identity;
    use lineside_wire::Role;

    use super::*;
    use crate::config::MaybeFile;

    /// A machine of a cluster, with its own certificate as what HTTPS is served with.
    fn machine(home: &std::path::Path) -> (Credentials, Config) {
        let now = std::time::SystemTime::now();
        let (identity, _) =
            Identity::ensure(home, "press", Role::Node, true, now).expect("a fresh directory");
        let mut config = Config::default();
        config.member.data_dir = Some(home.to_owned());
        config.gateway.tls = Tls::Files;
        let file = |name: &str| MaybeFile(Some(home.join("identity").join(name)));
        (config.gateway.tls_certificate, config.gateway.tls_key) = (file("cert.pem"), file("key.pem"));
        (Credentials::from(identity), config)
    }

    #[test]
    fn files_are_read_before_the_first_client_comes() {
        let home = tempfile::tempdir().expect("a directory");
        let (credentials, mut config) = machine(home.path());
        let web = open(&config, &credentials).expect("they fit").expect("there is HTTPS");
        assert!(web.shown.is_some());
        config.gateway.tls = Tls::Off;
        assert!(open(&config, &credentials).expect("nothing is read").is_none());
    }

    #[test]
    fn a_file_that_cannot_be_used_stops_the_start_and_is_named() {
        let home = tempfile::tempdir().expect("a directory");
        let (credentials, mut config) = machine(home.path());
        let broken = home.path().join("broken.pem");
        std::fs::write(&broken, "no certificate").expect("writable");
        config.gateway.tls_certificate = MaybeFile(Some(broken));
        let refused = open(&config, &credentials).err().expect("it is no certificate");
        assert_eq!(refused.exit, Exit::Config);
        assert!(refused.text().contains("broken.pem"), "{}", refused.text());
    }

    #[test]
    fn a_door_of_the_cluster_opens_without_a_certificate_and_asks_for_one() {
        let home = tempfile::tempdir().expect("a directory");
        let (credentials, mut config) = machine(home.path());
        config.gateway.tls = Tls::Cluster;
        let web = open(&config, &credentials).expect("nothing is needed").expect("there is HTTPS");
        assert!(web.shown.is_none());
        let Source::Cluster { plan, .. } = web.source else { panic!("of the cluster") };
        let wanted = names::wanted(&config, std::net::Ipv4Addr::LOCALHOST.into());
        assert!(plan.is_due(&wanted, credentials.clock().now(), Instant::now()));
    }
}
