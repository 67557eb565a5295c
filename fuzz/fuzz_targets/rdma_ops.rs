//! See `smcr_core::fuzzing::rdma_ops`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    smcr_core::fuzzing::rdma_ops(data);
});
