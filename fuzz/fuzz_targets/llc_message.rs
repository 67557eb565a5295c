//! See `smcr_core::fuzzing::llc_message`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| smcr_core::fuzzing::llc_message(data));
