//! See [`lineside_fuzz::jsonrpc`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lineside_fuzz::jsonrpc(bytes));
