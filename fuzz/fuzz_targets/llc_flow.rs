//! See `smcr_core::fuzzing::llc_flow`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| smcr_core::fuzzing::llc_flow(data));
