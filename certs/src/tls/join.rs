//! TLS for joining: the one side has no certificate yet, and knows the other by its authority's hash alone.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, Error, OtherError, RootCertStore, SignatureScheme,
    client::{
        Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{verify_tls12_signature, verify_tls13_signature},
    sign::CertifiedKey,
    version::TLS13,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::{TlsError, provider};
use crate::{
    Clock, JoinCertificates,
    encoding::to_hex,
    names::{parse_cluster_uri, server_name_of_any_member},
    x509::Facts,
};

/// What stands behind the hash in the name under which a joiner dials.
const JOIN_DOMAIN: &str = ".join.lineside.internal";

/// The name under which a joiner dials: it says which authority's certificate is to be shown. Nothing is proven by it.
#[must_use]
pub fn join_server_name(authority: &[u8; 32]) -> String {
    to_hex(&authority[..8]) + JOIN_DOMAIN
}

/// The joining side: shows no certificate, and takes only one that was signed by the authority with this hash, for any
/// member of that authority's cluster. All of it is checked before the handshake ends, and so before anything is sent.
///
/// For one connection: the second value holds what was presented there.
///
/// # Errors
/// The crypto provider has no TLS 1.3: a defect of ours.
pub fn join_client_config(
    authority: &[u8; 32],
    clock: &Clock,
    alpn: &[u8],
) -> Result<(Arc<ClientConfig>, Presented), TlsError> {
    let presented = Presented::default();
    let verifier = Expects { authority: *authority, presented: presented.clone() };
    let mut config = ClientConfig::builder_with_details(provider(), Arc::new(clock.clone()))
        .with_protocol_versions(&[&TLS13])
        .map_err(TlsError::of)?
        .dangerous() // Stricter than the stock verifier: it delegates to that, with one authority of its own choice.
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok((Arc::new(config), presented))
}

/// What the other side of a join showed in the place of the authority that was expected.
#[derive(Clone, Debug, Default)]
pub struct Presented(Arc<OnceLock<Option<[u8; 32]>>>);

impl Presented {
    /// Whether the expected authority was missing, and which one was there instead: SHA-256 of its SPKI, when there was
    /// any. `None` while nothing is known to be wrong with the authority.
    #[must_use]
    pub fn instead(&self) -> Option<Option<[u8; 32]>> {
        self.0.get().copied()
    }
}

/// The certificates that are shown to joiners, by the names under which they dial.
#[derive(Debug)]
pub(super) struct Shown(Vec<(String, Arc<CertifiedKey>)>);

impl Shown {
    pub(super) fn new(certificates: &JoinCertificates) -> Self {
        let named = |(authority, key): &([u8; 32], _)| (join_server_name(authority), Arc::clone(key));
        Self(certificates.0.iter().map(named).collect())
    }

    /// The one that was asked for. To somebody who asks for an authority that is not here any one is shown: the joiner
    /// then sees which authority is, and can say so.
    pub(super) fn to(&self, name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let asked = self.0.iter().find(|(own, _)| name == Some(own));
        asked.or(self.0.last()).map(|(_, key)| Arc::clone(key))
    }
}

/// Takes only what the authority with this hash signed, for a holder of its key.
#[derive(Debug)]
struct Expects {
    authority: [u8; 32],
    presented: Presented,
}

/// The authority of the token is not in the chain.
#[derive(Debug, thiserror::Error)]
#[error("the authority with the SHA-256 {0} is not among the certificates that were presented")]
struct NotPresented(String);

impl ServerCertVerifier for Expects {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _asked: &ServerName<'_>,
        ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let Some(authority) = intermediates.iter().find(|one| spki_hash(one) == Some(self.authority)) else {
            let instead = intermediates.last().and_then(spki_hash);
            let _only_the_first_counts = self.presented.0.set(instead);
            let reason = NotPresented(to_hex(&self.authority));
            return Err(CertificateError::Other(OtherError(Arc::new(reason))).into());
        };
        let unsuitable = || Error::from(CertificateError::BadEncoding);
        let facts = Facts::of(authority).map_err(|_| unsuitable())?;
        let cluster = facts.only_uri().ok().and_then(parse_cluster_uri).filter(|_| facts.is_authority);
        let name = server_name_of_any_member(cluster.ok_or_else(unsuitable)?);
        let name = ServerName::try_from(name).map_err(|_| unsuitable())?;
        let leaf = Facts::of(end_entity).map_err(|_| unsuitable())?;
        if !leaf.uris.is_empty() {
            // A member's own certificate. What is shown here is made by whoever has the authority's key, and has no URI
            // name: no member can pass itself off as one who has it.
            return Err(CertificateError::ApplicationVerificationFailure.into());
        }
        // A board that starts in 1970 has never been a member, and so knows no time but that of its software. What this
        // authority signed tells it a later one. Only ever later: a certificate that is over stays so.
        let now = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().max(leaf.not_before)));
        let mut roots = RootCertStore::empty();
        roots.add(authority.clone().into_owned())?;
        WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider())
            .build()
            .map_err(|error| Error::General(error.to_string()))?
            .verify_server_cert(end_entity, &[], &name, ocsp, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &provider().signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &provider().signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        provider().signature_verification_algorithms.supported_schemes()
    }
}

/// SHA-256 of a certificate's SPKI; `None` when it cannot be read.
fn spki_hash(certificate: &CertificateDer<'_>) -> Option<[u8; 32]> {
    Facts::of(certificate).ok().map(|facts| facts.spki_sha256)
}
