//! libFuzzer's entry to `caisson_fuzz::host_stream`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| caisson_fuzz::host_stream(data));
