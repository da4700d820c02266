//! Lineside's own hop: an `infer` as a gateway sends it to a node, with everything but the model.

use std::{net::SocketAddr, path::Path, sync::Arc};

use anyhow::Context as _;
use bytes::Bytes;
use lineside_certs::{Identity, PeerIdentity};
use lineside_mesh::{Destination, Incoming, Mesh, MeshConfig, Outbound, Presence, Served, Service};
use lineside_wire::{
    CallContext, ClusterId, Datatype, Greeting, InferParams, InferResult, LoadReport, MemberState,
    ModelVersion, NodeId, PROTOCOL_VERSION, Parameters, RunReport, Tensor, decode_part, join_tensors, method,
    split_tensors,
};
use tokio::runtime::Runtime;

use super::{
    Caller,
    load::{Load, runtime},
};
use crate::{
    children::{Process, announce, end_with_stdin},
    compare::Round,
    identities::Identities,
};

/// A member that says who it is, as members must to be called.
struct Member {
    cluster: ClusterId,
    state: MemberState,
}

impl Member {
    fn of(identity: &Identity) -> Self {
        let state = MemberState {
            node: identity.node(),
            name: identity.name().to_owned(),
            role: identity.role(),
            software: env!("CARGO_PKG_VERSION").to_owned(),
            address: ([127, 0, 0, 1], 0).into(),
            http: None,
            door: false,
            epoch: 1,
            revision: 0,
            draining: false,
            cordoned: false,
            weight: 100,
            load: LoadReport::default(),
            models: Vec::new(),
            certificate_expires: 0,
            certificate_generation: 1,
            trust: lineside_wire::TrustStamp::default(),
            authority: false,
        };
        Self { cluster: identity.cluster(), state }
    }
}

impl Presence for Member {
    fn greeting(&self) -> Greeting {
        Greeting {
            protocol: PROTOCOL_VERSION,
            cluster: self.cluster,
            member: Some(self.state.clone()),
            clock_ms: 0,
        }
    }
    fn met(&self, _peer: &PeerIdentity, _greeting: &Greeting, _remote: SocketAddr) {}
    fn lost(&self, _node: NodeId) {}
    fn gossip(&self, _from: NodeId, _packet: Bytes) {}
}

/// Answers `infer` with a tensor of the wanted length, without running anything.
struct Answers {
    node: NodeId,
    answer: Bytes,
}

impl Service for Answers {
    fn serve(&self, call: Incoming) -> Served {
        let params = decode_part::<InferParams>(&call.params);
        let inputs =
            params.and_then(|params| Ok((split_tensors(params.inputs, &call.payload)?, params.model)));
        let (_inputs, model) = match inputs {
            Ok(inputs) => inputs,
            Err(fault) => {
                call.reply.fail(&fault, None);
                return Served::Done;
            }
        };
        let length = self.answer.len() as u64;
        let output = Tensor::new("y", Datatype::Uint8, vec![length], self.answer.clone())
            .expect("as many bytes as the shape says");
        let (outputs, payload) = join_tensors(&[output]);
        let result = InferResult { model, version: ModelVersion(1), outputs, parameters: Parameters::new() };
        let load = LoadReport { running: 0, queued: 0, slots: 1, limit: 0, call_us: 0 };
        let report = RunReport { node: self.node, load, queue_us: 1, run_us: 1, attempts: 1, batch: 1 };
        call.reply.answer(&result, Some(&report), payload);
        Served::Done
    }
}

fn mesh(config: MeshConfig, identity: &Arc<Identity>, answer: usize) -> anyhow::Result<Mesh> {
    let service = Answers { node: identity.node(), answer: vec![7; answer].into() };
    let presence = Member::of(identity);
    Ok(Mesh::bind(config, Arc::clone(identity), Arc::new(presence), Arc::new(service))?)
}

/// The node's side.
pub(crate) fn serve(identity: &Path, answer: usize) -> anyhow::Result<()> {
    let identity = Identities::load(identity)?;
    end_with_stdin();
    runtime()?.block_on(async {
        let mesh = mesh(MeshConfig::listening(([127, 0, 0, 1], 0).into()), &identity, answer)?;
        announce(mesh.local_addr());
        std::future::pending::<anyhow::Result<()>>().await
    })
}

/// The gateway's side.
pub(crate) struct Calls {
    runtime: Runtime,
    mesh: Mesh,
    to: Destination,
    server: Process,
    request: Bytes,
}

impl Calls {
    pub(crate) fn connect(server: Process, caller: &Path, node: &Path) -> anyhow::Result<Self> {
        let (identity, node) = (Identities::load(caller)?, Identities::load(node)?.node());
        let runtime = runtime()?;
        let to = Destination { node, address: server.address };
        let mesh = runtime.block_on(async { mesh(MeshConfig::dialling(), &identity, 0) })?;
        runtime.block_on(mesh.greet(to.address, Some(node))).context("cannot reach the node")?;
        Ok(Self { runtime, mesh, to, server, request: Bytes::new() })
    }
}

impl Caller for Calls {
    fn run(&mut self, load: &Load) -> anyhow::Result<Round> {
        if self.request.len() != load.request {
            self.request = vec![3; load.request].into();
        }
        let (mesh, to, request) = (&self.mesh, self.to, &self.request);
        let model: lineside_wire::ModelName = "bench".parse()?;
        let call = || {
            let model = model.clone();
            async move {
                let length = request.len() as u64;
                let input = Tensor::new("x", Datatype::Uint8, vec![length], request.clone())?;
                let (inputs, payload) = join_tensors(&[input]);
                let params = InferParams {
                    model,
                    version: None,
                    inputs,
                    outputs: Vec::new(),
                    parameters: Parameters::new(),
                    task: None,
                    classification: Default::default(),
                };
                let context = CallContext { timeout_us: Some(10_000_000), ..CallContext::default() };
                let outbound = Outbound { method: method::INFER, context, params, payload };
                let reply = mesh.call(to, outbound).await?;
                let result: InferResult = decode_part(&reply.result)?;
                split_tensors(result.outputs, &reply.payload)?;
                Ok(())
            }
        };
        self.runtime.block_on(load.drive(self.server.pid(), call))
    }
}
