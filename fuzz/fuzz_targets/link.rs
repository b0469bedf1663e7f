//! See `skein_fuzz::link`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| skein_fuzz::link(data));
