//! The I/O rim of a core: one glommio executor that owns its listener, its sockets and its share of
//! the sessions.
//!
//! - `run` the core's loop, and taking connections in: what is ready, what was handed over, what is
//!   due → the shard → the sockets
//! - [`listener`], [`poller`] where connections and readiness come from; what other
//!   threads hand over comes by [`handoff`](crate::handoff)
//! - [`preface`] what comes before a connection's first request; `transport` how its bytes travel
//! - [`Runtime`] what its tasks run on: `tasks`, `timers`, and the sockets the core opens itself
//! - `outbound`, [`backend_link`], [`bus_link`] the sockets the core opens itself
//!
//! Nothing here decides anything about a client: that is the shard's.

pub mod backend_link;
pub mod bus_link;
mod client;
mod cross_waker;
pub mod listener;
mod outbound;
pub mod poller;
pub mod preface;
mod refused;
mod run;
mod runtime;
mod tasks;
mod timers;
mod transport;

pub use self::{
    run::{HandshakeLimits, Worker, WorkerParts},
    runtime::Runtime,
};
