//! The rules that a shard applies.

use crate::{
    limits::Rate,
    protocol::{command::Judge, http::upgrade::WebRules},
};

/// The rules a shard applies; each is a key of the configuration.
#[derive(Clone, Debug)]
pub struct ShardOptions {
    /// The longest line, terminator included, in bytes.
    pub max_line_bytes: usize,
    /// The same before the login.
    pub login_line_bytes: usize,
    /// Sends of one connection that may travel together.
    pub pipeline_limit: usize,
    /// Bad lines until the connection is closed.
    pub protocol_error_limit: u32,
    /// Time to log in.
    pub login_timeout_ms: u64,
    /// Time without a sign of life.
    pub connection_timeout_ms: u64,
    /// Time for the peer to acknowledge something of what it was sent; `None`: the kernel alone
    /// gives it up.
    pub acknowledgement_timeout_ms: Option<u64>,
    /// Unsent bytes of a connection.
    pub outbound_queue_bytes: usize,
    /// Unconfirmed messages of a connection with `ack=manual`.
    pub unconfirmed_limit: usize,
    /// Commands per second of a connection.
    pub command_rate: Rate,
    /// Time over the rate until the connection is closed.
    pub throttle_timeout_ms: u64,
    /// Whether a new connection is greeted.
    pub banner: bool,
    /// Who may begin a WebSocket.
    pub web: WebRules,
    /// The time between two pings of a WebSocket whose client says nothing.
    pub ping_interval_ms: u64,
    /// The time without a frame after which a WebSocket is closed.
    pub ping_timeout_ms: u64,
    /// Who says which names and passwords are good.
    pub judge: Judge,
}
