//! See `skein_fuzz::flock_memory`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| skein_fuzz::flock_memory(data));
