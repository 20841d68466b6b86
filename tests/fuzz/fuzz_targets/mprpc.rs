//! Any stream of calls or replies, cut anyhow, is the same frames.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| im_gateway_fuzz::mprpc(data));
