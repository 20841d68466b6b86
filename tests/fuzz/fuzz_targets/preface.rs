//! Whatever a connection begins with, split anyhow, is the same.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| im_gateway_fuzz::preface(data));
