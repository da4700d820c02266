//! See [`lineside_fuzz::frame`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lineside_fuzz::frame(bytes));
