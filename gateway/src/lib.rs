//! The HTTP door: bridges, limits, errors to status codes.
//!
//! ```text
//!            line          head          route        limit              infer, rpc          Cluster
//! socket ─► watched ─► who, how long ─► which? ─► allowed? room? ─► body to call ─► least busy node
//!        ◄───────────────── errors: status, stable name, words ◄── answer to body ◄──
//! ```
//!
//! A request walks through the files in that order; [`Cluster`] is all that this crate knows of what lies behind.
//! The Open Inference Protocol's REST form and JSON-RPC 2.0 end in the same call, and so does a QUIC frame that
//! [`DoorService`] takes from the mesh: one table of methods serves all.
//!
//! Limits, each with its reason where it is set: [`GatewayConfig`]. Tensors that come or go as binary data are
//! slices of one buffer, the request's body or the node's answer; padding between them is all that is added or left
//! out.
//!
//! This crate knows no ONNX and no gossip.

mod accept;
mod answer;
mod ask;
mod body;
mod bounded;
mod cluster;
mod codec;
mod config;
mod discover;
mod door;
mod errors;
mod explain;
pub mod fuzzing;
mod gate;
mod grpc;
mod head;
mod infer;
mod jsonrpc;
mod limit;
mod line;
mod metrics;
mod oip;
mod openai;
mod openapi;
mod predict;
mod proxies;
mod quic;
mod rest;
mod route;
mod rpc;
mod server;
mod settings;
mod shared;
mod socket;
mod task;
mod tls;

pub use cluster::{Change, Cluster, LogControl, TrustReport};
pub use config::{DEADLINE_MAX, GatewayConfig, KeysMode, ModelControl};
pub use proxies::{InvalidNetwork, Network};
pub use quic::DoorService;
pub use server::{GatewayError, GatewayServer};
pub use shared::Shared;
pub use tls::{WebTls, WebTlsError};
