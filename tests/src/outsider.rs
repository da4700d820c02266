//! Somebody with an identity and no process of the cluster: watches members, and sends what no member would.

use std::{net::SocketAddr, sync::Arc};

use bytes::Bytes;
use lineside_certs::{Identity, PeerIdentity, client_config, server_name_of_any_member};
use lineside_mesh::{
    ALPN, Destination, DialError, Incoming, Mesh, MeshConfig, Met, Outbound, Presence, Reply, Served, Service,
};
use lineside_wire::{Fault, FaultCode, Greeting, NodeId, PROTOCOL_VERSION, decode_part, method};
use quinn::{Endpoint, crypto::rustls::QuicClientConfig};
use serde::{Serialize, de::DeserializeOwned};
use tokio::time::timeout;

use crate::{Addends, PATIENCE};

/// A peer that greets as no member does, serves nothing, and is in nobody's list.
///
/// Lives on the runtime of the story that made it.
pub struct Outsider {
    identity: Arc<Identity>,
    mesh: Mesh,
}

impl Outsider {
    /// Somebody with this identity.
    ///
    /// # Panics
    /// No socket can be opened.
    #[must_use]
    pub fn new(identity: Arc<Identity>) -> Self {
        let presence = Arc::new(Silent(Greeting {
            protocol: PROTOCOL_VERSION,
            cluster: identity.cluster(),
            member: None,
            clock_ms: 0,
        }));
        let mesh = Mesh::bind(MeshConfig::dialling(), Arc::clone(&identity), presence, Arc::new(Nothing));
        Self { mesh: mesh.expect("a free port"), identity }
    }

    /// The id in its certificate.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.identity.node()
    }

    /// Dials whoever is at an address, and greets.
    ///
    /// # Errors
    /// As [`Mesh::greet`].
    pub async fn greet(&self, address: SocketAddr) -> Result<Met, DialError> {
        self.mesh.greet(address, None).await
    }

    /// Asks whoever is at an address.
    ///
    /// # Errors
    /// It did not answer, or refused; in words.
    pub async fn ask<P: Serialize + Send + Sync, R: DeserializeOwned>(
        &self,
        address: SocketAddr,
        method: &'static str,
        params: &P,
    ) -> Result<R, String> {
        let reply = self.call(address, Outbound::new(method, params)).await?;
        decode_part(&reply.result).map_err(|fault| fault.message)
    }

    /// Asks a node for a sum, past every door.
    ///
    /// # Errors
    /// As [`Outsider::ask`], and a wrong sum.
    pub async fn add(&self, address: SocketAddr, addends: Addends) -> Result<(), String> {
        let (params, payload) = addends.call();
        let reply = self.call(address, Outbound { payload, ..Outbound::new(method::INFER, params) }).await?;
        if addends.is_sum(&reply.payload) { Ok(()) } else { Err("a wrong sum".to_owned()) }
    }

    async fn call<P: Serialize>(&self, address: SocketAddr, call: Outbound<P>) -> Result<Reply, String> {
        let node = self.greet(address).await.map_err(|error| error.to_string())?.identity.node;
        let answer = timeout(PATIENCE, self.mesh.call(Destination { node, address }, call)).await;
        answer.map_err(|_| "no answer".to_owned())?.map_err(|error| error.to_string())
    }

    /// Sends one datagram as gossip; nobody says whether it arrives.
    ///
    /// # Panics
    /// There is no connection.
    pub async fn gossip(&self, address: SocketAddr, packet: Bytes) {
        let node = self.greet(address).await.expect("the member takes the connection").identity.node;
        self.mesh.send_gossip(Destination { node, address }, packet);
    }

    /// A bare QUIC connection, on which nothing has been said yet.
    ///
    /// # Panics
    /// There is none.
    pub async fn bare(&self, address: SocketAddr) -> (Endpoint, quinn::Connection) {
        let tls = client_config(&self.identity, &[ALPN]).expect("the identity is good");
        let tls = QuicClientConfig::try_from(tls).expect("TLS 1.3");
        let endpoint = Endpoint::client(([127, 0, 0, 1], 0).into()).expect("a free port");
        let name = server_name_of_any_member(self.identity.cluster());
        let connecting = endpoint.connect_with(quinn::ClientConfig::new(Arc::new(tls)), address, &name);
        let connecting = connecting.expect("the address can be dialled");
        let connection = timeout(PATIENCE, connecting).await.expect("in time").expect("the member answers");
        (endpoint, connection)
    }
}

struct Silent(Greeting);

impl Presence for Silent {
    fn greeting(&self) -> Greeting {
        self.0.clone()
    }

    fn met(&self, _peer: &PeerIdentity, _greeting: &Greeting, _remote: SocketAddr) {}

    fn lost(&self, _node: NodeId) {}

    fn gossip(&self, _from: NodeId, _packet: Bytes) {}
}

struct Nothing;

impl Service for Nothing {
    fn serve(&self, call: Incoming) -> Served {
        call.reply.fail(&Fault::new(FaultCode::MethodNotFound, "nothing is served here"), None);
        Served::Done
    }
}
