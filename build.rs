//! Compiles the backend contract in `proto/` with a pure-Rust compiler, so that no `protoc` has to
//! be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/im/v1/common.proto",
        "proto/im/v1/user.proto",
        "proto/im/v1/presence.proto",
        "proto/im/v1/message.proto",
        "proto/im/v1/group.proto",
        "proto/im/v1/push.proto",
        "proto/im/v1/health.proto",
        "proto/im/v1/rpc.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    prost_build::Config::new().compile_fds(descriptors)?;
    Ok(())
}
