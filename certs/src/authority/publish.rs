//! Signs trust lists and the revocation lists in them, and reads what another holder signed.

use std::time::{Duration, SystemTime};

use lineside_wire::{SignedTrust, TrustList, TrustSignature, TrustedAuthority};
use rcgen::{
    CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber,
    SigningKey as _,
};
use rustls_pki_types::CertificateRevocationListDer;
use serde_bytes::ByteBuf;
use x509_parser::prelude::{CertificateRevocationList, FromDer as _};

use super::{
    AuthorityError,
    keys::Held,
    registry::{KeysOfList, Plan, Published, Registry, Seen, SeenAuthority},
};
use crate::{
    Trust, TrustError,
    encoding::{from_hex, to_hex},
    trust::{encode, signed_bytes},
    x509::{Facts, since_1970},
};

/// When a revocation list should have been followed by another. A list that is older is an alarm and no outage: it is
/// still the newest that is known.
const CRL_LIFETIME: Duration = Duration::from_secs(30 * 24 * 3600);

/// Highest number that is taken from another holder: there have to be numbers above it.
const NUMBER_MAX: u64 = 1 << 62;

/// Signs the next trust list, with a number above `above`, and puts it in force. `seen` is a list of another holder, which
/// may have newer revocation lists of authorities whose keys are not here.
pub(super) fn publish(
    registry: &mut Registry,
    held: &Held,
    above: u64,
    seen: Option<&Trust>,
    now: SystemTime,
) -> Result<(), AuthorityError> {
    let plan = registry.plan(above, now);
    let document = document(registry, held, seen, &plan)?;
    let bytes = signed_bytes(&document);
    let keys = held.authorities.iter().filter_map(|one| Some((one.generation, one.issuer.as_ref()?.key())));
    let signatures = keys.map(|(generation, key)| {
        Ok(TrustSignature { generation, signature: ByteBuf::from(key.sign(&bytes)?) })
    });
    let signatures = signatures.collect::<Result<Vec<_>, AuthorityError>>()?;
    let signed = SignedTrust { document: ByteBuf::from(document), signatures };
    // What members could not take must not replace what they have.
    let stamp = Trust::own(&signed)?.stamp();
    registry.publish(Published::of(&signed, stamp.number, stamp.hash, plan.signed_at));
    Ok(())
}

fn document(
    registry: &Registry,
    held: &Held,
    seen: Option<&Trust>,
    plan: &Plan,
) -> Result<Vec<u8>, AuthorityError> {
    // Of an authority whose key is not here, the newest revocation list that is known stays.
    let before = match held.authorities.iter().all(|authority| authority.issuer.is_some()) {
        true => None,
        false => Some(Trust::own(&registry.trust.signed())?),
    };
    let mut authorities = Vec::new();
    for (authority, (generation, revoked)) in held.authorities.iter().zip(&plan.authorities) {
        let crl = if let Some(issuer) = &authority.issuer {
            revocation_list(issuer, plan, revoked)?
        } else {
            let known = before.iter().chain(seen).flat_map(|trust| &trust.roots);
            let known =
                known.filter(|root| root.generation == *generation).max_by_key(|root| root.crl_number);
            let known = known.and_then(|root| root.crl.clone());
            known.ok_or(AuthorityError::LeftBehind { issuing: plan.issuing })?
        };
        authorities.push(TrustedAuthority {
            generation: *generation,
            certificate: ByteBuf::from(authority.certificate.to_vec()),
            crl: ByteBuf::from(crl.to_vec()),
        });
    }
    Ok(encode(&TrustList {
        cluster: registry.cluster,
        number: plan.number,
        signed_at: plan.signed_at,
        issuing: plan.issuing,
        authorities,
        revoked_nodes: plan.revoked_nodes.clone(),
        keys: plan.keys.clone(),
        revoked_keys: plan.revoked_keys.clone(),
    }))
}

/// A revocation list has the number of the trust list for which it is made: it only grows, too.
fn revocation_list(
    issuer: &Issuer<'static, KeyPair>,
    plan: &Plan,
    revoked: &[(String, u64)],
) -> Result<CertificateRevocationListDer<'static>, AuthorityError> {
    let revoked_certs = revoked.iter().map(|(serial, at)| RevokedCertParams {
        serial_number: SerialNumber::from(from_hex(serial).unwrap_or_default()),
        revocation_time: since_1970(*at).into(),
        reason_code: None,
        invalidity_date: None,
    });
    let this_update = since_1970(plan.signed_at);
    let params = CertificateRevocationListParams {
        this_update: this_update.into(),
        next_update: (this_update + CRL_LIFETIME).into(),
        crl_number: SerialNumber::from(plan.number),
        issuing_distribution_point: None,
        revoked_certs: revoked_certs.collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(params.signed_by(issuer)?.into())
}

/// Reads what another holder of one of these keys published.
pub(super) fn read(
    signed: &SignedTrust,
    registry: &Registry,
    held: &Held,
) -> Result<(Seen, Trust), AuthorityError> {
    let trust = Trust::own(signed)?;
    if trust.cluster() != registry.cluster {
        return Err(TrustError::OtherCluster { found: trust.cluster(), own: registry.cluster }.into());
    }
    let bytes = signed_bytes(&signed.document);
    let by_us = signed.signatures.iter().any(|signature| {
        let signer = held.authorities.iter().find(|one| one.generation == signature.generation);
        signer.is_some_and(|signer| signer.has_signed(&bytes, &signature.signature))
    });
    if !by_us {
        return Err(TrustError::NotSigned.into());
    }
    let mut authorities = Vec::new();
    for root in &trust.roots {
        let unreadable = |error: String| AuthorityError::Trust(TrustError::Damaged(error));
        let facts = Facts::of(&root.certificate).map_err(|error| unreadable(error.to_string()))?;
        let fingerprint = facts.spki_sha256;
        if registry.generation(root.generation).is_some_and(|ours| ours.fingerprint != fingerprint) {
            return Err(TrustError::OtherAuthority(root.generation).into());
        }
        let crl = root.crl.as_ref().map_or(&[][..], |crl| crl.as_ref());
        let revoked = revoked_in(crl).map_err(unreadable)?;
        authorities.push(SeenAuthority {
            generation: root.generation,
            fingerprint,
            crl_number: root.crl_number,
            revoked,
        });
    }
    let stamp = trust.stamp();
    if NUMBER_MAX < stamp.number {
        return Err(
            TrustError::Damaged(format!("its number {} cannot be counted on from", stamp.number)).into()
        );
    }
    let list: TrustList = rmp_serde::from_slice(&signed.document)
        .map_err(|error| AuthorityError::Trust(TrustError::Damaged(error.to_string())))?;
    let published = Published::of(signed, stamp.number, stamp.hash, list.signed_at);
    let nodes = trust.revoked_nodes.clone();
    let keys = KeysOfList {
        live: trust.keys().iter().map(|key| (*key.id, key.clone())).collect(),
        revoked: trust.revoked_keys.clone(),
    };
    Ok((Seen { published, authorities, nodes, keys }, trust))
}

/// The serial numbers in a revocation list, with the time of each.
fn revoked_in(crl: &[u8]) -> Result<Vec<(String, u64)>, String> {
    let (_, crl) = CertificateRevocationList::from_der(crl).map_err(|error| error.to_string())?;
    let revoked = crl.iter_revoked_certificates();
    Ok(revoked
        .map(|one| {
            let at = u64::try_from(one.revocation_date.timestamp()).unwrap_or(0);
            (to_hex(one.raw_serial()), at)
        })
        .collect())
}
