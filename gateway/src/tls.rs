//! HTTPS: the certificate that clients see, and the certificates that they may show.
//!
//! A client's certificate is judged in the handshake, and again whenever the cluster's trust has changed or time has
//! passed: a connection can outlive what it was let in for.

use std::{
    io,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use arc_swap::{ArcSwap, ArcSwapOption};
use lineside_certs::{
    CertificateSummary, Clock, PeerIdentity, Trust, Verdict, peer_identity, web_client_verifier, web_provider,
};
use rustls::{
    InconsistentKeys, ServerConfig,
    server::NoServerSessionStorage,
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use crate::line::Encrypted;

/// How long a handshake may take: three round trips with the slowest board on the line take a tenth of it.
const HANDSHAKE_MAX: Duration = Duration::from_secs(5);

/// HTTP/2, as ALPN names it.
pub(crate) const H2: &[u8] = b"h2";

/// What HTTPS is served with. Can be replaced while connections are served; those that stand keep what they have.
#[derive(Debug)]
pub struct WebTls {
    config: ArcSwap<ServerConfig>,
    /// By whom client certificates are judged.
    clients: ArcSwapOption<Clients>,
    /// When the certificate ends, in seconds since 1970; 0 while there is none.
    ends: AtomicU64,
}

#[derive(Debug)]
struct Clients {
    trust: Trust,
    clock: Clock,
}

/// Why a certificate cannot be used for HTTPS.
#[derive(Debug, thiserror::Error)]
pub enum WebTlsError {
    /// A file cannot be read, or is no certificate or key.
    #[error("{path}: {reason}")]
    File {
        /// The file.
        path: String,
        /// What is wrong, and what to do.
        reason: String,
    },
    /// Certificate and key do not belong together, or rustls refuses them.
    #[error("the certificate for HTTPS cannot be used: {0}")]
    Unusable(String),
}

impl WebTls {
    /// HTTPS with this chain, leaf first. `clients` are trusted to sign client certificates, which stay optional; with
    /// `None` none is asked for.
    ///
    /// # Errors
    /// Chain and key do not fit.
    pub fn new(
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        clients: Option<(&Trust, &Clock)>,
    ) -> Result<Self, WebTlsError> {
        let ends = ends(&chain).into();
        let config = server_config(chain, key, clients)?;
        Ok(Self {
            config: ArcSwap::from_pointee(config),
            clients: ArcSwapOption::new(clients.map(Clients::of)),
            ends,
        })
    }

    /// HTTPS whose certificate is still to come: until [`WebTls::replace`], no handshake succeeds.
    ///
    /// # Errors
    /// The crypto provider has no TLS: a defect of ours.
    pub fn pending() -> Result<Self, WebTlsError> {
        let builder = ServerConfig::builder_with_details(web_provider(), Arc::new(Clock::system()))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| WebTlsError::Unusable(error.to_string()))?
            .with_no_client_auth();
        // It knows no name, so that it never has a certificate to show.
        let config = builder.with_cert_resolver(Arc::new(rustls::server::ResolvesServerCertUsingSni::new()));
        Ok(Self { config: ArcSwap::from_pointee(config), clients: ArcSwapOption::empty(), ends: 0.into() })
    }

    /// Puts another chain, key or trust in force: chain and key for connections that come from now on, trust for those
    /// that stand as well. One whose certificate is no longer trusted ends at the next byte that comes or goes on it.
    ///
    /// # Errors
    /// As [`WebTls::new`]; what was in force stays.
    pub fn replace(
        &self,
        chain: Vec<CertificateDer<'static>>,
        key: PrivateKeyDer<'static>,
        clients: Option<(&Trust, &Clock)>,
    ) -> Result<(), WebTlsError> {
        let ends = ends(&chain);
        let config = server_config(chain, key, clients)?;
        self.ends.store(ends, Ordering::Relaxed);
        self.clients.store(clients.map(Clients::of));
        self.config.store(Arc::new(config));
        Ok(())
    }

    /// Time until the certificate ends; zero when it has ended, or while there is none.
    #[must_use]
    pub fn left(&self, now: SystemTime) -> Duration {
        let ends = UNIX_EPOCH + Duration::from_secs(self.ends.load(Ordering::Relaxed));
        ends.duration_since(now).unwrap_or_default()
    }

    /// Reads chain and key from PEM files.
    ///
    /// # Errors
    /// Names the file, what is wrong with it and what to do; also when the two are no pair.
    pub fn read(
        chain: &Path,
        key: &Path,
    ) -> Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>), WebTlsError> {
        let failed =
            |path: &Path, reason: String| WebTlsError::File { path: path.display().to_string(), reason };
        let bytes = |path: &Path| {
            std::fs::read(path).map_err(|error| {
                let hint = "check the path, and that this user may read it";
                failed(path, format!("it cannot be read ({error}); {hint}"))
            })
        };
        let pem = bytes(chain)?;
        let certificates: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let certificates = certificates
            .map_err(|error| failed(chain, format!("it is damaged ({error}); write the certificate anew")))?;
        if certificates.is_empty() {
            let reason = "it holds no certificate; it must be PEM, the own certificate first";
            return Err(failed(chain, reason.to_owned()));
        }
        let private = PrivateKeyDer::from_pem_slice(&bytes(key)?).map_err(|error| {
            let hint = "it must be PEM, and without a passphrase";
            failed(key, format!("it holds no private key ({error}); {hint}"))
        })?;
        CertifiedKey::from_der(certificates.clone(), private.clone_key(), &web_provider()).map_err(
            |error| match error {
                rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch) => {
                    let hint = "the two must be of one pair";
                    failed(key, format!("it is not the key of {}; {hint}", chain.display()))
                }
                error => {
                    let hint =
                        "it must be X.509 version 3, with an ECDSA, Ed25519 or RSA key of at least 2048 bits";
                    failed(chain, format!("it cannot be used ({error}); {hint}"))
                }
            },
        )?;
        Ok((certificates, private))
    }

    /// Does the handshake on a new connection.
    ///
    /// # Errors
    /// The client wants something else, shows what is not trusted, or takes too long.
    pub(crate) async fn accept(self: &Arc<Self>, stream: TcpStream) -> io::Result<Encrypted> {
        let acceptor = TlsAcceptor::from(self.config.load_full());
        let stream = tokio::time::timeout(HANDSHAKE_MAX, acceptor.accept(stream)).await??;
        let chain = stream
            .get_ref()
            .1
            .peer_certificates()
            .map(|chain| chain.iter().cloned().map(CertificateDer::into_owned).collect::<Vec<_>>());
        let shown = chain.map(|chain| {
            let identity = peer_identity(&chain).map_err(io::Error::other)?;
            Ok::<_, io::Error>(Shown {
                tls: Arc::clone(self),
                identity: Arc::new(identity),
                chain,
                judged: None,
            })
        });
        let mut shown = shown.transpose()?;
        if shown.as_mut().is_some_and(|shown| !shown.stands()) {
            return Err(io::Error::other("the client's certificate is not trusted"));
        }
        Ok(Encrypted { stream, shown })
    }
}

impl Clients {
    fn of((trust, clock): (&Trust, &Clock)) -> Arc<Self> {
        Arc::new(Self { trust: trust.clone(), clock: clock.clone() })
    }
}

/// A certificate of the cluster that a client showed.
pub(crate) struct Shown {
    tls: Arc<WebTls>,
    pub(crate) identity: Arc<PeerIdentity>,
    chain: Vec<CertificateDer<'static>>,
    /// By whom it was last found good.
    judged: Option<Arc<Clients>>,
}

impl Shown {
    /// Whether it is still trusted. Cheap as long as nothing has changed.
    pub(crate) fn stands(&mut self) -> bool {
        let clients = self.tls.clients.load();
        let Some(clients) = &*clients else { return false };
        if !self.judged.as_ref().is_some_and(|judged| Arc::ptr_eq(judged, clients)) {
            if clients.trust.judge_shown(&self.identity, &self.chain) != Verdict::Trusted {
                return false;
            }
            self.judged = Some(Arc::clone(clients));
        }
        clients.clock.now() < self.identity.not_after
    }
}

/// When the first of a chain ends; 0 when it does not say so in a way that can be read.
fn ends(chain: &[CertificateDer<'static>]) -> u64 {
    let own = chain.first().and_then(|own| CertificateSummary::of_der(own).ok());
    own.map_or(0, |own| own.not_after)
}

fn server_config(
    chain: Vec<CertificateDer<'static>>,
    key: PrivateKeyDer<'static>,
    clients: Option<(&Trust, &Clock)>,
) -> Result<ServerConfig, WebTlsError> {
    let unusable = |error: &dyn std::fmt::Display| WebTlsError::Unusable(error.to_string());
    let clock = clients.map_or_else(Clock::system, |(_, clock)| clock.clone());
    // Clients of the line are not ours to choose: some know nothing newer than TLS 1.2.
    let builder = ServerConfig::builder_with_details(web_provider(), Arc::new(clock))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .map_err(|error| unusable(&error))?;
    let builder = match clients {
        Some((trust, _)) => {
            builder.with_client_cert_verifier(web_client_verifier(trust).map_err(|error| unusable(&error))?)
        }
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|error| unusable(&error))?;
    config.alpn_protocols = vec![H2.to_vec(), b"http/1.1".to_vec()];
    config.max_early_data_size = 0;
    if clients.is_some() {
        // A ticket would let a client back in without its certificate being looked at again, revoked or not.
        config.send_tls13_tickets = 0;
        config.session_storage = Arc::new(NoServerSessionStorage {});
    }
    Ok(config)
}
