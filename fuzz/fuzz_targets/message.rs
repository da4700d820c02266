//! See [`lineside_fuzz::message`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lineside_fuzz::message(bytes));
