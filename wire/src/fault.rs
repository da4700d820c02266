//! Why a call has no answer, in numbers and names that stay.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Whether the work of a failed call was done. Failover is a match on this, never a guess.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Executed {
    /// Nothing was begun: another node may be asked without doubt.
    No,
    /// Unknown: only work that may be done twice can be asked for again.
    Maybe,
    /// Begun or finished: the same would happen again.
    Yes,
}

/// One row of the fault table: `(variant, number, name, executed, retryable)`.
macro_rules! faults {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal, $executed:ident, $retryable:literal;)*) => {
        /// Every way a call can fail. Numbers and names are part of the protocol and never change their meaning.
        ///
        /// The first five are JSON-RPC 2.0's own; the rest lie in its range for servers.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum FaultCode { $($(#[$doc])* $variant,)* }

        impl FaultCode {
            /// Every code, in the order of the table in `docs/PROTOCOL.md`.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The number on the wire.
            #[must_use]
            pub const fn number(self) -> i32 {
                match self { $(Self::$variant => $code,)* }
            }

            /// The name: stable, for logs, metrics and programs.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// Whether the work was done when a call fails so.
            #[must_use]
            pub const fn executed(self) -> Executed {
                match self { $(Self::$variant => Executed::$executed,)* }
            }

            /// Whether another try, on another node or later, can help.
            #[must_use]
            pub const fn retryable(self) -> bool {
                match self { $(Self::$variant => $retryable,)* }
            }

            /// The code with this number.
            #[must_use]
            pub const fn from_number(number: i32) -> Option<Self> {
                match number { $($code => Some(Self::$variant),)* _ => None }
            }
        }
    };
}

faults! {
    /// The document is not MessagePack, or breaks a rule of the frames.
    ParseError = -32700, "PARSE_ERROR", No, false;
    /// The document is well-formed but no request.
    InvalidRequest = -32600, "INVALID_REQUEST", No, false;
    /// No such method.
    MethodNotFound = -32601, "METHOD_NOT_FOUND", No, false;
    /// The params do not fit the method, or the tensors do not fit the model.
    InvalidParams = -32602, "INVALID_PARAMS", No, false;
    /// A defect of ours. The work may have been done.
    Internal = -32603, "INTERNAL", Maybe, true;
    /// The peer's role may not call this method.
    PermissionDenied = -32001, "PERMISSION_DENIED", No, false;
    /// The node (or, from a gateway, the cluster) does not have this model or version.
    ModelNotFound = -32002, "MODEL_NOT_FOUND", No, true;
    /// The model is known but cannot serve now: loading, unloading or failed to load.
    ModelUnavailable = -32003, "MODEL_UNAVAILABLE", No, true;
    /// No room: the queue is full. Nothing was begun.
    Busy = -32004, "BUSY", No, true;
    /// The time ran out before the work began.
    DeadlineExceeded = -32005, "DEADLINE_EXCEEDED", No, false;
    /// The time ran out after the work began.
    DeadlineExceededRunning = -32006, "DEADLINE_EXCEEDED_RUNNING", Maybe, false;
    /// The caller cancelled.
    Cancelled = -32007, "CANCELLED", Maybe, false;
    /// The node is leaving and takes no new work.
    Draining = -32008, "DRAINING", No, true;
    /// A stated limit was passed: size, depth, count.
    LimitExceeded = -32009, "LIMIT_EXCEEDED", No, false;
    /// The model ran and failed on this input.
    InferenceFailed = -32010, "INFERENCE_FAILED", Yes, false;
    /// A connection broke before the answer came.
    Lost = -32011, "LOST", Maybe, true;
    /// No member could be reached. Nothing was sent.
    Unreachable = -32012, "UNREACHABLE", No, true;
    /// The caller is over its quota at this gateway.
    RateLimited = -32013, "RATE_LIMITED", No, true;
    /// The model was refused by a safety rule or is no ONNX model.
    ModelRejected = -32014, "MODEL_REJECTED", No, false;
    /// The state of the request's sequence is gone: its node died, or nothing came for too long. Begin the sequence again.
    SequenceLost = -32015, "SEQUENCE_LOST", No, false;
}

impl fmt::Display for FaultCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Longest message of a fault on the wire, in bytes: names that a caller made up are repeated in it, and an answer
/// must fit every receiver's document.
pub const FAULT_MESSAGE_BYTES_MAX: usize = 2048;

/// The beginning of a text, as much of it as a fault's message may have.
pub(crate) fn shortened(text: &str) -> &str {
    &text[..text.floor_char_boundary(FAULT_MESSAGE_BYTES_MAX)]
}

/// A typed error answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
pub struct Fault {
    /// What kind of failure.
    pub code: FaultCode,
    /// What happened, why, and what to do, for the caller. Sent up to [`FAULT_MESSAGE_BYTES_MAX`].
    pub message: String,
    /// Whether the work was done; usually [`FaultCode::executed`], but a gateway knows more after several tries.
    pub executed: Executed,
    /// Whether another try can help; usually [`FaultCode::retryable`].
    pub retryable: bool,
    /// When to try again, in milliseconds, where the answerer can tell.
    pub retry_after_ms: Option<u64>,
}

impl Fault {
    /// A fault with the table's own `executed` and `retryable`.
    pub fn new(code: FaultCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            executed: code.executed(),
            retryable: code.retryable(),
            retry_after_ms: None,
        }
    }

    /// The same fault, with a hint when to come again.
    #[must_use]
    pub fn retry_after_ms(mut self, wait: u64) -> Self {
        self.retry_after_ms = Some(wait);
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_fault_has_its_own_number_and_name() {
        for (i, a) in FaultCode::ALL.iter().enumerate() {
            assert_eq!(FaultCode::from_number(a.number()), Some(*a));
            for b in &FaultCode::ALL[i + 1..] {
                assert_ne!(a.number(), b.number());
                assert_ne!(a.name(), b.name());
            }
        }
    }

    #[test]
    fn what_was_surely_run_is_never_called_retryable() {
        for code in FaultCode::ALL {
            assert!(!(code.retryable() && code.executed() == Executed::Yes), "{code}");
        }
    }
}
