//! What the gateway and the services say to each other, whoever carries it.
//!
//! Owns the methods, the [`Backend`](backend::Backend) trait, the push bus and what travels over
//! it, and what services of another make are conceded. Does no I/O.

pub mod backend;
pub mod bus;
pub mod channels;
pub mod endpoints;
pub mod methods;
pub mod mpim;
pub mod push_mac;
pub mod push_payload;
