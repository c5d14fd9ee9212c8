//! libFuzzer's entry to `caisson_fuzz::key_file`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| caisson_fuzz::key_file(data));
