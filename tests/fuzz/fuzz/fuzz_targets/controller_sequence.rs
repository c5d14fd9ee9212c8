//! libFuzzer's entry to `caisson_fuzz::controller_sequence`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| caisson_fuzz::controller_sequence(data));
