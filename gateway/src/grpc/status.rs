//! Faults in gRPC's words. The only place that knows both tables.

use http::HeaderMap;
use lineside_client::CallError;
use lineside_wire::{Executed, FAULT_MESSAGE_BYTES_MAX, Fault, FaultCode, NodeId};
use tonic::{
    Code, Status,
    metadata::{Ascii, MetadataMap, MetadataValue},
};

use crate::{
    errors::{self, Refusal, whole_seconds},
    head,
    metrics::CLIENT_GONE,
};

/// The fault's stable name.
const CODE: &str = "x-lineside-code";
/// Whether the work of a refused call was done.
const EXECUTED: &str = "x-lineside-executed";
/// The node that worked on the call last.
const NODE: &str = "x-lineside-node";
/// Tries made.
const ATTEMPTS: &str = "x-lineside-attempts";
/// Whole seconds until another try makes sense.
const RETRY_AFTER: &str = "retry-after";

/// The code for a fault. Without a catch-all, so that a new fault stops at the compiler.
const fn code(code: FaultCode) -> Code {
    match code {
        FaultCode::ParseError
        | FaultCode::InvalidRequest
        | FaultCode::InvalidParams
        | FaultCode::ModelRejected
        | FaultCode::SequenceLost => Code::InvalidArgument,
        FaultCode::PermissionDenied => Code::PermissionDenied,
        FaultCode::MethodNotFound => Code::Unimplemented,
        FaultCode::ModelNotFound => Code::NotFound,
        // gRPC's own choice for messages that are too large.
        FaultCode::LimitExceeded | FaultCode::RateLimited => Code::ResourceExhausted,
        FaultCode::Internal | FaultCode::InferenceFailed => Code::Internal,
        // The work may have been done: not the code after which clients repeat without thinking.
        FaultCode::Lost => Code::Unknown,
        FaultCode::ModelUnavailable | FaultCode::Busy | FaultCode::Draining | FaultCode::Unreachable => {
            Code::Unavailable
        }
        FaultCode::DeadlineExceeded | FaultCode::DeadlineExceededRunning => Code::DeadlineExceeded,
        FaultCode::Cancelled => Code::Cancelled,
    }
}

/// The status that tells a client of this fault.
pub(super) fn of_fault(mut fault: Fault) -> Status {
    // It travels in a header, whose length clients limit.
    fault.message.truncate(fault.message.floor_char_boundary(FAULT_MESSAGE_BYTES_MAX));
    let code = match (code(fault.code), fault.executed) {
        (Code::Unavailable, Executed::Yes | Executed::Maybe) => Code::Unknown,
        (code, _) => code,
    };
    let mut status = Status::new(code, fault.message);
    let metadata = status.metadata_mut();
    metadata.insert(CODE, MetadataValue::from_static(fault.code.name()));
    metadata.insert(EXECUTED, executed(fault.executed));
    // "Unavailable" always says when: clients without the hint tend to come back at once.
    let unhinted = (code == Code::Unavailable).then_some(1);
    let hinted = fault.retry_after_ms.map(|ms| whole_seconds(std::time::Duration::from_millis(ms)));
    if let Some(seconds) = hinted.or(unhinted) {
        metadata.insert(RETRY_AFTER, MetadataValue::from(seconds));
    }
    status
}

/// The status for a call that failed with this fault.
pub(super) fn of_call(error: &CallError, fault: Fault) -> Status {
    let mut status = of_fault(fault);
    if let Some(node) = error.node() {
        status.metadata_mut().insert(NODE, digits(node));
    }
    if 0 < error.attempts() {
        status.metadata_mut().insert(ATTEMPTS, MetadataValue::from(u64::from(error.attempts())));
    }
    status
}

/// The status for what the door refuses by itself, before anything was run.
pub(super) fn of_refusal(refusal: &Refusal) -> Status {
    let code = match refusal.status.as_u16() {
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::NotFound,
        413 | 429 => Code::ResourceExhausted,
        503 => Code::Unavailable,
        408 | 504 => Code::DeadlineExceeded,
        400..=499 => Code::InvalidArgument,
        _ => Code::Internal,
    };
    let mut status = Status::new(code, refusal.message());
    let metadata = status.metadata_mut();
    metadata.insert(CODE, MetadataValue::from_static(refusal.name()));
    metadata.insert(EXECUTED, executed(Executed::No));
    if let Some(seconds) = refusal.retry_after_seconds() {
        metadata.insert(RETRY_AFTER, MetadataValue::from(seconds));
    }
    status
}

/// The status for a change that some nodes did not make.
pub(super) fn of_change(error: &str, fate: Executed) -> Status {
    let mut status = Status::failed_precondition(error);
    status.metadata_mut().insert(CODE, MetadataValue::from_static("CHANGE_FAILED"));
    status.metadata_mut().insert(EXECUTED, executed(fate));
    status
}

/// Names the node that did the work, and how many tries it took.
pub(super) fn worked(metadata: &mut MetadataMap, node: NodeId, attempts: u8) {
    metadata.insert(NODE, digits(node));
    metadata.insert(ATTEMPTS, MetadataValue::from(u64::from(attempts)));
}

fn digits(node: NodeId) -> MetadataValue<Ascii> {
    let digits = head::digits(node.as_bytes());
    MetadataValue::try_from(digits.as_bytes()).expect("hexadecimal digits are legal")
}

/// The stable name and the fate of a refused call, as a status says them.
pub(super) fn details(status: &Status) -> impl Iterator<Item = (&'static str, String)> {
    let value = |name| status.metadata().get(name)?.to_str().ok().map(str::to_owned);
    [("lineside_code", value(CODE)), ("lineside_executed", value(EXECUTED))]
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
}

const fn name(executed: Executed) -> &'static str {
    match executed {
        Executed::No => "no",
        Executed::Maybe => "maybe",
        Executed::Yes => "yes",
    }
}

fn executed(executed: Executed) -> MetadataValue<Ascii> {
    MetadataValue::from_static(name(executed))
}

/// The HTTP status under which a call is counted that ended with these headers or trailers.
pub(super) fn counted(trailers: &HeaderMap) -> u16 {
    let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok());
    let named = text(CODE).and_then(|name| FaultCode::ALL.iter().find(|code| code.name() == name));
    let status = text("grpc-status").and_then(|code| code.parse().ok()).map_or(Code::Unknown, Code::from_i32);
    match (status, named) {
        (Code::Ok, _) => 200,
        (_, Some(fault)) => errors::status(*fault).as_u16(),
        (Code::InvalidArgument | Code::OutOfRange | Code::FailedPrecondition | Code::AlreadyExists, _) => 400,
        (Code::Unauthenticated, _) => 401,
        (Code::PermissionDenied, _) => 403,
        (Code::NotFound, _) => 404,
        // What names no fault of ours is a message that grew too large while it was unpacked.
        (Code::ResourceExhausted, _) => 413,
        (Code::Cancelled, _) => CLIENT_GONE,
        (Code::Unimplemented, _) => 501,
        (Code::Unavailable, _) => 503,
        (Code::DeadlineExceeded, _) => 504,
        (Code::Unknown | Code::Internal | Code::Aborted | Code::DataLoss, _) => 500,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_may_have_run_has_the_code_that_clients_repeat() {
        for code in FaultCode::ALL {
            for executed in [Executed::No, Executed::Maybe, Executed::Yes] {
                let fault = Fault { executed, ..Fault::new(*code, "so it is") };
                let status = of_fault(fault);
                assert_ne!(status.code(), Code::Ok);
                assert_eq!(status.metadata().get(CODE).expect("a name"), code.name());
                if status.code() == Code::Unavailable {
                    assert_eq!(executed, Executed::No, "{code}");
                    assert!(status.metadata().contains_key(RETRY_AFTER), "{code}");
                }
            }
        }
    }

    #[test]
    fn a_call_is_counted_as_its_fault_is_over_http() {
        for code in FaultCode::ALL {
            let response: http::Response<()> = of_fault(Fault::new(*code, "so it is")).into_http();
            assert_eq!(counted(response.headers()), errors::status(*code).as_u16(), "{code}");
        }
        let response: http::Response<()> = Status::unauthenticated("a key is needed").into_http();
        assert_eq!(counted(response.headers()), 401);
    }

    #[test]
    fn a_wait_is_rounded_up() {
        let status = of_fault(Fault::new(FaultCode::RateLimited, "slower").retry_after_ms(1_001));
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert_eq!(status.metadata().get(RETRY_AFTER).expect("a wait"), "2");
    }
}
