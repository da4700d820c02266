//! The commands, one file each: read arguments, call a crate, write the result.

pub(crate) mod bench;
pub(crate) mod certs;
pub(crate) mod config;
pub(crate) mod connect;
pub(crate) mod demo;
pub(crate) mod drain;
pub(crate) mod infer;
pub(crate) mod keys;
pub(crate) mod member;
pub(crate) mod members;
pub(crate) mod models;
mod passphrase;
pub(crate) mod ping;
pub(crate) mod runtime;
pub(crate) mod status;
pub(crate) mod token;
pub(crate) mod torture;
pub(crate) mod trial;
