//! libFuzzer's entry to `caisson_fuzz::table_changes`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| caisson_fuzz::table_changes(data));
