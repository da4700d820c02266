//! One caller of sums, by one of the two doors.

use std::{net::SocketAddr, time::Duration};

use lineside_client::{CallError, Client};
use lineside_faults::ledger::Ended;

use crate::{Added, Addends, Http, HttpAnswer, add_by_http, add_by_quic};

/// Asks for sums, one after another.
pub(super) enum Caller {
    Http { http: Http, header: Option<(&'static str, String)> },
    Quic(Client),
}

/// A call that brought no sum.
pub(super) struct Failure {
    pub(super) text: String,
    pub(super) ended: Ended,
}

impl Caller {
    pub(super) fn http(door: SocketAddr, deadline: Option<Duration>) -> Self {
        let header = deadline.map(|deadline| ("x-request-timeout-ms", deadline.as_millis().to_string()));
        Self::Http { http: Http::new(door), header }
    }

    pub(super) async fn ask(&mut self, addends: Addends) -> Result<Added, Failure> {
        match self {
            Self::Http { http, header } => {
                let headers: Vec<_> = header.iter().map(|(name, value)| (*name, value.as_str())).collect();
                let answer = add_by_http(http, addends, &headers).await.map_err(|error| broken(&error))?;
                answer.added(addends).map_err(|text| Failure { text, ended: refused(&answer) })
            }
            Self::Quic(client) => add_by_quic(client, addends).await.map_err(|error| {
                let text = format!("QUIC: {error}");
                let ended = match &error {
                    CallError::Lost { .. } => Ended::Lost { what: text.clone() },
                    error => {
                        let fault = error.fault();
                        Ended::Refused { code: fault.code.name().into(), retryable: fault.retryable }
                    }
                };
                Failure { text, ended }
            }),
        }
    }
}

fn broken(error: &std::io::Error) -> Failure {
    let text = format!("HTTP: {error}");
    Failure { ended: Ended::Lost { what: text.clone() }, text }
}

/// What an answer that is no success says.
pub(super) fn refused(answer: &HttpAnswer) -> Ended {
    let told: Option<serde_json::Value> = serde_json::from_slice(&answer.body).ok();
    let code = told.as_ref().and_then(|told| told["code"].as_str());
    match code {
        Some(code) => {
            let retryable = told.as_ref().is_some_and(|told| told["retryable"] == true);
            Ended::Refused { code: code.to_owned(), retryable }
        }
        None => Ended::Wrong { what: format!("{}: {}", answer.status, answer.text()) },
    }
}
