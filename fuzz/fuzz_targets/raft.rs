//! See `skein_fuzz::raft`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| skein_fuzz::raft(data));
