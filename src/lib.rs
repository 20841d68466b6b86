//! im-gateway: the front door of an instant-messaging system.
#![doc = "(map to be completed)"]

pub mod app;
pub mod backend;
pub mod bus;
pub mod cli;
pub mod close;
pub mod config;
pub mod control;
pub mod doctor;
pub mod error;
pub mod id;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod preflight;
pub mod protocol;
pub mod secret_file;
pub mod service;
pub mod session;
pub mod shard;
pub mod token;
pub mod worker;

/// The messages of the backend contract, generated from `proto/im/v1/*.proto`.
#[allow(missing_docs, clippy::all)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/im.v1.rs"));
}
