//! im-gateway: the front door of an instant-messaging system.
//!
//! Clients hold one TCP connection each and speak a protocol of lines. The gateway knows who is connected where; what is
//! worth keeping (accounts, groups, messages) it gives to services behind the [`Backend`](backend::Backend) trait, and what
//! it should push to its clients comes back over a [bus]. Those services are in the same process, or, in a cluster, in others
//! that are found through ZooKeeper, called over TCP, and heard of through Redis.
//!
//! # Layers
//!
//! From the outside in. [`app`] is the only place where an implementation is chosen.
//!
//! ```text
//!   main, cli          arguments, exit codes
//!   app                the composition root: starts every thread, waits for their end
//!   control            the control thread: signals, ops HTTP, systemd
//!   worker             the I/O rim of a core: sockets, the loop, taking connections in
//!   handoff            all that crosses threads to a core
//!   discovery          which backends there are, and who this gateway is to others: ZooKeeper
//!   service            User, Presence, Message and Group over one SQLite file, on threads of their own
//!   server             those services as a process of their own: calls come over TCP, pushes go out over Redis
//!   backend, bus       how a core asks a service, and how a push reaches a core
//!   session, shard     the rules: one client's session, and all sessions of one core
//!   protocol, limits   bytes to commands and replies to bytes; what one client may take
//!   config, token, …   settings, log-in tokens, ids, names, close reasons, metrics
//! ```
//!
//! [`protocol`], [`session`], [`shard`], [`limits`], [`token`], [`id`], [`close`], [`backend::remote`], [`bus::redis`] and others
//! are pure: bytes, events and the time come in, values go out. They name no socket, clock, random source, thread or runtime;
//! `tests/layout.rs` has the list and holds them to it.
//!
//! # Life of a request
//!
//! To follow `chat:42:hello` from the socket to its reply, open these in order:
//!
//! 1. [`worker::poller`]: the core's epoll set says that the socket has something to read.
//! 2. [`worker`] (`run.rs`): the loop reads into the core's one buffer and feeds the bytes to the shard.
//! 3. [`shard::input`]: bytes become lines ([`protocol::line`]), lines become a [`Command`](protocol::command::Command); rate,
//!    state and arguments are checked, in this order. A command that needs no service is answered on the spot.
//! 4. [`session::job`]: what needs a service leaves as a [`Job`](session::job::Job). Until it is done, no further line of
//!    this connection is looked at.
//! 5. [`session::commands`]: the flow of the command, an `async fn` that reads from top to bottom, calls the services.
//! 6. [`backend::embedded`] queues the call; [`service`] gathers what has piled up into one transaction and commits it,
//!    then publishes the pushes, then hands back the replies through [`handoff::inbox`].
//! 7. [`shard::input`] again: [`Shard::complete`](shard::Shard::complete) writes the [`Reply`](protocol::reply::Reply) to the
//!    connection's [`session::outbox`] and goes on with the next line.
//! 8. [`worker`]: at the end of the turn each connection with something to say is written to once.
//!
//! # Life of a push
//!
//! 1. [`service`] stores the message with the next number of its receiver's inbox (or of its group), commits, and
//!    publishes a `PushMessage` on the [bus], to the route of every core where the receiver is connected, or to the group.
//! 2. [`bus::local`] puts it into those cores' [`handoff::inbox`]es; all share one copy. A full inbox drops it and remembers
//!    that there is a gap.
//! 3. [`shard::push`]: the [`Sequencer`](shard::sequencer::Sequencer) of the inbox or group lets numbers out in order. A
//!    number that is missing is fetched from the store first ([`session::effects`]). The line is encoded once per core.
//! 4. [`shard::delivery`]: the line is queued to every session it is for. When the peer's TCP has
//!    acknowledged the last byte of it ([`shard::acknowledgement`]), a session with `ack=auto` has
//!    confirmed it; confirmations go to the store in batches.
//!
//! # In a cluster
//!
//! Steps 6 of the request and 1 to 2 of the push are others there:
//!
//! 1. [`backend::remote`]: a server is chosen, the call is written in the bytes of [`backend::mprpc`], and sent with all
//!    others of the turn by [`worker::upstream`].
//! 2. [`server`]: the other process reads it, its [`service`] carries it out and commits, the push is published to Redis on
//!    the channel of the receiver's core, and the reply comes back under the call's number ([`backend::calls`]).
//! 3. [`worker::bus_link`], [`bus::redis`], [`bus::payload`]: the core hears of the push, and the shard goes on as above.
//!
//! `docs/architecture.md` tells which thread owns what, every limit, and the reasons behind the decisions.

pub mod app;
pub mod backend;
pub mod backup;
pub mod bus;
pub mod cli;
pub mod close;
pub mod config;
pub mod control;
pub mod data_dir;
pub mod discovery;
pub mod doctor;
pub mod error;
pub mod handoff;
pub mod id;
pub mod limits;
pub mod logging;
pub mod metrics;
pub mod names;
pub mod outage;
pub mod preflight;
pub mod protocol;
pub mod secret_file;
pub mod server;
pub mod service;
pub mod session;
pub mod shard;
pub mod token;
pub mod unix_time;
pub mod upstream;
pub mod user_journal;
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
