//! What a client is told when there is no answer: status, stable name, words. The only place that knows both the
//! fault table and HTTP.

use std::time::Duration;

use http::StatusCode;
use lineside_client::CallError;
use lineside_wire::{Executed, Fault, FaultCode, ModelInfo, ModelName, NodeId};
use serde::Serialize;

use crate::explain::Flight;

/// How messages about models that nobody has begin: clients written for Triton look for it.
const UNKNOWN_MODEL: &str = "Request for unknown model";

/// The status for a fault. Without a catch-all, so that a new fault stops at the compiler.
#[must_use]
pub(crate) const fn status(code: FaultCode) -> StatusCode {
    match code {
        FaultCode::ParseError
        | FaultCode::InvalidRequest
        | FaultCode::InvalidParams
        // Triton's choice for both.
        | FaultCode::Cancelled
        | FaultCode::ModelRejected
        | FaultCode::SequenceLost => StatusCode::BAD_REQUEST,
        FaultCode::PermissionDenied => StatusCode::FORBIDDEN,
        FaultCode::MethodNotFound | FaultCode::ModelNotFound => StatusCode::NOT_FOUND,
        FaultCode::LimitExceeded => StatusCode::PAYLOAD_TOO_LARGE,
        FaultCode::RateLimited => StatusCode::TOO_MANY_REQUESTS,
        FaultCode::Internal | FaultCode::InferenceFailed => StatusCode::INTERNAL_SERVER_ERROR,
        // The work may have been done: not the 503 after which clients repeat without thinking.
        FaultCode::Lost => StatusCode::BAD_GATEWAY,
        FaultCode::ModelUnavailable | FaultCode::Busy | FaultCode::Draining | FaultCode::Unreachable => {
            StatusCode::SERVICE_UNAVAILABLE
        }
        FaultCode::DeadlineExceeded | FaultCode::DeadlineExceededRunning => StatusCode::GATEWAY_TIMEOUT,
    }
}

/// Most versions that a message lists.
const VERSIONS_TOLD_MAX: usize = 16;

/// The fault of a failed call, in the words that this door's clients expect. `models` are those of the cluster.
pub(crate) fn call_fault(error: &CallError, models: impl FnOnce() -> Vec<ModelInfo>) -> Fault {
    if let CallError::UnknownVersion { model, version } = error {
        return unknown_version(&models(), model.as_str(), &version.to_string());
    }
    let mut fault = error.fault();
    if fault.code == FaultCode::ModelNotFound && !fault.message.starts_with(UNKNOWN_MODEL) {
        fault.message = format!("{UNKNOWN_MODEL}: {}", fault.message);
    }
    fault
}

/// The fault for a model or version that the merged list does not have.
pub(crate) fn unknown_model(name: &str, version: Option<&str>) -> Fault {
    let version = version.map(|version| format!(" version {version}")).unwrap_or_default();
    let name = shown_name(name);
    Fault::new(
        FaultCode::ModelNotFound,
        format!("{UNKNOWN_MODEL}: '{name}'{version} is not found; `lineside models` lists those there are"),
    )
}

/// The fault for a version that no node has loaded: which ones there are, and by which policy, where a node says so.
/// Whoever looks for a version that lies in the repository and was not chosen finds out why.
pub(crate) fn unknown_version(models: &[ModelInfo], name: &str, version: &str) -> Fault {
    let known = || models.iter().filter(|model| model.name.as_str() == name);
    let policy = known().find_map(|model| model.engine.as_ref()?.versions.as_ref());
    let Some(policy) = policy else { return unknown_model(name, Some(version)) };
    let there: Vec<_> = known().map(|model| model.version.to_string()).take(VERSIONS_TOLD_MAX).collect();
    let (name, version, there) = (shown_name(name), shown_name(version), there.join(", "));
    let text = format!(
        "{UNKNOWN_MODEL}: '{name}' version {version} does not serve: of this model serve {policy} (`versions` in its \
         model.toml, version_policy in its config.pbtxt); known are {there}"
    );
    Fault::new(FaultCode::ModelNotFound, text)
}

/// The name of a model as a client sent it, for a message: only as far as a name can be long.
pub(crate) fn shown_name(name: &str) -> String {
    name.chars().take(ModelName::BYTES_MAX).collect()
}

/// The fault of a node's answer that is not what was asked for.
pub(crate) fn broken_answer(node: NodeId, problem: &str) -> Fault {
    Fault::new(FaultCode::Internal, format!("the answer of node {node} is broken: {problem}"))
}

/// An HTTP answer that is an error.
#[derive(Debug)]
pub(crate) struct Refusal {
    pub(crate) status: StatusCode,
    name: &'static str,
    message: String,
    executed: Executed,
    retryable: bool,
    retry_after: Option<Duration>,
    /// The node of the last try, for the answer's headers.
    pub(crate) node: Option<NodeId>,
    /// Tries made.
    pub(crate) attempts: Option<u8>,
    /// The methods that the path does take.
    pub(crate) allow: Option<&'static str>,
    /// The limit that was met, for the body.
    pub(crate) limit: Option<&'static str>,
}

/// The body of an error: `error` is the Open Inference Protocol's, the rest is for programs.
#[derive(Serialize)]
struct ErrorBody<'a> {
    error: &'a str,
    code: &'a str,
    request_id: &'a str,
    executed: Executed,
    retryable: bool,
    /// When to come again, to the millisecond: `Retry-After` has whole seconds only.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_ms: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    limit: Option<&'static str>,
}

impl Refusal {
    /// A refusal by the door itself: nothing was run, and the same request would be refused again.
    pub(crate) fn new(status: StatusCode, name: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            name,
            message: message.into(),
            executed: Executed::No,
            retryable: false,
            retry_after: None,
            node: None,
            attempts: None,
            allow: None,
            limit: None,
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, FaultCode::InvalidRequest.name(), message)
    }

    /// The refusal for a path that is there, but not with this method.
    pub(crate) fn wrong_method(allow: &'static str) -> Self {
        let text = format!("this path does not take this method: use {allow}");
        Self { allow: Some(allow), ..Self::new(StatusCode::METHOD_NOT_ALLOWED, "METHOD_NOT_ALLOWED", text) }
    }

    pub(crate) fn from_call(error: &CallError, fault: Fault) -> Self {
        let tried = 0 < error.attempts();
        Self { node: error.node(), attempts: tried.then(|| error.attempts()), ..Self::from(fault) }
    }

    /// The same refusal, after this node worked on the request.
    pub(crate) fn by_node(mut self, node: NodeId, attempts: u8) -> Self {
        (self.node, self.attempts) = (Some(node), Some(attempts));
        self
    }

    /// What is known of the tries, if there was one.
    pub(crate) fn flight(&self) -> Option<Flight> {
        self.attempts.map(|attempts| Flight::failed(self.node, attempts))
    }

    /// The body as JSON.
    pub(crate) fn body(&self, request_id: &str) -> Vec<u8> {
        let body = ErrorBody {
            error: &self.message,
            code: self.name,
            request_id,
            executed: self.executed,
            retryable: self.retryable,
            retry_after_ms: self.retry_after.map(|wait| u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
            limit: self.limit,
        };
        serde_json::to_vec(&body).expect("texts and flags are JSON")
    }

    /// Whole seconds for `Retry-After`: rounded up, so that nobody comes too early, and at least one.
    pub(crate) fn retry_after_seconds(&self) -> Option<u64> {
        self.retry_after.map(whole_seconds)
    }

    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    pub(crate) fn name(&self) -> &'static str {
        self.name
    }
}

/// A wait in whole seconds, rounded up, at least one.
pub(crate) fn whole_seconds(wait: Duration) -> u64 {
    (wait.as_secs() + u64::from(0 < wait.subsec_nanos())).max(1)
}

impl From<Fault> for Refusal {
    fn from(fault: Fault) -> Self {
        let status = status(fault.code);
        // A 503 always says when: clients without the hint tend to come back at once.
        let unhinted = (status == StatusCode::SERVICE_UNAVAILABLE).then_some(Duration::from_secs(1));
        Self {
            status,
            name: fault.code.name(),
            message: fault.message,
            executed: fault.executed,
            retryable: fault.retryable,
            retry_after: fault.retry_after_ms.map(Duration::from_millis).or(unhinted),
            node: None,
            attempts: None,
            allow: None,
            limit: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use lineside_wire::ModelName;

    use super::*;

    #[test]
    fn a_wait_is_rounded_up_and_never_zero() {
        for (wait_ms, seconds) in [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (59_999, 60)] {
            let refusal = Refusal::from(Fault::new(FaultCode::Busy, "full").retry_after_ms(wait_ms));
            assert_eq!(refusal.retry_after_seconds(), Some(seconds), "{wait_ms} ms");
        }
    }

    #[test]
    fn nothing_that_may_have_run_is_answered_with_the_status_that_clients_repeat() {
        for code in FaultCode::ALL {
            if status(*code) == StatusCode::SERVICE_UNAVAILABLE {
                assert_eq!(code.executed(), Executed::No, "{code}");
            }
            assert!(status(*code).is_client_error() || status(*code).is_server_error(), "{code}");
        }
    }

    #[test]
    fn an_unknown_model_is_told_in_the_words_that_clients_look_for() {
        let model: ModelName = "weld".parse().expect("a model name");
        let error = CallError::UnknownModel { model };
        let refusal = Refusal::from_call(&error, call_fault(&error, Vec::new));
        assert_eq!(refusal.status, StatusCode::NOT_FOUND);
        assert!(refusal.message.starts_with(UNKNOWN_MODEL));
        assert!(unknown_model("weld", Some("3")).message.starts_with(UNKNOWN_MODEL));
    }
}
