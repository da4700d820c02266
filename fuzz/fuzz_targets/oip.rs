//! See [`lineside_fuzz::oip`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lineside_fuzz::oip(bytes));
