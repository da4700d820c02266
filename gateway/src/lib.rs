//! The HTTP door: bridges, limits, errors to status codes.
//!
//! ```text
//!           accept     line        door            route     gate, limit         ask             infer, rpc, ...  Cluster
//! socket ─► TLS? h2? ─► watched ─► id, count ─┬─► which? ─► who? may? too soon? ─► body, place ─► body to call ─► node
//!                                             └─ gRPC ─► grpc: by the same gate, limits, places and deadlines ─►
//! mesh ──► quic: by the same ──────────────────────────────────────────────────────────────────────────────────►
//!        ◄─────────────── answer, errors: status, stable name, words ◄── answer to body ◄──
//! ```
//!
//! A request walks through the files in that order; [`Cluster`] is all that this crate knows of what lies behind. What
//! runs a model ends in one call, whatever its form:
//!
//! | form | files |
//! |---|---|
//! | Open Inference Protocol over REST | `infer`, `oip` (pure), `rest` |
//! | the same over gRPC, with health and reflection | `grpc` |
//! | JSON-RPC 2.0 by `POST` and WebSocket, frames over QUIC: one table of methods | `rpc`, `jsonrpc` (pure), `socket`, `quic` |
//! | images and texts, which the node turns into tensors | `task`, `predict`, `openai` |
//!
//! `openapi` and `discover` tell clients of all that; `pages` keeps web pages of other hosts out; `codec` unpacks and
//! packs bodies; `explain` and `metrics` tell what became of a request.
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
mod health;
mod infer;
mod jsonrpc;
mod limit;
mod line;
mod metrics;
mod oip;
mod openai;
mod openapi;
mod pages;
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

pub use cluster::{Change, Cluster, LogControl, MembershipReport, TrustReport};
pub use config::{DEADLINE_MAX, GatewayConfig, KeysMode, ModelControl};
pub use health::Check;
pub use proxies::{InvalidNetwork, Network};
pub use quic::DoorService;
pub use server::{GatewayError, GatewayServer};
pub use shared::Shared;
pub use tls::{WebTls, WebTlsError};
