//! Any bytes from Redis, cut anyhow, bring the same events.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| im_gateway_fuzz::bus(data));
