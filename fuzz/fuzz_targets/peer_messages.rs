//! See `skein_fuzz::peer_messages`.
#![no_main]
libfuzzer_sys::fuzz_target!(|data: &[u8]| skein_fuzz::peer_messages(data));
