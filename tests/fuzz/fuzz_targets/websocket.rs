//! Any stream of frames, split anyhow, is the same messages.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| im_gateway_fuzz::websocket(data));
