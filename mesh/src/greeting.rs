//! The rules of the hello: who may meet whom.

use lineside_certs::PeerIdentity;
use lineside_wire::{Fault, FaultCode, Greeting, PROTOCOL_VERSION};

/// Checks what a peer says of itself against its certificate and our own greeting.
///
/// # Errors
/// Another protocol, another cluster, or a state that is not the certificate holder's.
pub(crate) fn check(theirs: Greeting, own: &Greeting, peer: &PeerIdentity) -> Result<Greeting, Fault> {
    let refuse = |text: String| Err(Fault::new(FaultCode::PermissionDenied, text));
    if theirs.protocol != PROTOCOL_VERSION {
        return refuse(format!(
            "protocol {} is not spoken here, only {PROTOCOL_VERSION}: bring both machines to the same release",
            theirs.protocol
        ));
    }
    if theirs.cluster != own.cluster || peer.cluster != own.cluster {
        return refuse(format!(
            "this member belongs to the cluster {}, not to {}",
            own.cluster, theirs.cluster
        ));
    }
    match &theirs.member {
        Some(member) if member.node != peer.node => {
            refuse(format!("{} speaks for {}, whose certificate it does not hold", peer.node, member.node))
        }
        Some(member) if member.role != peer.role => {
            refuse(format!("{} calls itself {}, its certificate says {}", peer.node, member.role, peer.role))
        }
        Some(_) if !peer.role.is_member() => {
            refuse(format!("the role {} takes no part in the cluster", peer.role))
        }
        Some(_) | None => Ok(theirs),
    }
}
