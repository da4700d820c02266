//! What is known of one call while it is worked on.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::HeaderMap;
use lineside_wire::{Fault, NodeId};
use tokio::time::Instant;
use tonic::{Response, Status, codec::CompressionEncoding};

use super::{
    body::Held,
    generated::inference::{ModelInferRequest, ModelInferResponse},
    request, status,
};
use crate::{
    Cluster,
    body::Reserved,
    door::Door,
    explain::Flight,
    gate::{Caller, Cost, Origin, Permission},
    head,
    limit::ClientKey,
    shared::{Shared, shorter},
};

/// A call that was let in.
pub(super) struct Visit<C> {
    pub(super) door: Arc<Door<C>>,
    origin: Origin,
    /// Nobody in particular, where anybody may ask.
    caller: Option<Caller>,
    pub(super) arrived: Instant,
    /// The time that the client names.
    timeout: Option<Duration>,
    traceparent: Option<String>,
    affinity: Option<String>,
    /// How its messages are packed.
    pub(super) packed: Option<CompressionEncoding>,
    pub(super) held: Arc<Held>,
    /// Of its first inference.
    flight: OnceLock<Flight>,
}

/// An inference that was answered.
pub(super) struct Inferred {
    pub(super) response: ModelInferResponse,
    /// Of its tensors.
    pub(super) room: Reserved,
    node: NodeId,
    attempts: u8,
}

/// One message of a call, with what it holds.
pub(super) struct Message {
    pub(super) request: ModelInferRequest,
    pub(super) room: Reserved,
    pub(super) bytes: u64,
    pub(super) arrived: Instant,
}

impl<C: Cluster> Visit<C> {
    /// Lets a call in, and charges it. What is `free` is for everybody.
    ///
    /// # Errors
    /// 401, over quota, or a time that is none.
    pub(super) fn admit(
        door: &Arc<Door<C>>,
        origin: &Origin,
        headers: &HeaderMap,
        free: bool,
        arrived: Instant,
    ) -> Result<Self, Status> {
        let shared = &door.shared;
        let caller = match free {
            true => None,
            false => {
                let caller =
                    shared.caller(origin, headers).map_err(|refusal| status::of_refusal(&refusal))?;
                door.charge_more(&caller, Cost::ONE).map_err(status::of_fault)?;
                Some(caller)
            }
        };
        let named = head::timeout(headers, shared.settings().deadline_max)
            .map_err(|refusal| status::of_refusal(&refusal))?;
        let timeout = shorter(named, grpc_timeout(headers).map_err(status::of_fault)?);
        Ok(Self {
            door: Arc::clone(door),
            origin: origin.clone(),
            caller,
            arrived,
            timeout,
            traceparent: head::traceparent(headers),
            affinity: head::affinity(headers).map_err(|refusal| status::of_refusal(&refusal))?,
            packed: packed(headers),
            held: Held::new(&shared.bodies),
            flight: OnceLock::new(),
        })
    }

    pub(super) fn cluster(&self) -> &C {
        &self.door.cluster
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.door.shared
    }

    /// Under which name its places are counted: what is free needs none.
    pub(super) fn client(&self) -> ClientKey {
        self.caller.as_ref().map_or(ClientKey::Address(0), |caller| caller.charged)
    }

    /// When the call must be answered.
    pub(super) fn deadline(&self) -> Instant {
        self.shared().deadline(self.arrived, self.timeout)
    }

    /// When a change of what nodes serve must be.
    pub(super) fn change_deadline(&self) -> Instant {
        self.shared().change_deadline(self.arrived, self.timeout)
    }

    /// When a stream ends, where its client says so.
    pub(super) fn end(&self) -> Option<Instant> {
        self.timeout.and_then(|timeout| self.arrived.checked_add(timeout))
    }

    /// Whether the caller may do this, with this model.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub(super) fn may(&self, permission: Permission, model: Option<&str>) -> Result<(), Status> {
        let Some(caller) = &self.caller else { return Ok(()) };
        self.shared().may(caller, permission, model).map_err(status::of_fault)
    }

    fn flew(&self, flight: Flight) {
        // Of a stream's inferences the first one counts.
        let _ = self.flight.set(flight);
    }

    /// What is known of the one inference of a call.
    pub(super) fn flight(&self) -> Option<Flight> {
        self.flight.get().copied()
    }

    /// Who sends a further message of a stream: its key may have ended since the last one.
    pub(super) fn caller(&self, headers: &HeaderMap) -> Result<Caller, Status> {
        self.shared().caller(&self.origin, headers).map_err(|refusal| status::of_refusal(&refusal))
    }

    /// Answers the one message of a unary call.
    pub(super) async fn infer(
        &self,
        request: ModelInferRequest,
    ) -> Result<Response<ModelInferResponse>, Status> {
        let (room, bytes) = self.held.take().map_err(status::of_fault)?;
        let message = Message { request, room, bytes, arrived: self.arrived };
        let caller = self.caller.as_ref().ok_or_else(|| Status::internal("an inference is never free"))?;
        // The call has paid for its one inference at the door.
        let Inferred { response, room, node, attempts } = self.run(message, caller, 0, None).await?;
        self.held.keep(room);
        let mut response = Response::new(response);
        status::worked(response.metadata_mut(), node, attempts);
        Ok(response)
    }

    /// Runs one inference, for which `calls` are charged. `latest` is the end of the stream that it is part of.
    pub(super) async fn run(
        &self,
        message: Message,
        caller: &Caller,
        calls: u32,
        latest: Option<Instant>,
    ) -> Result<Inferred, Status> {
        let (shared, Message { request, mut room, bytes, arrived }) = (self.shared(), message);
        let mut understood = request::read(request).map_err(status::of_fault)?;
        shared.may(caller, Permission::Infer, Some(understood.model())).map_err(status::of_fault)?;
        let cost = Cost { calls, bytes, model: Some(understood.model()) };
        self.door.charge_more(caller, cost).map_err(status::of_fault)?;
        let _place = shared.enter(caller.charged).map_err(status::of_fault)?;
        // What came packed takes more than what came.
        let unpacked = if self.packed.is_some() { understood.sliced } else { 0 };
        room.grow(understood.made + unpacked).map_err(status::of_fault)?;
        let deadline = shared.deadline(arrived, shorter(self.timeout, understood.timeout()));
        let deadline = latest.map_or(deadline, |latest| latest.min(deadline));
        let id = std::mem::take(&mut understood.id);
        let mut call = understood.call(deadline, self.traceparent.clone());
        let affinity = call.context.affinity.take().or_else(|| self.affinity.clone());
        call.context.affinity = shared.affinity(caller, affinity);
        let answered = shared.infer(self.cluster(), call).await;
        // The request is no longer held, so the answer may take its room.
        drop(room);
        let (reply, room) = answered.map_err(|(error, fault)| {
            self.flew(Flight::failed(error.node(), error.attempts()));
            status::of_call(&error, fault)
        })?;
        self.flew(Flight::from(&reply.report));
        let (node, attempts) = (reply.report.node, reply.report.attempts);
        let response = request::write(reply, id).map_err(status::of_fault)?;
        Ok(Inferred { response, room, node, attempts })
    }
}

/// How the messages of a call are packed. Answers are then packed likewise: a client that sends plain ones, as nearly
/// all do, gains nothing on a LAN from answers that cost the gateway a core.
fn packed(headers: &HeaderMap) -> Option<CompressionEncoding> {
    match headers.get("grpc-encoding")?.as_bytes() {
        b"gzip" => Some(CompressionEncoding::Gzip),
        b"deflate" => Some(CompressionEncoding::Deflate),
        _ => None,
    }
}

/// The time that a client gives its call: at most eight digits and a unit.
///
/// # Errors
/// It is there, and is none.
fn grpc_timeout(headers: &HeaderMap) -> Result<Option<Duration>, Fault> {
    const DIGITS_MAX: usize = 8;
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let wrong =
        || crate::oip::invalid("grpc-timeout must be one to eight digits and a unit: H, M, S, m, u or n");
    let (unit, digits) = value.as_bytes().split_last().ok_or_else(wrong)?;
    let is_number = (1..=DIGITS_MAX).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit);
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit.wrapping_sub(b'0')));
    match (is_number, unit) {
        (true, b'H') => Ok(Some(Duration::from_secs(number * 3_600))),
        (true, b'M') => Ok(Some(Duration::from_secs(number * 60))),
        (true, b'S') => Ok(Some(Duration::from_secs(number))),
        (true, b'm') => Ok(Some(Duration::from_millis(number))),
        (true, b'u') => Ok(Some(Duration::from_micros(number))),
        (true, b'n') => Ok(Some(Duration::from_nanos(number))),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn timeout(text: &str) -> Result<Option<Duration>, Fault> {
        let value = http::HeaderValue::from_str(text).expect("a legal value");
        grpc_timeout(&HeaderMap::from_iter([(http::HeaderName::from_static("grpc-timeout"), value)]))
    }

    #[test]
    fn a_timeout_is_a_number_and_a_unit() {
        assert_eq!(grpc_timeout(&HeaderMap::new()), Ok(None));
        assert_eq!(timeout("99999999H"), Ok(Some(Duration::from_secs(359_999_996_400))));
        assert_eq!(timeout("2M"), Ok(Some(Duration::from_secs(120))));
        assert_eq!(timeout("1500m"), Ok(Some(Duration::from_millis(1_500))));
        assert_eq!(timeout("7u"), Ok(Some(Duration::from_micros(7))));
        assert_eq!(timeout("0n"), Ok(Some(Duration::ZERO)));
        for wrong in ["", "S", "5", "5s", "-1S", "1.5S", "123456789S", "1 S"] {
            assert!(timeout(wrong).is_err(), "{wrong:?} was taken for a timeout");
        }
    }
}
