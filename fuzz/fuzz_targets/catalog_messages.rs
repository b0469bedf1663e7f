//! See `skein_fuzz::catalog_messages`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| skein_fuzz::catalog_messages(data));
