//! See [`lineside_fuzz::token`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lineside_fuzz::token(bytes));
