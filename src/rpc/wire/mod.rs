//! The bytes in which a call and its reply travel.

pub mod mprpc;
