//! See `skein_fuzz::greeting`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| skein_fuzz::greeting(data));
