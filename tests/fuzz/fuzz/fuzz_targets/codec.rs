//! libFuzzer's entry to `caisson_fuzz::codec`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| caisson_fuzz::codec(data));
