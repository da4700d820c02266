//! How clusters and members are called in certificates: one spelling each.

use lineside_wire::{ClusterId, NodeId, Role};

use crate::PeerIdentityError;

/// The name under which a member is dialled when its id is known: stock verification then proves the id.
#[must_use]
pub fn server_name_of(node: NodeId, cluster: ClusterId) -> String {
    format!("{node}.{}", cluster_domain(cluster))
}

/// The name under which a seed is dialled, whose id is not known yet: every node and gateway has it.
///
/// Whoever answers is then read from its certificate with [`peer_identity`](crate::peer_identity).
#[must_use]
pub fn server_name_of_any_member(cluster: ClusterId) -> String {
    format!("member.{}", cluster_domain(cluster))
}

/// Reads a member's name, `spiffe://<cluster id>/<role>/<node id>`: exactly one spelling is taken.
///
/// # Errors
/// Anything else: upper case, another scheme or role, something in front or behind.
pub fn parse_member_uri(uri: &str) -> Result<(ClusterId, Role, NodeId), PeerIdentityError> {
    let parsed = (|| {
        let mut parts = uri.strip_prefix("spiffe://")?.split('/');
        let cluster = parts.next()?.parse().ok()?;
        let role = parts.next()?.parse().ok()?;
        let node = parts.next()?.parse().ok()?;
        parts.next().is_none().then_some((cluster, role, node))
    })();
    parsed.ok_or_else(|| PeerIdentityError::NotAMember(uri.chars().take(120).collect()))
}

/// The name of a member in its certificate.
pub(crate) fn member_uri(cluster: ClusterId, role: Role, node: NodeId) -> String {
    format!("{}/{role}/{node}", cluster_uri(cluster))
}

/// The name of a cluster in its authority's certificate.
pub(crate) fn cluster_uri(cluster: ClusterId) -> String {
    format!("spiffe://{cluster}")
}

/// Reads the name of a cluster.
pub(crate) fn parse_cluster_uri(uri: &str) -> Option<ClusterId> {
    uri.strip_prefix("spiffe://")?.parse().ok()
}

/// The common name of an authority: `<cluster> CA g1`.
pub(crate) fn authority_name(cluster_name: &str, generation: u32) -> String {
    // X.509 has room for 64 characters in a common name.
    let ending = format!(" CA g{generation}");
    let shown: String = cluster_name.chars().take(64 - ending.len()).collect();
    shown + &ending
}

/// The generation in an authority's common name.
pub(crate) fn generation_of(authority_name: &str) -> Option<u32> {
    let (_, number) = authority_name.rsplit_once(" CA g")?;
    number.parse().ok().filter(|generation: &u32| *generation != 0 && generation.to_string() == number)
}

/// The DNS name under which all members of a cluster lie. Its authority can sign for no other.
pub(crate) fn cluster_domain(cluster: ClusterId) -> String {
    format!("{cluster}.lineside.internal")
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId::from_bytes([0xc1; 16]);
    const NODE: NodeId = NodeId::from_bytes([0xde; 16]);

    #[test]
    fn every_role_can_be_read_from_its_name() {
        for role in Role::ALL {
            assert_eq!(parse_member_uri(&member_uri(CLUSTER, role, NODE)), Ok((CLUSTER, role, NODE)));
        }
    }

    #[test]
    fn an_authoritys_name_tells_its_generation_however_long_it_is() {
        for name in ["plant 2", &"x".repeat(64), "a CA g7"] {
            for generation in [1, 2, 10, u32::MAX] {
                let full = authority_name(name, generation);
                assert!(full.len() <= 64, "{full}");
                assert_eq!(generation_of(&full), Some(generation), "{full}");
            }
        }
    }

    #[test]
    fn a_members_name_has_exactly_one_spelling() {
        let uri = member_uri(CLUSTER, Role::Gateway, NODE);
        let wrong = [
            uri.to_uppercase(),
            uri.replace("de", "DE"),
            uri.replace("c1", "C1"),
            format!("{uri}/"),
            format!("{uri}/x"),
            format!("{uri}?x"),
            format!("{uri}#x"),
            format!("{uri} "),
            format!(" {uri}"),
            format!("{uri}0"),
            uri.replace("gateway", "root"),
            uri.replace("gateway", "Gateway"),
            uri.replace("gateway", ""),
            uri.replace("gateway", "gateway/node"),
            uri.replace("spiffe", "http"),
            uri.replace("spiffe", "SPIFFE"),
            uri.replace("//", "/"),
            uri.replace("//", "//user@"),
            cluster_uri(CLUSTER),
            String::new(),
        ];
        for uri in wrong {
            assert!(parse_member_uri(&uri).is_err(), "{uri:?} was taken for a member");
        }
    }

    #[test]
    fn a_long_stranger_is_not_repeated_in_full() {
        let error = parse_member_uri(&"ü".repeat(10_000)).unwrap_err();
        assert!(error.to_string().len() < 400, "{error}");
    }
}
