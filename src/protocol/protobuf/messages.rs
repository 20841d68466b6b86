//! The messages of protobuf clients, generated from `proto/mychat/*.proto`.
#![allow(
    missing_docs,
    clippy::all,
    reason = "generated; the comments stand in the .proto files"
)]
#![allow(
    dead_code,
    reason = "a client says and hears more than a gateway reads and writes"
)]

pub(super) mod base {
    include!(concat!(env!("OUT_DIR"), "/im.base.rs"));
}
pub(super) mod user {
    include!(concat!(env!("OUT_DIR"), "/im.user.rs"));
}
pub(super) mod message {
    include!(concat!(env!("OUT_DIR"), "/im.message.rs"));
}
pub(super) mod friend {
    include!(concat!(env!("OUT_DIR"), "/im.friend.rs"));
}
pub(super) mod group {
    include!(concat!(env!("OUT_DIR"), "/im.group.rs"));
}
pub(super) mod push {
    include!(concat!(env!("OUT_DIR"), "/im.push.rs"));
}
