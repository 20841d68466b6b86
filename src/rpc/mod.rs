//! Calls between processes: the bytes, the calling end and the answering end.

pub mod client;
pub mod server;
pub mod wire;
