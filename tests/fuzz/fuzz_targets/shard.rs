//! Whatever happens on a core, its invariants hold after each step.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| im_gateway_fuzz::shard(data));
