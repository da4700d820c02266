//! Refusals in the form that OpenAI's clients read.

use http::StatusCode;
use lineside_wire::FaultCode;
use serde::Serialize;

use crate::errors::Refusal;

/// Whether refusals at this path have this form, also where nothing is served.
pub(crate) fn is_ours(path: &str) -> bool {
    path == "/v1" || path.starts_with("/v1/")
}

#[derive(Serialize)]
struct Body<'a> {
    error: Error<'a>,
}

#[derive(Serialize)]
struct Error<'a> {
    message: &'a str,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<&'static str>,
    code: &'a str,
}

/// The body of a refusal as JSON. Its id is in the answer's head.
pub(crate) fn error_body(refusal: &Refusal) -> Vec<u8> {
    let name = refusal.name();
    let lower = name.to_ascii_lowercase();
    let code = match refusal.status {
        StatusCode::UNAUTHORIZED => "invalid_api_key",
        // The limit of a client, not the one of the door.
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_exceeded",
        _ => &lower,
    };
    let param = (name == FaultCode::ModelNotFound.name()).then_some("model");
    let error = Error { message: refusal.message(), kind: kind(refusal.status), param, code };
    serde_json::to_vec(&Body { error }).expect("texts are JSON")
}

/// The coarse kind that clients make their exceptions of.
fn kind(status: StatusCode) -> &'static str {
    match status {
        StatusCode::UNAUTHORIZED => "authentication_error",
        StatusCode::FORBIDDEN => "permission_error",
        StatusCode::TOO_MANY_REQUESTS => "rate_limit_error",
        status if status.is_client_error() => "invalid_request_error",
        _ => "server_error",
    }
}

#[cfg(test)]
mod tests {
    use lineside_wire::Fault;
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn a_refusal_has_the_members_that_clients_look_for() {
        let body = |code| {
            let refusal = Refusal::from(Fault::new(code, "words"));
            serde_json::from_slice::<Value>(&error_body(&refusal)).expect("JSON")["error"].take()
        };
        let error = |kind: &str, param: Option<&str>, code: &str| json!({"message": "words", "type": kind, "param": param, "code": code});
        let expected = [
            (FaultCode::ModelNotFound, error("invalid_request_error", Some("model"), "model_not_found")),
            (FaultCode::RateLimited, error("rate_limit_error", None, "rate_limit_exceeded")),
            (FaultCode::PermissionDenied, error("permission_error", None, "permission_denied")),
            (FaultCode::Busy, error("server_error", None, "busy")),
        ];
        for (code, expected) in expected {
            assert_eq!(body(code), expected);
        }
    }

    #[test]
    fn only_paths_of_that_api_answer_so() {
        assert!(is_ours("/v1") && is_ours("/v1/models") && is_ours("/v1/chat/completions"));
        assert!(!is_ours("/v2/models") && !is_ours("/v10/models") && !is_ours("/"));
    }
}
