//! See `smcr_core::fuzzing::cdc`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| smcr_core::fuzzing::cdc(data));
