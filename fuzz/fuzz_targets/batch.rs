//! See `skein_fuzz::batch`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| skein_fuzz::batch(data));
