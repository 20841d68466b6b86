//! The push bus over Redis: both ends of it, and how they find and are let into a server.

pub mod credentials;
pub mod publisher;
mod resp;
pub mod subscriber;
pub mod target;
