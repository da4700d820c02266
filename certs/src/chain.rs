//! Certificates one behind the other: the holder's, then those that lead to an authority.

use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, UnixTime};

use crate::{
    Trust, provider,
    x509::{Facts, since_1970},
};

/// Most certificates of one chain: the holder's, and one for each authority that a cluster can have, with
/// room to grow.
pub(crate) const CHAIN_MAX: usize = 8;

/// Whether a chain leads from its first certificate to a trusted authority. Whether it is valid now is not
/// asked.
///
/// Judged at a moment when all of it was valid, so that an expired identity is told from a foreign one.
pub(crate) fn leads_to(trust: &Trust, chain: &[CertificateDer<'_>]) -> bool {
    leads_to_for(trust, chain, webpki::KeyUsage::client_auth())
}

/// As [`leads_to`], of a certificate that is for serving.
pub(crate) fn serves_under(trust: &Trust, chain: &[CertificateDer<'_>]) -> bool {
    leads_to_for(trust, chain, webpki::KeyUsage::server_auth())
}

fn leads_to_for(trust: &Trust, chain: &[CertificateDer<'_>], usage: webpki::KeyUsage) -> bool {
    let Some((leaf, intermediates)) = chain.split_first() else { return false };
    let begins = chain.iter().map(|one| Facts::of(one).map(|facts| facts.not_before).unwrap_or(0)).max();
    let when = since_1970(begins.unwrap_or(0)).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let when = UnixTime::since_unix_epoch(when);
    let anchors: Vec<_> = trust
        .roots
        .iter()
        .filter_map(|root| webpki::anchor_from_trusted_cert(&root.certificate).ok())
        .collect();
    let Ok(end_entity) = webpki::EndEntityCert::try_from(leaf) else { return false };
    let algorithms = provider().signature_verification_algorithms.all;
    end_entity.verify_for_usage(algorithms, &anchors, intermediates, when, usage, None, None).is_ok()
}
