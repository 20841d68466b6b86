//! Any stream, split anyhow, gives the same lines.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| im_gateway_fuzz::line(data));
