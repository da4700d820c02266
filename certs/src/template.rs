//! What certificates say. Every field is decided here, none by the holder: signing what a request asks for would
//! issue an authority to whoever asks for one.

use std::time::{Duration, SystemTime};

use lineside_wire::{ClusterId, NodeId};
use rand::RngExt as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, KeyUsagePurpose, NameConstraints, SanType, SerialNumber, string::Ia5String,
};

use crate::{
    Subject, WebName,
    names::{
        authority_name, cluster_domain, cluster_uri, member_uri, server_name_of, server_name_of_any_member,
    },
    web,
};

/// The authority's own certificate outlives the machines; its key can be rotated before.
pub(crate) const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// Certificates are valid from a little before they were made, because clocks on a floor differ: from an hour, and from
/// a tenth of the lifetime where that is shorter.
const BACKDATED: Duration = Duration::from_secs(3600);

/// An authority's own certificate, as it signs it itself. The name is ASCII: the caller has checked it.
///
/// One authority below it is allowed: the next generation, as [`cross`] names it while a rotation runs. Stock verifiers
/// of other makes count.
pub(crate) fn authority(
    cluster: ClusterId,
    name: &str,
    generation: u32,
    now: SystemTime,
) -> Result<CertificateParams, rcgen::Error> {
    signing(cluster, name, generation, 1, now, now + AUTHORITY_LIFETIME)
}

/// A generation's certificate as the generation before it signs it: for members that do not know the new one yet.
pub(crate) fn cross(
    cluster: ClusterId,
    name: &str,
    generation: u32,
    now: SystemTime,
    signer_ends: SystemTime,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = signing(cluster, name, generation, 0, now, signer_ends.min(now + AUTHORITY_LIFETIME))?;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

fn signing(
    cluster: ClusterId,
    name: &str,
    generation: u32,
    authorities_below: u8,
    now: SystemTime,
    ends: SystemTime,
) -> Result<CertificateParams, rcgen::Error> {
    // The generation is in the name: after a rotation, two authorities of one name would fail each other's members.
    let mut params = base(&authority_name(name, generation), now, ends);
    // The id makes namesakes distinct: a certificate of another cluster is then an unknown issuer's, not a bad
    // signature's.
    params.distinguished_name.push(DnType::OrganizationName, cluster.to_string());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(authorities_below));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.name_constraints =
        Some(NameConstraints { permitted_subtrees: permitted(cluster), excluded_subtrees: Vec::new() });
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(cluster_uri(cluster))?)];
    Ok(params)
}

/// What an authority may speak for: its members, and private names for HTTPS, so that clients can trust it for those
/// without trusting it for anything public. webpki refuses URI name constraints; those of addresses make BoringSSL, and
/// so gRPC's own clients, refuse every certificate with an address, so that addresses are left to the authority's word.
fn permitted(cluster: ClusterId) -> Vec<GeneralSubtree> {
    let domains = web::DOMAINS.iter().map(|domain| (*domain).to_owned());
    std::iter::once(cluster_domain(cluster)).chain(domains).map(GeneralSubtree::DnsName).collect()
}

/// A certificate for HTTPS: for serving under these names, and no member's, because it has no URI name.
pub(crate) fn web(
    node: NodeId,
    names: &[WebName],
    lifetime: Duration,
    now: SystemTime,
    authority_ends: SystemTime,
) -> Result<CertificateParams, rcgen::Error> {
    // A space is in no DNS name: verifiers that look for one here must not find it.
    let mut params = base(&format!("https {node}"), now, authority_ends.min(now + lifetime));
    let names = names.iter().map(|name| {
        Ok(match name {
            WebName::Address(address) => SanType::IpAddress(*address),
            WebName::Dns(name) => SanType::DnsName(Ia5String::try_from(name.as_str())?),
        })
    });
    params.subject_alt_names = names.collect::<Result<_, rcgen::Error>>()?;
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(end_entity(params))
}

/// A member's certificate; it ends with its authority's at the latest, which peers would not check.
pub(crate) fn leaf(
    cluster: ClusterId,
    subject: &Subject,
    lifetime: Duration,
    now: SystemTime,
    authority_ends: SystemTime,
) -> Result<CertificateParams, rcgen::Error> {
    let Subject { role, node, name } = subject;
    let mut params = base(name, now, authority_ends.min(now + lifetime));
    let uri = Ia5String::try_from(member_uri(cluster, *role, *node))?;
    let own = Ia5String::try_from(server_name_of(*node, cluster))?;
    params.subject_alt_names = vec![SanType::URI(uri), SanType::DnsName(own)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if role.is_member() {
        let any = Ia5String::try_from(server_name_of_any_member(cluster))?;
        params.subject_alt_names.push(SanType::DnsName(any));
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    Ok(end_entity(params))
}

/// What a holder of the authority's key shows to a joiner: an answering side of the cluster, and no member. It has no URI
/// name, so it opens no other door.
pub(crate) fn join(
    cluster: ClusterId,
    node: NodeId,
    lifetime: Duration,
    now: SystemTime,
    authority_ends: SystemTime,
) -> Result<CertificateParams, rcgen::Error> {
    let mut params = base(&format!("join {node}"), now, authority_ends.min(now + lifetime));
    let any = Ia5String::try_from(server_name_of_any_member(cluster))?;
    params.subject_alt_names = vec![SanType::DnsName(any)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    Ok(end_entity(params))
}

fn end_entity(mut params: CertificateParams) -> CertificateParams {
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    params
}

fn base(common_name: &str, now: SystemTime, ends: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    // 126 random bits behind 01: positive, and never shorter, so that it is the same text everywhere.
    let mut serial: [u8; 16] = rand::rng().random();
    serial[0] = serial[0] & 0x3f | 0x40;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    let lifetime = ends.duration_since(now).unwrap_or_default();
    params.not_before = (now - BACKDATED.min(lifetime / 10)).into();
    params.not_after = ends.into();
    params
}
