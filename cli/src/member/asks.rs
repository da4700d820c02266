//! What the trust keeper asks of others: a trust list, a new certificate.

use std::time::Duration;

use lineside_certs::{CertificateRequest, Identity, Issued};
use lineside_mesh::{CallFailure, Destination, Mesh, Outbound};
use lineside_wire::{Empty, Enrolled, FaultCode, RenewParams, SignedTrust, decode_part, method};
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
    let use_it = |answer: Result<Enrolled, String>| {
        request.renew(present, &answer?).map_err(|error| error.to_string())
    };
    let mut reasons = Vec::new();
    if let Some(desk) = desk {
        let answer = timeout(RENEW_WITHIN, desk.renew(present.holder().clone(), params.clone())).await;
        let answer = answer.map_or_else(
            |_| Err(format!("the authority here: no answer within {RENEW_WITHIN:?}; does its disk work?")),
            |answer| answer.map_err(|fault| fault.to_string()),
        );
        match use_it(answer) {
            Ok(issued) => return Ok(issued),
            Err(reason) => reasons.push(reason),
        }
    }
    for holder in holders {
        let answer = timeout(RENEW_WITHIN, ask(mesh, *holder, &params)).await;
        let answer =
            answer.unwrap_or_else(|_| Err(format!("{}: no answer within {RENEW_WITHIN:?}", holder.node)));
        match use_it(answer) {
            Ok(issued) => return Ok(issued),
            Err(reason) => reasons.push(reason),
        }
    }
    Err(reasons.join("; "))
}

/// Asks one member, again when it is only busy.
async fn ask(mesh: &Mesh, holder: Destination, params: &RenewParams) -> Result<Enrolled, String> {
    let mut tries = 0;
    loop {
        tries += 1;
        match mesh.call(holder, Outbound::new(method::CERTS_RENEW, params.clone())).await {
            Ok(reply) => return decode_part(&reply.result).map_err(|fault| fault.message),
            Err(CallFailure::Fault { fault, .. }) if fault.code == FaultCode::Busy && tries < BUSY_MAX => {
                let pause = Duration::from_millis(fault.retry_after_ms.unwrap_or(1_000).min(PAUSE_MAX_MS));
                sleep(pause.mul_f64(1.0 + PAUSE_SPREAD * rand::random::<f64>())).await;
            }
            Err(error) => return Err(error.to_string()),
        }
    }
}
