//! The whole door over real sockets, with a made-up cluster behind it.

#![expect(clippy::unwrap_used, reason = "in a test a panic is the report")]

mod caller;
mod gate;
mod hardening;
mod jsonrpc;
mod lifecycle;
mod limits;
mod line;
mod oip;
mod oip_wrong;
mod operations;
mod quic;
