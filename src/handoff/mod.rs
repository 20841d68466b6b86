//! All that crosses threads to a core: what it is ([`event`]) and how it gets there ([`inbox`]).
//!
//! A core never waits for another thread. It is handed things in order, and woken once for all that
//! came since it looked.

pub mod event;
pub mod inbox;
