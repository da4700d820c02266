//! One QUIC endpoint: connections by node id, calls as streams, gossip as datagrams.
//!
//! ```text
//!   call(node, request) ──> table ──> connection ──> small: the shared stream, large: a stream of its own
//!                             │ none?
//!                             └─> dial ──> mutual TLS ──> hello ──> up
//!   Service::serve(call) <── stream <── connection <── accept
//!        └─> Responder::item … Responder::answer ──> stream ──> call_streaming(node, request) yields items
//! ```
//!
//! A peer is *up* only after it has answered our hello: with TLS 1.3 a client is connected before the server has
//! looked at its certificate. Every connection is mutual TLS, and who the peer is comes from its certificate
//! alone. The mesh matches answers to requests and knows methods by name, to allow them; it does not know what is
//! in a call.
//!
//! The identity can change while connections stand: see [`lineside_certs::Credentials`]. Each connection then looks whether
//! its peer is still trusted, and ends with its certificates in any case; who has a renewed one dials again.
//!
//! On a member with the authority's key somebody without a certificate may make one call, to get one: see [`Enrolment`]
//! and [`join`]. Such a connection never becomes a peer.
//!
//! Limits and times, each with its reason, are in the `config` module.

mod accept;
mod bytes;
mod call;
mod config;
mod connect;
mod defect;
mod dial;
mod endpoint;
mod enrol;
mod error;
mod frames;
mod greeting;
mod handshakes;
mod items;
mod knock;
mod mesh;
mod origin;
mod peer;
mod serve;
mod service;
mod settings;
mod shared;
mod standing;
mod table;

pub use call::{Destination, Outbound, Reply};
pub use config::{ALPN, GOSSIP_BYTES_MAX, MTU_MAX, MeshConfig, SHARED_STREAM_BYTES_MAX, Timing};
pub use enrol::{Enrolment, Fingerprint, JOIN_ALPN, JOIN_TIME_MAX, JoinError, join};
pub use error::{BindError, CallFailure, CloseCode, DialError, Refuser};
pub use items::Item;
pub use mesh::{ConnectionInfo, Mesh, Met, Presence, Signs};
pub use service::{Cancelled, Incoming, NotSent, Responder, Served, Service};
