//! What the trust keeper asks of others: a trust list, a new certificate.

use std::time::Duration;

use lineside_certs::{CertificateRequest, Identity, Issued, WebCertificate};
use lineside_mesh::{CallFailure, Destination, Mesh, Outbound};
use lineside_wire::{
    Empty, Enrolled, Fault, FaultCode, RenewParams, SignedTrust, WebParams, decode_part, method,
};
use serde::Serialize;
use tokio::time::{sleep, timeout};

use super::desk::Desk;

/// Longest wait for a trust list. A revocation is to be everywhere within five seconds, and others can be asked.
const LIST_WITHIN: Duration = Duration::from_secs(2);

/// Longest wait for a renewal: the authority may have eight before it, on a slow disk.
const RENEW_WITHIN: Duration = Duration::from_secs(10);

/// How often a member with the key is asked that is only busy.
const BUSY_MAX: u32 = 3;

/// Longest pause before a busy one is asked again.
const PAUSE_MAX_MS: u64 = 5_000;

/// How much longer than it was told a member waits at most, in parts: those that were turned away together do not come back
/// together.
const PAUSE_SPREAD: f64 = 1.0;

/// Asks a member for the trust list that it goes by.
pub(super) async fn fetch(mesh: &Mesh, from: Destination) -> Result<SignedTrust, String> {
    let call = Outbound::new(method::TRUST_GET, Empty {});
    let answer = timeout(LIST_WITHIN, mesh.call(from, call)).await;
    let reply = answer.map_err(|_| format!("no answer within {LIST_WITHIN:?}"))?;
    let reply = reply.map_err(|error| error.to_string())?;
    decode_part(&reply.result).map_err(|fault| fault.message)
}

/// Asks for a new certificate: at the own desk, else at members with the authority's key, in this order.
pub(super) async fn renew(
    present: &Identity,
    desk: Option<Desk>,
    mesh: &Mesh,
    holders: &[Destination],
) -> Result<Issued, String> {
    let request = CertificateRequest::new();
    let params = RenewParams { csr: request.csr().to_vec().into() };
    let at_desk = desk.map(|desk| desk.renew(present.holder().clone(), params.clone()));
    let holders = Holders { method: method::CERTS_RENEW, mesh, holders };
    holders
        .ask(at_desk, &params, |answer| request.renew(present, &answer).map_err(|error| error.to_string()))
        .await
}

/// Asks for a certificate for HTTPS, in the same places.
pub(super) async fn web(
    present: &Identity,
    desk: Option<Desk>,
    mesh: &Mesh,
    holders: &[Destination],
    names: Vec<String>,
) -> Result<WebCertificate, String> {
    let request = CertificateRequest::new();
    let params = WebParams { csr: request.csr().to_vec().into(), names };
    let at_desk = desk.map(|desk| desk.web(present.holder().clone(), params.clone()));
    let holders = Holders { method: method::CERTS_WEB, mesh, holders };
    let use_it =
        |answer: Enrolled| WebCertificate::of(&request, present, &answer).map_err(|error| error.to_string());
    holders.ask(at_desk, &params, use_it).await
}

/// Members with the authority's key, and what is asked of them.
struct Holders<'a> {
    method: &'static str,
    mesh: &'a Mesh,
    holders: &'a [Destination],
}

impl Holders<'_> {
    /// The first answer that can be used: of the own desk, if there is one, else of the others.
    async fn ask<P: Serialize + Clone, T>(
        &self,
        at_desk: Option<impl Future<Output = Result<Enrolled, Fault>>>,
        params: &P,
        use_it: impl Fn(Enrolled) -> Result<T, String>,
    ) -> Result<T, String> {
        let mut reasons = Vec::new();
        if let Some(at_desk) = at_desk {
            let answer = timeout(RENEW_WITHIN, at_desk).await.map_or_else(
                |_| {
                    Err(format!("the authority here: no answer within {RENEW_WITHIN:?}; does its disk work?"))
                },
                |answer| answer.map_err(|fault| fault.to_string()),
            );
            match answer.and_then(&use_it) {
                Ok(issued) => return Ok(issued),
                Err(reason) => reasons.push(reason),
            }
        }
        for holder in self.holders {
            let answer = timeout(RENEW_WITHIN, self.ask_one(*holder, params)).await;
            let answer =
                answer.unwrap_or_else(|_| Err(format!("{}: no answer within {RENEW_WITHIN:?}", holder.node)));
            match answer.and_then(&use_it) {
                Ok(issued) => return Ok(issued),
                Err(reason) => reasons.push(reason),
            }
        }
        Err(reasons.join("; "))
    }

    /// Asks one member, again when it is only busy.
    async fn ask_one<P: Serialize + Clone>(
        &self,
        holder: Destination,
        params: &P,
    ) -> Result<Enrolled, String> {
        let mut tries = 0;
        loop {
            tries += 1;
            match self.mesh.call(holder, Outbound::new(self.method, params.clone())).await {
                Ok(reply) => return decode_part(&reply.result).map_err(|fault| fault.message),
                Err(CallFailure::Fault { fault, .. })
                    if fault.code == FaultCode::Busy && tries < BUSY_MAX =>
                {
                    let pause =
                        Duration::from_millis(fault.retry_after_ms.unwrap_or(1_000).min(PAUSE_MAX_MS));
                    sleep(pause.mul_f64(1.0 + PAUSE_SPREAD * rand::random::<f64>())).await;
                }
                Err(error) => return Err(error.to_string()),
            }
        }
    }
}
