//! The I/O rim of a core: one glommio executor that owns its listener, its sockets and its share of the sessions.
//!
//! - `run` the core's loop: what is ready, what was handed over, what is due → the shard → the sockets
//! - [`listener`], [`poller`], [`inbox`], [`event`] where connections, readiness and other threads' news come from
//! - [`sys`] the one unsafe module
//!
//! Nothing here decides anything about a client: that is the shard's.

mod client;
pub mod event;
pub mod inbox;
pub mod listener;
pub mod poller;
mod refused;
mod run;
pub mod sys;

pub use run::{Worker, WorkerParts};
