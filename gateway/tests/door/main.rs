//! The whole door over real sockets, with a made-up cluster behind it.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod affinity;
mod caller;
mod codec;
mod datatypes;
mod discover;
mod gate;
mod generate;
mod h2;
mod hardening;
mod jsonrpc;
mod keys;
mod lifecycle;
mod limits;
mod line;
mod mesh;
mod oip;
mod oip_wrong;
mod openai;
mod openapi;
mod operations;
mod pages;
mod permissions;
mod predict;
mod proxies;
mod quic;
mod repository;
mod socket;
mod spec;
mod statistics;
mod tasks;
mod tls;
