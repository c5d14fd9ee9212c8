//! libFuzzer's entry to `caisson_fuzz::key_frames`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| caisson_fuzz::key_frames(data));
