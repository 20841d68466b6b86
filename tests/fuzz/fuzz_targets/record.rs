//! Any data of a node is an instance or an error.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| im_gateway_fuzz::record(data));
