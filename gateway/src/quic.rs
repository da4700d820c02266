//! The same door over QUIC: calls of peers on the mesh, by the same table, limits and counters as HTTP.

use std::{net::Ipv4Addr, sync::Arc};

use bytes::Bytes;
use lineside_client::InferCall;
use lineside_mesh::{Incoming, Served, Service};
use lineside_wire::{Fault, FaultCode, InferParams, PayloadBuilder, decode_part};
use serde::de::DeserializeOwned;

use crate::{
    Cluster,
    gate::{Caller, Cost},
    head::AFFINITY_BYTES_MAX,
    limit::Allowances,
    rpc::{
        self, Asked, Given, Params, Work,
        table::{self, Row, Wire},
    },
    shared::Shared,
};

/// Serves the door's methods to peers. Anything else is refused as unknown: what a member serves beside them, such as
/// `cluster.watch`, its own service takes out first.
pub struct DoorService<C> {
    cluster: Arc<C>,
    shared: Arc<Shared>,
}

/// The params of a call as MessagePack.
struct Part<'a>(&'a Bytes);

impl Params for Part<'_> {
    fn read<T: DeserializeOwned>(&self) -> Result<T, Fault> {
        decode_part(self.0)
    }
}

impl<C: Cluster> DoorService<C> {
    /// A door to `cluster`, under the limits of `shared`.
    #[must_use]
    pub const fn new(cluster: Arc<C>, shared: Arc<Shared>) -> Self {
        Self { cluster, shared }
    }

    fn infer(&self, call: Incoming, caller: Caller, row: &'static Row) -> Served {
        let (cluster, shared) = (Arc::clone(&self.cluster), Arc::clone(&self.shared));
        Served::Later(Box::pin(async move {
            let reply = call.reply;
            if shared.is_leaving() {
                let fault = Fault::new(FaultCode::Draining, "this gateway is leaving: ask another");
                return reply.fail(&fault, None);
            }
            let _place = match shared.enter(caller.charged) {
                Ok(place) => place,
                Err(fault) => return reply.fail(&fault, None),
            };
            let params = decode_part::<InferParams>(&call.params).and_then(|params| {
                let model = params.model.as_str();
                rpc::may(&shared, &caller, row, Some(model))?;
                let cost = Cost { calls: 0, bytes: call.payload.len() as u64, model: Some(model) };
                shared.charge(&*cluster, &caller, cost, &mut Allowances::default())?;
                Ok(params)
            });
            let params = match params {
                Ok(params) => params,
                Err(fault) => return reply.fail(&fault, None),
            };
            let deadline =
                shared.deadline(call.arrived, call.deadline.map(|deadline| deadline - call.arrived));
            let mut payload = PayloadBuilder::new();
            payload.push(call.payload);
            let mut context = call.context;
            if context.affinity.as_ref().is_some_and(|key| AFFINITY_BYTES_MAX < key.len()) {
                let text = format!("the affinity of a call is a text of at most {AFFINITY_BYTES_MAX} bytes");
                return reply.fail(&Fault::new(FaultCode::InvalidParams, text), None);
            }
            context.affinity = shared.affinity(&caller, context.affinity);
            let call = InferCall { params, payload, deadline, context };
            match shared.infer(&*cluster, call).await {
                Ok((answer, _room)) => {
                    let mut payload = PayloadBuilder::new();
                    payload.push(answer.payload);
                    reply.answer(&answer.result, Some(&answer.report), payload);
                }
                Err((_, fault)) => reply.fail(&fault, None),
            }
        }))
    }

    fn work(&self, call: Incoming, caller: &Caller, work: Work) -> Served {
        let (cluster, shared, client) = (Arc::clone(&self.cluster), Arc::clone(&self.shared), caller.charged);
        Served::Later(Box::pin(async move {
            let _place = match shared.enter(client) {
                Ok(place) => place,
                Err(fault) => return call.reply.fail(&fault, None),
            };
            let left = call.deadline.map(|deadline| deadline - call.arrived);
            let deadline = work.deadline(&shared, call.arrived, left);
            finish(call, rpc::work(&*cluster, work, deadline).await);
        }))
    }

    /// The call's row, and who calls, once it is charged.
    fn admit(&self, call: &Incoming) -> Result<(&'static Row, Caller), Fault> {
        // Who calls is told by its certificate alone, so nobody asks where it is.
        let caller = self.shared.peer(&call.peer, Ipv4Addr::UNSPECIFIED.into());
        // Models are charged where they are run.
        self.shared.charge(&*self.cluster, &caller, Cost::ONE, &mut Allowances::default())?;
        Ok((table::find(&call.method, Wire::Quic)?, caller))
    }
}

fn finish(call: Incoming, outcome: Result<Given, Fault>) {
    match outcome {
        Ok(given) => call.reply.answer(&given, None, PayloadBuilder::new()),
        Err(fault) => call.reply.fail(&fault, None),
    }
}

impl<C: Cluster> Service for DoorService<C> {
    fn serve(&self, call: Incoming) -> Served {
        let asked = self.admit(&call).and_then(|(row, caller)| {
            let asked = rpc::read(&self.shared, &caller, row, &Part(&call.params))?;
            Ok((asked, row, caller))
        });
        let outcome = match asked {
            Ok((Asked::Query(query), ..)) => rpc::answer_query(&*self.cluster, &self.shared, query),
            Ok((Asked::Work(work), _, caller)) => return self.work(call, &caller, work),
            Ok((Asked::Infer, row, caller)) => return self.infer(call, caller, row),
            Ok((Asked::Watch | Asked::Discover, row, _)) => Err(table::unserved(row)),
            Err(fault) => Err(fault),
        };
        finish(call, outcome);
        Served::Done
    }
}
