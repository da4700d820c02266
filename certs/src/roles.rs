//! What each role may do: one table, and what is not in it is denied.
//!
//! `enrol.join` is not in it, and `lineside certs roles` does not show it: whoever calls that has no certificate, and hence
//! no role. It is the one method of a protocol of its own, which has no other; between members there is no such method.

use lineside_wire::{Role, method};

use Role::{Admin, Client, Gateway, Node};

const EVERYBODY: &[Role] = &Role::ALL;

/// Which roles may call which method. `lineside certs roles` prints it.
pub const TABLE: &[(&str, &[Role])] = &[
    (method::HELLO, EVERYBODY),
    (method::PING, EVERYBODY),
    (method::HEALTH, EVERYBODY),
    (method::INFER, EVERYBODY),
    (method::MODELS_LIST, EVERYBODY),
    (method::MODELS_GET, EVERYBODY),
    (method::MODELS_STATISTICS, EVERYBODY),
    // A door passes on what somebody asked it for who may; `lineside up` is a door whose role is node.
    (method::MODELS_LOAD, &[Node, Gateway, Admin]),
    (method::MODELS_UNLOAD, &[Node, Gateway, Admin]),
    (method::MEMBER_STATE, &[Node, Gateway, Admin]),
    // Beside admins only the member itself, by a command on its own machine: checked where it is served.
    (method::MEMBER_DRAIN, &[Node, Gateway, Admin]),
    (method::MEMBER_CORDON, &[Node, Gateway, Admin]),
    (method::MEMBER_UNDRAIN, &[Node, Gateway, Admin]),
    (method::CLUSTER_MEMBERS, EVERYBODY),
    (method::CLUSTER_WATCH, EVERYBODY),
    (method::CLUSTER_STATUS, EVERYBODY),
    // Signed, and nothing in it is secret: whoever is behind must be able to ask whoever it meets.
    (method::TRUST_GET, EVERYBODY),
    // An admin's certificate lasts a working day and is issued anew by a person.
    (method::CERTS_RENEW, &[Node, Gateway, Client]),
    // For the own door; a client has none.
    (method::CERTS_WEB, &[Node, Gateway]),
    (method::CANCEL, EVERYBODY),
    (LOG, &[Client, Node, Gateway, Admin]),
];

/// Notification that writes its text into the log of the member that gets it: marks in a test or a shift.
pub const LOG: &str = "log";

/// Whether there is such a method at all.
#[must_use]
pub fn is_known(method: &str) -> bool {
    TABLE.iter().any(|(name, _)| *name == method)
}

/// Whether holders of a role may call a method.
#[must_use]
pub fn may(role: Role, method: &str) -> bool {
    TABLE.iter().any(|(name, roles)| *name == method && roles.contains(&role))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_in_the_table_is_denied() {
        assert!(Role::ALL.iter().all(|role| !may(*role, "no.such.method")));
    }

    #[test]
    fn no_method_has_two_rows_and_no_row_is_without_a_role() {
        for (at, (method, roles)) in TABLE.iter().enumerate() {
            assert!(!roles.is_empty(), "{method}");
            assert!(TABLE[..at].iter().all(|(above, _)| above != method), "{method}");
        }
    }

    #[test]
    fn joining_is_no_call_between_members() {
        assert!(!is_known(method::ENROL_JOIN));
        assert!(Role::ALL.iter().all(|role| !may(*role, method::ENROL_JOIN)));
    }

    #[test]
    fn everybody_may_know_whom_to_trust_and_an_admin_does_not_last_longer_than_a_day() {
        assert!(Role::ALL.iter().all(|role| may(*role, method::TRUST_GET)));
        assert!([Node, Gateway, Client].iter().all(|role| may(*role, method::CERTS_RENEW)));
        assert!(!may(Admin, method::CERTS_RENEW));
    }

    #[test]
    fn only_those_who_must_can_change_models() {
        assert!(!may(Client, method::MODELS_UNLOAD) && !may(Client, method::MODELS_LOAD));
        assert!(may(Admin, method::MODELS_UNLOAD) && may(Client, method::INFER));
        assert!(!may(Client, method::MEMBER_STATE));
    }
}
