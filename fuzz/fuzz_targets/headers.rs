//! See `skein_fuzz::headers`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| skein_fuzz::headers(data));
