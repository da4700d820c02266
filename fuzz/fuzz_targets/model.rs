//! See [`lineside_fuzz::model`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lineside_fuzz::model(bytes));
