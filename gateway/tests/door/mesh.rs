//! The door over QUIC: real certificates, and two meshes.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
    time::SystemTime,
};

use bytes::Bytes;
use lineside_certs::{Authority, Identity, PeerIdentity, Subject};
use lineside_gateway::{DoorService, GatewayConfig, Shared};
use lineside_mesh::{
    CallFailure, Destination, Incoming, Mesh, MeshConfig, Outbound, Presence, Reply, Served, Service,
};
use lineside_wire::{
    Greeting, InferParams, NodeId, PROTOCOL_VERSION, Parameters, Role, Tensor, join_tensors, method,
};
use serde::Serialize;
use tempfile::TempDir;
use tokio::time::timeout;

use crate::{gate::PATIENCE, line::Line};

/// A client, and the door that it calls.
pub(crate) struct Floor {
    pub(crate) line: Arc<Line>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) door: Mesh,
    pub(crate) client: Mesh,
    _home: TempDir,
}

struct Greets(Arc<Identity>);

impl Presence for Greets {
    fn greeting(&self) -> Greeting {
        Greeting { protocol: PROTOCOL_VERSION, cluster: self.0.cluster(), member: None, clock_ms: 0 }
    }

    fn met(&self, _peer: &PeerIdentity, _greeting: &Greeting, _remote: SocketAddr) {}

    fn lost(&self, _node: NodeId) {}

    fn gossip(&self, _from: NodeId, _packet: Bytes) {}
}

/// A client serves nothing: what would come drops its call.
struct Nothing;

impl Service for Nothing {
    fn serve(&self, _call: Incoming) -> Served {
        Served::Done
    }
}

impl Floor {
    pub(crate) fn new(config: GatewayConfig) -> Self {
        Self::with(config, Role::Client)
    }

    /// The same, with a caller of this role.
    pub(crate) fn with(config: GatewayConfig, role: Role) -> Self {
        let home = tempfile::tempdir().unwrap();
        let authority = Authority::create(&home.path().join("ca"), "floor", SystemTime::now()).unwrap();
        let identity = |role: Role, name: &str| {
            let directory = home.path().join(name);
            let issued = authority.issue(&Subject::new(role, name), SystemTime::now()).unwrap();
            Identity::store(&directory, &issued).unwrap();
            Arc::new(Identity::load(&directory).unwrap())
        };
        let (line, shared) = (Arc::new(Line::default()), Shared::new(config));
        let service = Arc::new(DoorService::new(Arc::clone(&line), Arc::clone(&shared)));
        let own = identity(Role::Gateway, "gate");
        let listening = MeshConfig::listening((Ipv4Addr::LOCALHOST, 0).into());
        let door = Mesh::bind(listening, Arc::clone(&own), Arc::new(Greets(own)), service).unwrap();
        let own = identity(role, "program");
        let client =
            Mesh::bind(MeshConfig::dialling(), Arc::clone(&own), Arc::new(Greets(own)), Arc::new(Nothing))
                .unwrap();
        Self { line, shared, door, client, _home: home }
    }

    pub(crate) async fn call<P: Serialize>(&self, outbound: Outbound<P>) -> Result<Reply, CallFailure> {
        let address = self.door.local_addr();
        let met = self.client.greet(address, None).await.unwrap();
        let to = Destination { node: met.identity.node, address };
        timeout(PATIENCE, self.client.call(to, outbound)).await.expect("an answer comes")
    }
}

/// A call of a model with these inputs.
pub(crate) fn infer(model: &str, tensors: &[Tensor]) -> Outbound<InferParams> {
    let (inputs, payload) = join_tensors(tensors);
    let params = InferParams {
        model: model.parse().unwrap(),
        version: None,
        inputs,
        outputs: Vec::new(),
        parameters: Parameters::new(),
        task: None,
        classification: Default::default(),
    };
    Outbound { payload, ..Outbound::new(method::INFER, params) }
}
