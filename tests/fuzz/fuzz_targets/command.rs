//! Any line is a command or an error, within its bounds.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| im_gateway_fuzz::command(data));
