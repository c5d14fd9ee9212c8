//! libFuzzer's entry to `caisson_fuzz::keys_text`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| caisson_fuzz::keys_text(data));
