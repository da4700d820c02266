//! The targets of `lineside-gateway`. Its tests include this file. What they look at is the crate's own affair, so they are
//! there, in a module that is no part of its interface.

/// A body of `POST /rpc`, or a message of `/rpc/ws`.
pub fn jsonrpc(bytes: &[u8]) {
    lineside_gateway::fuzzing::jsonrpc(bytes);
}

/// A body of an inference, led by two bytes with the length of its JSON.
pub fn oip(bytes: &[u8]) {
    lineside_gateway::fuzzing::oip(bytes);
}
