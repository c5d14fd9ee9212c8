//! libFuzzer's entry to `caisson_fuzz::controller_stream`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| caisson_fuzz::controller_stream(data));
