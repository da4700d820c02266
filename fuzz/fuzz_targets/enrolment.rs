//! See [`lineside_fuzz::enrolment`].
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| lineside_fuzz::enrolment(bytes));
