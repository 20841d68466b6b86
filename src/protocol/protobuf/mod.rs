//! The protobuf form: requests, replies and pushes in envelopes, one to a binary frame, as MyChat's
//! clients speak it.
//!
//! Owns the envelope, and which message stands for which command. The rules for single arguments
//! are those of lines (`protocol/rules.rs`).

mod envelope;
mod messages;
pub(super) mod push;
pub(super) mod reply;
pub mod request;

/// The version of the envelope, as it is said in every header.
const VERSION: &str = "1.0";

#[cfg(test)]
pub(crate) mod tests;
