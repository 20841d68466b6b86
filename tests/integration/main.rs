//! The promises of the gateway, checked from outside: the real binary, real sockets, a real data
//! directory.
//!
//! Each test starts its own gateway on free ports with its own directory, so all of them may run at
//! once. Nothing here looks inside the process: what a test knows, it read from a socket, from the
//! operations listener, from the standard streams or from the exit code.

mod accounting;
mod accounting_user;
mod accounting_verdict;
mod acknowledgement;
mod backend_process;
mod backup;
mod chat_page;
mod client_libraries;
mod cluster_accounting;
mod cluster_bad_input;
mod cluster_chat;
mod cluster_failover;
mod cluster_forged;
mod cluster_ids;
mod cluster_membership;
mod cluster_mpim;
mod cluster_mpim_faults;
mod cluster_rpc;
mod cluster_script;
mod cluster_tls;
mod command_line;
mod common;
mod doctor;
mod durability;
mod events;
mod http_api;
mod hung_backend;
mod issued_tokens;
mod limits;
mod listeners;
mod logging;
#[path = "../support/node.rs"]
mod node;
mod operations;
mod operations_tls;
mod pipelining;
mod protobuf_frames;
mod protobuf_hostile;
mod protocol_auth;
mod protocol_devices;
mod protocol_framing;
mod protocol_groups;
mod protocol_inbox;
mod protocol_info;
mod protocol_messages;
mod protocol_names;
mod protocol_space_dialect;
#[path = "../support/python.rs"]
mod python;
mod redis_outages;
#[path = "../support/redis.rs"]
mod redis_server;
mod redis_tls;
mod sessions;
mod shutdown;
mod slow_consumer;
mod tls;
mod tls_hostile;
mod tokens;
mod websocket;
mod websocket_frames;
#[path = "../support/zookeeper.rs"]
mod zookeeper_server;
