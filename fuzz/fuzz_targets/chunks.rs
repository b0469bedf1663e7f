//! See `skein_fuzz::chunks`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| skein_fuzz::chunks(data));
