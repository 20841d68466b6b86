//! Any head of a request, split anyhow, is the same; handshakes give nothing of it back.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| im_gateway_fuzz::head(data));
