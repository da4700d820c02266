//! What certificates say. Every field is decided here, none by the holder: signing what a request asks for would
//! issue an authority to whoever asks for one.

use std::time::{Duration, SystemTime};

use lineside_wire::{ClusterId, Role};
use rand::RngExt as _;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, GeneralSubtree,
    IsCa, KeyUsagePurpose, NameConstraints, SanType, SerialNumber, string::Ia5String,
};

use crate::{
    Subject,
    names::{cluster_domain, cluster_uri, member_uri, server_name_of, server_name_of_any_member},
};

/// The authority's own certificate outlives the machines; its key can be rotated before.
pub(crate) const AUTHORITY_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 3600);
/// A member's certificate. Nothing renews it by itself yet, so it has to outlive a year of not being thought of; with
/// renewal, two weeks are meant.
const MEMBER_LIFETIME: Duration = Duration::from_secs(365 * 24 * 3600);
/// An admin's certificate changes the cluster: it lasts a working day.
const ADMIN_LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// Certificates are valid from a little before they were made: clocks on a floor differ.
const BACKDATED: Duration = Duration::from_secs(3600);
/// X.509 has room for 64 characters in a common name; the authority's ends in ` CA g1`, one day in ` CA g10`.
const CLUSTER_NAME_SHOWN: usize = 57;

/// The authority's own certificate. Its name is ASCII: the caller has checked it.
pub(crate) fn authority(
    cluster: ClusterId,
    name: &str,
    now: SystemTime,
) -> Result<CertificateParams, rcgen::Error> {
    let shown: String = name.chars().take(CLUSTER_NAME_SHOWN).collect();
    // The generation is in the name: after a rotation, two authorities of one name would fail each other's members.
    let mut params = base(&format!("{shown} CA g1"), now, now + AUTHORITY_LIFETIME);
    // The id makes namesakes distinct: a certificate of another cluster is then an unknown issuer's, not a bad
    // signature's.
    params.distinguished_name.push(DnType::OrganizationName, cluster.to_string());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    // DNS only: webpki refuses URI name constraints.
    params.name_constraints = Some(NameConstraints {
        permitted_subtrees: vec![GeneralSubtree::DnsName(cluster_domain(cluster))],
        excluded_subtrees: Vec::new(),
    });
    params.subject_alt_names = vec![SanType::URI(Ia5String::try_from(cluster_uri(cluster))?)];
    Ok(params)
}

/// A member's certificate; it ends with its authority's at the latest, which peers would not check.
pub(crate) fn leaf(
    cluster: ClusterId,
    subject: &Subject,
    now: SystemTime,
    authority_ends: SystemTime,
) -> Result<CertificateParams, rcgen::Error> {
    let Subject { role, node, name } = subject;
    let ends = authority_ends.min(now + lifetime(*role));
    let mut params = base(name, now, ends);
    let uri = Ia5String::try_from(member_uri(cluster, *role, *node))?;
    let own = Ia5String::try_from(server_name_of(*node, cluster))?;
    params.subject_alt_names = vec![SanType::URI(uri), SanType::DnsName(own)];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    if role.is_member() {
        let any = Ia5String::try_from(server_name_of_any_member(cluster))?;
        params.subject_alt_names.push(SanType::DnsName(any));
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.is_ca = IsCa::ExplicitNoCa;
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

const fn lifetime(role: Role) -> Duration {
    match role {
        Role::Node | Role::Gateway | Role::Client => MEMBER_LIFETIME,
        Role::Admin => ADMIN_LIFETIME,
    }
}

fn base(common_name: &str, now: SystemTime, ends: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name);
    // 128 random bits, the first one cleared: a serial number is positive.
    let mut serial: [u8; 16] = rand::rng().random();
    serial[0] &= 0x7f;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.not_before = (now - BACKDATED).into();
    params.not_after = ends.into();
    params
}
