//! What each role may do: one table, and what is not in it is denied.

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
    // A gateway forwards what an admin asked it for; a node has no reason to change another.
    (method::MODELS_LOAD, &[Gateway, Admin]),
    (method::MODELS_UNLOAD, &[Gateway, Admin]),
    (method::MEMBER_STATE, &[Node, Gateway, Admin]),
    (method::CLUSTER_MEMBERS, EVERYBODY),
    (method::CLUSTER_WATCH, EVERYBODY),
    (method::CLUSTER_STATUS, EVERYBODY),
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
    fn only_those_who_must_can_change_models() {
        assert!(!may(Client, method::MODELS_UNLOAD) && !may(Node, method::MODELS_UNLOAD));
        assert!(may(Admin, method::MODELS_UNLOAD) && may(Client, method::INFER));
        assert!(!may(Client, method::MEMBER_STATE));
    }
}
