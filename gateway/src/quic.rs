//! The same door over QUIC: calls of peers on the mesh, by the same table, limits and counters as HTTP.

use std::sync::Arc;

use lineside_client::InferCall;
use lineside_mesh::{Incoming, Served, Service};
use lineside_wire::{Fault, FaultCode, InferParams, ModelParams, PayloadBuilder, decode_part};

use crate::{
    Cluster,
    limit::ClientKey,
    rpc::{self, Method},
    shared::Shared,
};

/// Serves the door's methods to peers. Anything else is refused as unknown: what a member serves beside them, its
/// own service takes out first.
pub struct DoorService<C> {
    cluster: Arc<C>,
    shared: Arc<Shared>,
}

impl<C: Cluster> DoorService<C> {
    /// A door to `cluster`, under the limits of `shared`.
    #[must_use]
    pub const fn new(cluster: Arc<C>, shared: Arc<Shared>) -> Self {
        Self { cluster, shared }
    }

    fn infer(&self, call: Incoming) -> Served {
        let (cluster, shared) = (Arc::clone(&self.cluster), Arc::clone(&self.shared));
        Served::Later(Box::pin(async move {
            let reply = call.reply;
            if shared.is_leaving() {
                let fault = Fault::new(FaultCode::Draining, "this gateway is leaving: ask another");
                return reply.fail(&fault, None);
            }
            let place = match shared.enter() {
                Ok(place) => place,
                Err(fault) => return reply.fail(&fault, None),
            };
            let params: InferParams = match decode_part(&call.params) {
                Ok(params) => params,
                Err(fault) => return reply.fail(&fault, None),
            };
            let latest = call.arrived + shared.config.deadline_max;
            let deadline = call.deadline.unwrap_or_else(|| shared.deadline(call.arrived, None)).min(latest);
            let mut payload = PayloadBuilder::new();
            payload.push(call.payload);
            let call = InferCall { params, payload, deadline, context: call.context };
            match shared.infer(&*cluster, call).await {
                Ok((answer, _room)) => {
                    let mut payload = PayloadBuilder::new();
                    payload.push(answer.payload);
                    reply.answer(&answer.result, Some(&answer.report), payload);
                }
                Err((_, fault)) => reply.fail(&fault, None),
            }
            drop(place);
        }))
    }

    fn charge(&self, call: &Incoming) -> Result<(), Fault> {
        let Some(limiter) = &self.shared.limiter else { return Ok(()) };
        limiter.charge(ClientKey::Peer(call.peer.node)).map(drop).map_err(|too_soon| {
            self.shared.metrics.rate_limited.inc();
            limiter.fault(too_soon)
        })
    }
}

impl<C: Cluster> Service for DoorService<C> {
    fn serve(&self, call: Incoming) -> Served {
        let method = self.charge(&call).and_then(|()| Method::named(&call.method));
        let outcome = match method {
            Ok(Method::Infer) => return self.infer(call),
            Ok(Method::Query(query)) => {
                let params = || decode_part::<ModelParams>(&call.params);
                rpc::answer(&*self.cluster, &self.shared, query, params)
            }
            Err(fault) => Err(fault),
        };
        match outcome {
            Ok(answer) => call.reply.answer(&answer, None, PayloadBuilder::new()),
            Err(fault) => call.reply.fail(&fault, None),
        }
        Served::Done
    }
}
