//! libFuzzer's entry to `caisson_fuzz::log`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| caisson_fuzz::log(data));
