//! Compiles the backend contract and the messages of protobuf clients in `proto/` with a pure-Rust
//! compiler, so that no `protoc` has to be installed.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let contract = [
        "proto/im/v1/common.proto",
        "proto/im/v1/user.proto",
        "proto/im/v1/presence.proto",
        "proto/im/v1/message.proto",
        "proto/im/v1/group.proto",
        "proto/im/v1/push.proto",
        "proto/im/v1/health.proto",
        "proto/im/v1/rpc.proto",
    ];
    let of_clients = [
        "proto/mychat/base.proto",
        "proto/mychat/user.proto",
        "proto/mychat/message.proto",
        "proto/mychat/friend.proto",
        "proto/mychat/group.proto",
        "proto/mychat/push.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    prost_build::Config::new().compile_fds(protox::compile(contract, ["proto"])?)?;
    // Their names travel: each frame says of which type it is.
    prost_build::Config::new()
        .enable_type_names()
        .compile_fds(protox::compile(of_clients, ["proto"])?)?;
    Ok(())
}
