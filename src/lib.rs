//! im-gateway: the front door of an instant-messaging system.
//!
//! Clients hold one TCP connection each and speak a protocol of lines. The gateway knows who is
//! connected where. What is worth keeping (accounts, groups, messages) it gives to services behind
//! the [`Backend`](contract::backend::Backend) trait, and what it should push to its clients comes
//! back over a [bus]. Those services are in the same process, or, in a cluster, in others that are
//! found through ZooKeeper, called over TCP, and heard of through Redis.
//!
//! # Layers
//!
//! From the outside in. A module uses what stands in its row or below, never what stands above, and
//! no two of them use each other: `tests/layout/layers.rs` has the list that a test holds them to.
//! [`app`] is the only place where an implementation is chosen.
//!
//! ```text
//!   main              runs the process, turns errors into exit codes
//!   cli               arguments
//!   app               starts every thread and waits for their end; what `doctor` asks
//!   control           the control thread: signals, ops HTTP, systemd
//!   worker            the I/O rim of a core: sockets, the loop, taking connections in
//!   rpc, discovery    calls between processes; who is where
//!   bus               pushes between processes and inside one
//!   service           User, Presence, Message and Group over one SQLite file
//!   flow              what takes time: flows that call services for the sessions of one core
//!   shard             all sessions of one core: users, groups, order of pushes, deadlines
//!   session           one client's session
//!   metrics           what is counted
//!   tls               what is shown to others by TLS, and asked of them
//!   handoff, config   all that crosses threads to a core; what is configured
//!   protocol, limits  bytes to commands and replies to bytes; what one client may take
//!   contract, token   what gateway and services say to each other; login tokens
//!   machine           what the machine offers and keeps
//!   proto, logging    the messages of the contract; the program's own log
//!   base              words that everyone uses
//! ```
//!
//! `docs/architecture.md` tells the way of a message, of a push and of a login, which thread owns
//! what, every limit, and the reasons behind the decisions.

pub mod app;
pub mod base;
pub mod bus;
pub mod cli;
pub mod config;
pub mod contract;
pub mod control;
pub mod discovery;
pub mod flow;
pub mod handoff;
pub mod limits;
pub mod logging;
pub mod machine;
pub mod metrics;
pub mod protocol;
pub mod rpc;
pub mod service;
pub mod session;
pub mod shard;
pub mod tls;
pub mod token;
pub mod worker;

/// The messages of the backend contract, generated from `proto/im/v1/*.proto`.
#[allow(
    missing_docs,
    clippy::all,
    reason = "generated; the comments stand in the .proto files"
)]
pub mod proto {
    include!(concat!(env!("OUT_DIR"), "/im.v1.rs"));
}
