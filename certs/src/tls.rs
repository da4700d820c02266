//! TLS settings: version 1.3, both sides with certificates of one cluster, nothing resumed, nothing early.

use std::sync::Arc;

use rustls::{
    CipherSuite, ClientConfig, RootCertStore, ServerConfig,
    client::{ResolvesClientCert, Resumption, WebPkiServerVerifier},
    crypto::{CryptoProvider, aws_lc_rs},
    server::{NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier},
    sign::CertifiedKey,
    version::TLS13,
};

use crate::Identity;

/// Why an identity cannot be used for TLS.
#[derive(Debug, thiserror::Error)]
#[error("the identity cannot be used for TLS: {0}")]
pub struct TlsError(String);

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

/// The accepting side: demands a certificate of the same cluster; no tickets, no early data, no sessions kept.
///
/// # Errors
/// The identity's authority or key does not suit TLS.
pub fn server_config(identity: &Identity, alpn: &[&[u8]]) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots(identity)?), provider())
        .build()
        .map_err(|error| TlsError(error.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| TlsError(error.to_string()))?
        .with_client_cert_verifier(verifier)
        .with_cert_resolver(Arc::new(Own(identity.certified())));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    // A ticket would let a peer back in without its certificate being looked at again, revoked or not.
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// The dialling side: shows its certificate and takes only one of the same cluster.
///
/// # Errors
/// The identity's authority or key does not suit TLS.
pub fn client_config(identity: &Identity, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(roots(identity)?), provider())
        .build()
        .map_err(|error| TlsError(error.to_string()))?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| TlsError(error.to_string()))?
        .with_webpki_verifier(verifier)
        .with_client_cert_resolver(Arc::new(Own(identity.certified())));
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(Arc::new(config))
}

fn roots(identity: &Identity) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    roots.add(identity.authority().clone()).map_err(|error| TlsError(error.to_string()))?;
    Ok(roots)
}

/// Shows the own certificate, whatever the peer asks for: there is only one.
#[derive(Debug)]
struct Own(Arc<CertifiedKey>);

impl ResolvesServerCert for Own {
    fn resolve(&self, _hello: rustls::server::ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
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
