//! One request on its way to a handler: head, body, caller, time.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use http::request::Parts;
use hyper::body::Incoming;
use lineside_wire::{CallContext, Fault};
use tokio::time::Instant;

use crate::{
    Cluster,
    body::{self, BodyLimits, Reserved},
    codec,
    door::{Door, Visit},
    errors::Refusal,
    gate::{Caller, Cost, Origin, Permission},
    head,
    limit::TooSoon,
    shared::{Place, Shared, shorter},
};

/// A request that was let in. Handlers read its body, run what it asks for, and give an answer.
pub(crate) struct Ask<'a, 'v, C> {
    pub(crate) door: &'a Arc<Door<C>>,
    pub(crate) visit: &'a mut Visit<'v>,
    pub(crate) head: Parts,
    pub(crate) body: &'a mut Incoming,
    /// Where its connection comes from.
    pub(crate) origin: &'a Origin,
    pub(crate) caller: Caller,
    /// The time that the head names.
    pub(crate) timeout: Option<Duration>,
}

impl<C: Cluster> Ask<'_, '_, C> {
    pub(crate) fn cluster(&self) -> &C {
        &self.door.cluster
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.door.shared
    }

    /// When the request's head was there.
    pub(crate) fn arrived(&self) -> Instant {
        self.visit.arrived
    }

    /// When it must be answered, where its body names `timeout` too.
    pub(crate) fn deadline(&self, timeout: Option<Duration>) -> Instant {
        self.door.shared.deadline(self.visit.arrived, shorter(self.timeout, timeout))
    }

    /// What the head says for the calls of this request.
    ///
    /// # Errors
    /// Its affinity is none.
    pub(crate) fn context(&self) -> Result<CallContext, Refusal> {
        let (traceparent, affinity) = (head::traceparent(&self.head.headers), self.affinity(None)?);
        Ok(CallContext { traceparent, affinity, ..CallContext::default() })
    }

    /// Which key draws the request to one node: its body's own, else its head's, else its client where that is set.
    ///
    /// # Errors
    /// The head's is none.
    pub(crate) fn affinity(&self, own: Option<String>) -> Result<Option<String>, Refusal> {
        let of_head = head::affinity(&self.head.headers)?;
        Ok(self.shared().affinity(&self.caller, own.or(of_head)))
    }

    /// Reads the body, unless the door is full anyway, and charges its bytes. Compressed ones are unpacked.
    pub(crate) async fn body(&mut self) -> Result<(Bytes, Reserved), Refusal> {
        let packed = codec::of_request(&self.head.headers)?;
        self.door.shared.has_room(self.caller.charged)?;
        let config = &self.door.shared.config;
        let limits = BodyLimits {
            bytes_max: config.body_bytes_max,
            idle_max: config.body_idle_max,
            deadline: self.deadline(None),
        };
        let room = &self.door.shared.bodies;
        let collected = match packed {
            None => body::collect(self.body, limits, room).await,
            Some(encoding) => Box::pin(codec::collect(self.body, encoding, limits, room)).await,
        };
        (self.visit.body_read, self.visit.broken) = (collected.is_ok(), collected.is_err());
        let (bytes, room) = collected?;
        let cost = Cost { calls: 0, bytes: bytes.len() as u64, model: None };
        self.door.charge(self.visit, &self.caller, cost)?;
        Ok((bytes, room))
    }

    /// A place among the requests that are worked on.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn enter(&self) -> Result<Place<'_>, Fault> {
        self.door.shared.enter(self.caller.charged)
    }

    /// Whether the caller may do this.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub(crate) fn may(&self, permission: Permission, model: Option<&str>) -> Result<(), Fault> {
        self.door.shared.may(&self.caller, permission, model)
    }

    /// Charges more of the caller, after the one call that every request pays at the door.
    ///
    /// # Errors
    /// `RATE_LIMITED`, with the limit that it met.
    pub(crate) fn charge(&mut self, cost: Cost<'_>) -> Result<(), TooSoon> {
        self.door.charge(self.visit, &self.caller, cost)
    }
}
