//! The push bus over Redis: both ends of it, and how they find and are let into a server.

mod connection;
pub mod credentials;
pub mod ping;
pub mod publisher;
mod resp;
pub mod subscriber;
pub mod target;
