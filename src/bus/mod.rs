//! The push bus at work: inside one process (`local`), and between processes (`redis`).

pub mod local;
pub mod redis;
