//! See `skein_fuzz::rows`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| skein_fuzz::rows(data));
