//! TLS settings: version 1.3, both sides with certificates of one cluster, nothing resumed, nothing early.
//!
//! What a side trusts is baked into its settings: after a change of [`Trust`] they are made anew. Each has exactly one
//! revocation list of each authority; of two, verification would go by the first, and an old one could hide a revocation.

mod join;

use std::sync::Arc;

use rustls::{
    CipherSuite, ClientConfig, RootCertStore, ServerConfig,
    client::{ResolvesClientCert, Resumption, WebPkiServerVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    server::{
        ClientHello, NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier,
        danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
    version::TLS13,
};
use rustls_pki_types::CertificateRevocationListDer;

use self::join::Shown;
pub use self::join::{Presented, join_client_config, join_server_name};
use crate::{Clock, Identity, JoinCertificates, Trust};

/// Why an identity cannot be used for TLS.
#[derive(Debug, thiserror::Error)]
#[error("the identity cannot be used for TLS: {0}")]
pub struct TlsError(String);

impl TlsError {
    fn of(error: impl std::fmt::Display) -> Self {
        Self(error.to_string())
    }
}

/// The one crypto provider: aws-lc-rs, with the post-quantum key exchange X25519MLKEM768 preferred and
/// AES-128-GCM, the fastest where the processor has AES, first among the ciphers.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    let provider = PROVIDER.get_or_init(|| {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites.retain(|suite| suite.tls13().is_some());
        provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
        Arc::new(provider)
    });
    Arc::clone(provider)
}

/// The same provider for HTTPS, whose clients are not all as new as members are: with the suites of TLS 1.2 as well,
/// where rustls is built with them. All of those have forward secrecy and authenticated encryption.
#[must_use]
pub fn web_provider() -> Arc<CryptoProvider> {
    static PROVIDER: std::sync::OnceLock<Arc<CryptoProvider>> = std::sync::OnceLock::new();
    let provider = PROVIDER.get_or_init(|| {
        let mut provider = aws_lc_rs::default_provider();
        provider.cipher_suites.sort_by_key(|suite| suite.suite() != CipherSuite::TLS13_AES_128_GCM_SHA256);
        Arc::new(provider)
    });
    Arc::clone(provider)
}

/// Judges the certificates that clients of HTTPS show: only the cluster's, and none that was revoked. Who shows none is
/// let in.
///
/// As with all TLS settings, the trust is that of now: make another verifier after a change.
///
/// # Errors
/// An authority's certificate does not suit TLS.
pub fn web_client_verifier(trust: &Trust) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    client_verifier(trust, true)
}

/// How strangers may come in, to join: under a protocol name of its own, where certificates are shown to them that they
/// know by their authority's hash alone.
#[derive(Clone, Copy, Debug)]
pub struct Joining<'a> {
    /// The join protocol's name.
    pub alpn: &'a [u8],
    /// What is shown.
    pub certificates: &'a JoinCertificates,
}

/// As [`server_config_by`], with the system's clock.
///
/// # Errors
/// The identity's authority or key does not suit TLS.
pub fn server_config(identity: &Identity, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
    server_config_by(identity, &Clock::system(), alpn, None)
}

/// The accepting side: demands a certificate of the same cluster; no tickets, no early data, no sessions kept.
///
/// With `joining`, a peer without a certificate gets through the handshake as well. Who shows one is judged as ever; who
/// shows none must be asked for the protocol that was agreed on, and be sent away unless it is the join protocol.
///
/// # Errors
/// The identity's authority or key does not suit TLS.
pub fn server_config_by(
    identity: &Identity,
    clock: &Clock,
    alpn: &[&[u8]],
    joining: Option<Joining<'_>>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let joining = joining.filter(|joining| !joining.certificates.0.is_empty());
    let builder = ServerConfig::builder_with_details(provider(), Arc::new(clock.clone()))
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::of)?
        .with_client_cert_verifier(client_verifier(identity.trust(), joining.is_some())?);
    let own = Own(identity.certified());
    let mut protocols: Vec<_> = alpn.iter().map(|name| name.to_vec()).collect();
    let mut config = match joining {
        None => builder.with_cert_resolver(Arc::new(own)),
        Some(Joining { alpn, certificates }) => {
            let member = protocols.clone();
            // Last: of a peer that speaks both, the first that is ours is chosen, and with it the own certificate.
            protocols.push(alpn.to_vec());
            let (join, shown) = (alpn.to_vec(), Shown::new(certificates));
            builder.with_cert_resolver(Arc::new(ByProtocol { own, member, join, shown }))
        }
    };
    config.alpn_protocols = protocols;
    // A ticket would let a peer back in without its certificate being looked at again, revoked or not.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// As [`client_config_by`], with the system's clock.
///
/// # Errors
/// The identity's authority or key does not suit TLS.
pub fn client_config(identity: &Identity, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    client_config_by(identity, &Clock::system(), alpn)
}

/// The dialling side: shows its certificate and takes only one of the same cluster.
///
/// # Errors
/// The identity's authority or key does not suit TLS.
pub fn client_config_by(
    identity: &Identity,
    clock: &Clock,
    alpn: &[&[u8]],
) -> Result<Arc<ClientConfig>, TlsError> {
    let trust = identity.trust();
    let mut verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(trust)?), provider());
    let crls = crls(trust);
    if !crls.is_empty() {
        verifier =
            verifier.with_crls(crls).only_check_end_entity_revocation().allow_unknown_revocation_status();
    }
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(clock.clone()))
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::of)?
        .with_webpki_verifier(verifier.build().map_err(TlsError::of)?)
        .with_client_cert_resolver(Arc::new(Own(identity.certified())));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

fn client_verifier(trust: &Trust, strangers: bool) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let mut verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(trust)?), provider());
    let crls = crls(trust);
    if !crls.is_empty() {
        // That a list's next one is overdue is for the operator: machines that were taken off would come back no
        // sooner, and all others would be off with them. An authority of which none is known has revoked nothing yet.
        verifier =
            verifier.with_crls(crls).only_check_end_entity_revocation().allow_unknown_revocation_status();
    }
    if strangers {
        verifier = verifier.allow_unauthenticated();
    }
    verifier.build().map_err(TlsError::of)
}

fn roots(trust: &Trust) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for root in &trust.roots {
        roots.add(root.certificate.clone()).map_err(TlsError::of)?;
    }
    Ok(roots)
}

/// One list of each authority at most: [`Trust`] holds no second one.
fn crls(trust: &Trust) -> Vec<CertificateRevocationListDer<'static>> {
    trust.roots.iter().filter_map(|root| root.crl.clone()).collect()
}

/// Shows the own certificate, whatever the peer asks for: there is only one.
#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl ResolvesServerCert for Own {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

impl ResolvesClientCert for Own {
    fn resolve(&self, _hints: &[&[u8]], _schemes: &[rustls::SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// Shows members the own certificate, and joiners the one of the authority that they ask for.
#[derive(Debug)]
struct ByProtocol {
    own: Own,
    member: Vec<Vec<u8>>,
    join: Vec<u8>,
    shown: Shown,
}

impl ResolvesServerCert for ByProtocol {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let (mut is_member, mut joins) = (false, false);
        for protocol in hello.alpn().into_iter().flatten() {
            is_member |= self.member.iter().any(|name| name == protocol);
            joins |= self.join == protocol;
        }
        match joins && !is_member {
            true => self.shown.to(hello.server_name()),
            false => Some(Arc::clone(&self.own.0)),
        }
    }
}
