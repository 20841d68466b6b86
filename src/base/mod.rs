//! Words that everyone uses: ids, names, close reasons, errors, secrets.
//!
//! The lowest layer: nothing here knows any other module.

pub mod accept_pause;
pub mod back_off;
pub mod close;
pub mod error;
pub mod id;
pub mod mutation;
pub mod names;
pub mod pending_calls;
pub mod random;
pub mod receive_buffer;
pub mod repeat;
pub mod secret;
pub mod send_buffer;
pub mod time;
