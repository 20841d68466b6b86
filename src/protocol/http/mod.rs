//! HTTP/1.1 as far as a gateway needs it: requests and answers, the commands of the
//! API, the WebSocket handshake, and the chat page.
//!
//! Owns what a request may look like, more strictly than the standard: whatever two programs might
//! read in two ways is refused.

pub mod api;
pub mod asset;
pub mod events;
pub mod head;
pub mod response;
pub mod upgrade;
