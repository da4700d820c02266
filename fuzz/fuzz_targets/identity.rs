//! See [`lineside_fuzz::identity`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lineside_fuzz::identity(bytes));
