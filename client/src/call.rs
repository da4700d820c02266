//! A call to the cluster and what becomes of it.

use std::time::Duration;

use bytes::Bytes;
use lineside_wire::{
    CallContext, Executed, Fault, FaultCode, InferParams, InferResult, ModelName, ModelVersion, NodeId,
    PayloadBuilder, RunReport,
};
use tokio::time::Instant;

/// One inference, to be tried on as many nodes as it takes within its deadline.
#[derive(Clone, Debug)]
pub struct InferCall {
    /// Model, inputs, outputs, parameters.
    pub params: InferParams,
    /// The tensors' bytes; never copied.
    pub payload: PayloadBuilder,
    /// When the caller no longer wants an answer.
    pub deadline: Instant,
    /// Trace, priority, session; timeout and attempt are set anew for every try.
    pub context: CallContext,
}

/// The answer to an inference.
#[derive(Clone, Debug)]
pub struct InferReply {
    /// Model, version, outputs.
    pub result: InferResult,
    /// The outputs' bytes, aligned; [`lineside_wire::split_tensors`] cuts them.
    pub payload: Bytes,
    /// Who did the work, how long it took, and after how many tries.
    pub report: RunReport,
}

/// Why a call brought back no answer.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CallError {
    /// No member has ever served the model. Nothing was sent.
    #[error("no node of the cluster has the model {model}; `lineside models` lists those there are")]
    UnknownModel {
        /// The model asked for.
        model: ModelName,
    },
    /// Members have the model, but none has this version of it. Nothing was run.
    #[error(
        "no node of the cluster has version {version} of the model {model}; `lineside models` lists those there are"
    )]
    UnknownVersion {
        /// The model asked for.
        model: ModelName,
        /// The version asked for.
        version: ModelVersion,
    },
    /// Nodes have the model, but none can serve it now. Nothing was run.
    #[error("no node can serve {model} now: {reason}")]
    NoNode {
        /// The model asked for.
        model: ModelName,
        /// Why, for a person.
        reason: String,
    },
    /// Every node that was asked is full, and no other try is allowed or left. Nothing was run.
    #[error("{} busy; try again in {retry_after:?}", who_is_full(*nodes, model))]
    AllBusy {
        /// The model asked for.
        model: ModelName,
        /// How many nodes said so.
        nodes: usize,
        /// When there may be room.
        retry_after: Duration,
    },
    /// The last try broke off, and no other was allowed or left.
    #[error("lost {node} before its answer, after {attempts} tries: {reason}")]
    Lost {
        /// The node of the last try.
        node: NodeId,
        /// Tries made.
        attempts: u8,
        /// What broke.
        reason: String,
    },
    /// Time ran out.
    #[error("no answer within the deadline, after {attempts} tries")]
    Late {
        /// Tries made.
        attempts: u8,
        /// Whether a node may have begun.
        executed: Executed,
    },
    /// A node found the request wrong. Every other node would too.
    #[error("{}", fault.message)]
    Refused {
        /// Which node.
        node: NodeId,
        /// What it said.
        fault: Fault,
        /// Tries made.
        attempts: u8,
    },
}

fn who_is_full(nodes: usize, model: &ModelName) -> String {
    match nodes {
        1 => format!("the node that was asked for {model} is"),
        nodes => format!("all {nodes} nodes that were asked for {model} are"),
    }
}

impl CallError {
    /// The fault that a gateway gives to its own caller.
    #[must_use]
    pub fn fault(&self) -> Fault {
        let text = self.to_string();
        match self {
            Self::UnknownModel { .. } | Self::UnknownVersion { .. } => {
                Fault::new(FaultCode::ModelNotFound, text)
            }
            Self::NoNode { .. } => Fault::new(FaultCode::ModelUnavailable, text).retry_after_ms(1_000),
            Self::AllBusy { retry_after, .. } => {
                let wait = u64::try_from(retry_after.as_millis()).unwrap_or(u64::MAX);
                Fault::new(FaultCode::Busy, text).retry_after_ms(wait)
            }
            Self::Lost { .. } => Fault::new(FaultCode::Lost, text),
            Self::Late { executed: Executed::No, .. } => Fault::new(FaultCode::DeadlineExceeded, text),
            Self::Late { .. } => Fault::new(FaultCode::DeadlineExceededRunning, text),
            Self::Refused { fault, .. } => fault.clone(),
        }
    }

    /// Tries made before the call failed; those that reached nobody are not counted when none of them did.
    #[must_use]
    pub const fn attempts(&self) -> u8 {
        match self {
            Self::UnknownModel { .. } | Self::UnknownVersion { .. } | Self::NoNode { .. } => 0,
            // Each said so once, and an attempt's number fits this type.
            Self::AllBusy { nodes, .. } => *nodes as u8,
            Self::Lost { attempts, .. } | Self::Late { attempts, .. } | Self::Refused { attempts, .. } => {
                *attempts
            }
        }
    }

    /// The node of the last try, if there was one.
    #[must_use]
    pub const fn node(&self) -> Option<NodeId> {
        match self {
            Self::Lost { node, .. } | Self::Refused { node, .. } => Some(*node),
            Self::UnknownModel { .. }
            | Self::UnknownVersion { .. }
            | Self::NoNode { .. }
            | Self::AllBusy { .. }
            | Self::Late { .. } => None,
        }
    }
}
