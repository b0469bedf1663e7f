//! See `skein_fuzz::numbers`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| skein_fuzz::numbers(data));
