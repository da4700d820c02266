//! What a failure means, for the call and for the peer. Every match is complete, so that a new fault stops at the
//! compiler.

use std::time::Duration;

use lineside_mesh::CallFailure;
use lineside_wire::{Executed, Fault, FaultCode, LoadReport};

use crate::{Outcome, call::CallError};

/// What a failed try means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The peer has no room; nothing was run.
    Full { retry_after: Option<Duration> },
    /// The peer takes no new work; nothing was run.
    Leaving,
    /// The peer does not have the model; nothing was run.
    NotHere,
    /// The peer has the model, but cannot serve it now; nothing was run.
    NotNow,
    /// The peer has no state of the call's session; nothing was run, and the next in the session's order may have it.
    NoState,
    /// The peer could not be reached; nothing was sent.
    NothingSent,
    /// The call may have run, and the answer is lost.
    Broken,
    /// The model failed on the input: so would every other, unless this one is broken.
    ModelFailed,
    /// The time ran out.
    Late(Executed),
    /// A door lost the node, and has repeated the call itself where it may be.
    LostBehind,
    /// Every peer would say the same.
    Wrong,
}

impl Verdict {
    pub(super) fn of(failure: &CallFailure) -> Self {
        match failure {
            CallFailure::Unreachable { .. } | CallFailure::Lost { sent: false, .. } => Self::NothingSent,
            CallFailure::Lost { sent: true, .. } | CallFailure::Invalid { .. } => Self::Broken,
            // A door has asked the nodes behind it.
            CallFailure::Fault { node, fault, report: Some(report) }
                if fault.code == FaultCode::SequenceLost
                    && fault.executed == Executed::No
                    && report.node == *node =>
            {
                Self::NoState
            }
            // A door has asked for a second opinion itself.
            CallFailure::Fault { node, fault, report: Some(report) }
                if fault.code == FaultCode::InferenceFailed
                    && fault.executed == Executed::Yes
                    && report.node == *node =>
            {
                Self::ModelFailed
            }
            CallFailure::Fault { fault, .. } => Self::of_fault(fault),
        }
    }

    fn of_fault(fault: &Fault) -> Self {
        let verdict = match fault.code {
            FaultCode::Busy => Self::Full { retry_after: fault.retry_after_ms.map(Duration::from_millis) },
            FaultCode::Draining => Self::Leaving,
            FaultCode::ModelNotFound => Self::NotHere,
            FaultCode::ModelUnavailable | FaultCode::Unreachable => Self::NotNow,
            FaultCode::Internal if fault.executed != Executed::Yes => Self::Broken,
            FaultCode::DeadlineExceeded | FaultCode::DeadlineExceededRunning => {
                return Self::Late(fault.executed);
            }
            FaultCode::Lost => return Self::LostBehind,
            // A quota is the caller's, at every door.
            FaultCode::RateLimited
            | FaultCode::Internal
            | FaultCode::ParseError
            | FaultCode::InvalidRequest
            | FaultCode::MethodNotFound
            | FaultCode::InvalidParams
            | FaultCode::PermissionDenied
            | FaultCode::Cancelled
            | FaultCode::LimitExceeded
            | FaultCode::InferenceFailed
            | FaultCode::ModelRejected
            | FaultCode::SequenceLost => return Self::Wrong,
        };
        // A gateway knows more than the table after several tries of its own.
        match fault.executed {
            Executed::Yes => Self::Wrong,
            Executed::Maybe => Self::Broken,
            Executed::No if verdict == Self::Broken => Self::NotNow,
            Executed::No => verdict,
        }
    }

    /// What the balancer learns of the peer.
    pub(super) fn outcome(self, failure: &CallFailure) -> Outcome {
        match self {
            Self::Full { retry_after } => Outcome::Full { load: load_of(failure), retry_after },
            Self::Leaving => Outcome::Leaving,
            Self::NothingSent | Self::Broken => Outcome::Failed,
            // A fault is an answer: the peer is there, and the deadline may have been the caller's own fancy.
            Self::Late(_) | Self::NotHere | Self::NotNow | Self::NoState | Self::LostBehind | Self::Wrong => {
                Outcome::Heard
            }
            // If another peer answers: until then it is the input that is suspected.
            Self::ModelFailed => Outcome::Erred,
        }
    }
}

/// The peer's own load: a door passes on that of a node, which says nothing about the door.
fn load_of(failure: &CallFailure) -> Option<LoadReport> {
    match failure {
        CallFailure::Fault { node, report: Some(report), .. } if report.node == *node => Some(report.load),
        CallFailure::Fault { .. }
        | CallFailure::Unreachable { .. }
        | CallFailure::Lost { .. }
        | CallFailure::Invalid { .. } => None,
    }
}

/// The error of a call that ends with this failure.
pub(super) fn error_of(failure: CallFailure, attempts: u8) -> CallError {
    match failure {
        CallFailure::Fault { node, fault, .. } => CallError::Refused { node, fault, attempts },
        CallFailure::Unreachable { node, error } => {
            CallError::Lost { node, attempts, reason: error.to_string() }
        }
        CallFailure::Lost { node, reason, .. } | CallFailure::Invalid { node, reason } => {
            CallError::Lost { node, attempts, reason }
        }
    }
}
