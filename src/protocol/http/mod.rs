//! HTTP/1.1 as far as a gateway needs it: the head of a request, the WebSocket handshake, and the
//! chat page.
//!
//! Owns what a request may look like, more strictly than the standard: whatever two programs might
//! read in two ways is refused.

pub mod asset;
pub mod head;
pub mod response;
pub mod upgrade;
