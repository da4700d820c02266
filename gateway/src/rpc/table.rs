//! The methods of the door, on every wire: one row each.

use lineside_wire::{Fault, FaultCode, method};

use crate::gate::Permission;

/// How a call comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wire {
    /// `POST /rpc`.
    Http,
    /// `/rpc/ws`.
    Socket,
    /// Frames on the mesh.
    Quic,
}

/// What the door can be asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Method {
    Infer,
    ModelsList,
    ModelsGet,
    ModelsLoad,
    ModelsUnload,
    ModelsStatistics,
    ClusterMembers,
    ClusterStatus,
    /// Over QUIC the member itself serves it, before the door is asked.
    ClusterWatch,
    Health,
    Discover,
}

/// One of the params.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Param {
    pub(crate) name: &'static str,
    pub(crate) required: bool,
    pub(crate) summary: &'static str,
    /// The schema's name in [`discover`](crate::discover).
    pub(crate) schema: &'static str,
}

/// One method: what it is called, who may call it and how, what it takes and gives.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) method: Method,
    pub(crate) name: &'static str,
    /// What its caller must be allowed; `None` where anybody may.
    pub(crate) permission: Option<Permission>,
    pub(crate) wires: &'static [Wire],
    pub(crate) summary: &'static str,
    pub(crate) takes: &'static [Param],
    /// The name of the result's schema.
    pub(crate) gives: &'static str,
}

/// The document of all this. OpenRPC gives it its name.
const DISCOVER: &str = "rpc.discover";

const ALL: &[Wire] = &[Wire::Http, Wire::Socket, Wire::Quic];
const JSON: &[Wire] = &[Wire::Http, Wire::Socket];
const STREAMED: &[Wire] = &[Wire::Socket, Wire::Quic];

const fn needed(name: &'static str, schema: &'static str, summary: &'static str) -> Param {
    Param { name, required: true, summary, schema }
}

const fn optional(name: &'static str, schema: &'static str, summary: &'static str) -> Param {
    Param { required: false, ..needed(name, schema, summary) }
}

const MODEL: Param = needed("model", "ModelName", "Which model.");

/// The params of `models.load` and `models.unload`.
const CHANGE: &[Param] = &[
    MODEL,
    optional("version", "ModelVersion", "Which version; all of them when it is left out."),
    optional("nodes", "NodeIds", "Which nodes; every one that has the model when it is left out or empty."),
];

const INFER: &[Param] = &[
    MODEL,
    optional("version", "ModelVersion", "Which version; the latest that is ready when it is left out."),
    needed("inputs", "InputTensors", "The inputs, each with its data."),
    optional(
        "outputs",
        "WantedOutputs",
        "The outputs that are wanted, in this order; all when it is left out.",
    ),
    optional(
        "parameters",
        "Parameters",
        "priority, timeout (microseconds), sequence_id, affinity (as X-Lineside-Affinity) and others, for the node.",
    ),
    optional("id", "Text", "Given back in the result."),
    optional("timeout_ms", "Milliseconds", "How long the call may take, from its arrival."),
    optional("traceparent", "Text", "The caller's trace, as in W3C Trace Context."),
    optional(
        "stream",
        "Flag",
        "Over WebSocket: results come as numbered notifications $/item, then the answer says how many there were.",
    ),
];

const fn row(
    method: Method,
    name: &'static str,
    permission: Option<Permission>,
    takes: &'static [Param],
    gives: &'static str,
    summary: &'static str,
) -> Row {
    Row { method, name, permission, wires: ALL, summary, takes, gives }
}

/// Every method.
pub(crate) const TABLE: &[Row] = &[
    row(
        Method::Infer,
        method::INFER,
        Some(Permission::Infer),
        INFER,
        "InferResult",
        "Runs a model on the least busy node.",
    ),
    row(
        Method::ModelsList,
        method::MODELS_LIST,
        Some(Permission::Models),
        &[],
        "ModelsResult",
        "The models of the cluster, by name and version.",
    ),
    row(
        Method::ModelsGet,
        method::MODELS_GET,
        Some(Permission::Models),
        &[
            MODEL,
            optional(
                "version",
                "ModelVersion",
                "Which version; the latest that is ready when it is left out.",
            ),
        ],
        "ModelInfo",
        "One model.",
    ),
    row(
        Method::ModelsLoad,
        method::MODELS_LOAD,
        Some(Permission::Load),
        CHANGE,
        "ChangeResult",
        "Loads a model on every node that has it in its repository.",
    ),
    row(
        Method::ModelsUnload,
        method::MODELS_UNLOAD,
        Some(Permission::Unload),
        CHANGE,
        "ChangeResult",
        "Unloads a model; calls that run are finished.",
    ),
    row(
        Method::ModelsStatistics,
        method::MODELS_STATISTICS,
        Some(Permission::Statistics),
        &[
            optional("model", "ModelName", "Which model; all when it is left out."),
            optional("version", "ModelVersion", "Which version; all of them when it is left out."),
        ],
        "StatisticsResult",
        "What the models have done, summed over the nodes.",
    ),
    row(
        Method::ClusterMembers,
        method::CLUSTER_MEMBERS,
        Some(Permission::Cluster),
        &[],
        "MembersResult",
        "The members as this door sees them, dead ones too.",
    ),
    row(
        Method::ClusterStatus,
        method::CLUSTER_STATUS,
        Some(Permission::Cluster),
        &[],
        "ClusterStatus",
        "The cluster in numbers.",
    ),
    Row {
        wires: STREAMED,
        ..row(
            Method::ClusterWatch,
            method::CLUSTER_WATCH,
            Some(Permission::Cluster),
            &[],
            "Subscription",
            "The members at once and at each change, as notifications $/subscription, until $/unsubscribe.",
        )
    },
    row(Method::Health, method::HEALTH, None, &[], "Health", "Whether the door takes new work."),
    Row { wires: JSON, ..row(Method::Discover, DISCOVER, None, &[], "OpenRpc", "This document.") },
];

/// The row of the method with this name.
///
/// # Errors
/// There is no such method on this wire; the text says which there are, or where it is.
pub(crate) fn find(name: &str, wire: Wire) -> Result<&'static Row, Fault> {
    let row = TABLE.iter().find(|row| row.name == name);
    if let Some(row) = row.filter(|row| row.wires.contains(&wire)) {
        return Ok(row);
    }
    let text = match row {
        Some(row) => format!("{} is served over {} only", row.name, places(row.wires)),
        None => {
            let here = TABLE.iter().filter(|row| row.wires.contains(&wire));
            let names: Vec<_> = here.map(|row| row.name).collect();
            format!("there is no such method here: there are {}", names.join(", "))
        }
    };
    Err(Fault::new(FaultCode::MethodNotFound, text))
}

/// The fault of a method that another wire, or another part of the process, serves.
pub(crate) fn unserved(row: &Row) -> Fault {
    Fault::new(FaultCode::MethodNotFound, format!("this door does not serve {}", row.name))
}

fn places(wires: &[Wire]) -> String {
    let place = |wire: &Wire| match wire {
        Wire::Http => "HTTP (POST /rpc)",
        Wire::Socket => "WebSocket (/rpc/ws)",
        Wire::Quic => "QUIC",
    };
    wires.iter().map(place).collect::<Vec<_>>().join(" and ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_has_one_row_and_every_method_too() {
        for (at, row) in TABLE.iter().enumerate() {
            assert!(TABLE[..at].iter().all(|above| above.name != row.name && above.method != row.method));
            assert!(!row.wires.is_empty(), "{}", row.name);
            for wire in [Wire::Http, Wire::Socket, Wire::Quic] {
                let found = find(row.name, wire).map(|found| found.method);
                match row.wires.contains(&wire) {
                    true => assert_eq!(found, Ok(row.method)),
                    false => assert_eq!(found.map_err(|fault| fault.code), Err(FaultCode::MethodNotFound)),
                }
            }
        }
    }

    #[test]
    fn a_method_that_is_elsewhere_says_where() {
        let fault = find("cluster.watch", Wire::Http).unwrap_err();
        assert_eq!(fault.message, "cluster.watch is served over WebSocket (/rpc/ws) and QUIC only");
        let fault = find("models.lost", Wire::Http).unwrap_err();
        assert!(fault.message.contains("models.list, models.get") && !fault.message.contains("watch"));
    }

    #[test]
    fn only_health_and_the_document_are_for_everybody() {
        let free: Vec<_> = TABLE.iter().filter(|row| row.permission.is_none()).map(|row| row.name).collect();
        assert_eq!(free, ["health", "rpc.discover"]);
    }
}
