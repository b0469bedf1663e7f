//! See `skein_fuzz::schema`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| skein_fuzz::schema(data));
