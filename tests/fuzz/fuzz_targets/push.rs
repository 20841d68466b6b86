//! Any text is written as one line that reads as what was written.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| im_gateway_fuzz::push(data));
