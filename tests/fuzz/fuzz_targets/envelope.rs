//! Any bytes are an envelope with a command in it, or an error.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| im_gateway_fuzz::envelope(data));
