//! See `skein_fuzz::log`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| skein_fuzz::log(data));
