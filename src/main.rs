//! The `im-gateway` binary: parse, run, map errors to exit codes.

fn main() {}
