//! What a client says and hears: bytes to requests, requests to [`command::Command`]s,
//! [`reply::Reply`]s and [`push::Push`]es back to bytes, as lines, JSON or protobuf envelopes.
//!
//! Owns the whole grammar of all forms and nothing else. It never decides whether a command may be
//! carried out, and knows no socket, clock or session.
//!
//! Invariants:
//! - Any split of a byte stream into buffers gives the same lines ([`mod@line`]).
//! - No input panics; a bad line is a value ([`request::BadRequest`]), never the end of the stream.
//! - Whatever text a reply or push carries, it is written as exactly one line, whose fields are the
//!   ones given ([`escape`]).
//!
//! A line's way: [`line::split_line`], [`command::parse_line`], (the session's state),
//! [`command::parse_arguments`].

pub mod codec;
pub mod command;
pub mod error_code;
pub mod escape;
pub mod http;
pub mod json;
pub mod line;
pub mod protobuf;
pub mod push;
pub mod reply;
pub mod request;
pub mod websocket;

mod arguments;
mod rules;
mod tag;
mod verb;
