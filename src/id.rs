//! The names of things: users, groups, messages, sessions, connections, routes.
//!
//! Owns the newtypes and the snowflake generator. Never knows a clock: `now_ms` is handed in.

use std::fmt;

/// A user's number: positive, given by the User Service.
pub type UserId = i64;
/// A group's number: positive, given by the Group Service.
pub type GroupId = i64;
/// A message's number: a snowflake ([`MessageIds`]) unless the Message Service answers its own.
pub type MessageId = i64;
/// A session's number: a snowflake too; unique over all gateways of a system.
pub type SessionId = u64;

/// Names one connection for as long as it lives: a slot of its core's slab and the slot's generation.
///
/// A late reply, timer or close that carries the key of an earlier tenant of the slot finds nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionKey {
    /// Index into the core's slab.
    pub slot: u32,
    /// Incremented each time the slot is given to a new connection.
    pub generation: u32,
}

/// Where pushes for a user go: one core of one gateway, written `<gateway_id>#<core>`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RouteId(String);

impl RouteId {
    /// The route of core number `core` of the gateway named `gateway_id`.
    pub fn new(gateway_id: &str, core: usize) -> Self {
        Self(format!("{gateway_id}#{core}"))
    }

    /// The route as it travels: `<gateway_id>#<core>`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RouteId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
