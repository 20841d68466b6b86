//! What peers have acknowledged: which connections are to be asked about it and when, and what the
//! answer means.
//!
//! The kernel says on request how much of what it took the peer's TCP has not acknowledged; it does
//! not tell by itself. So a connection that was sent pushes is asked with the next gathering of
//! confirmations. One that has not acknowledged them by then is asked again after a tick, and after
//! twice as long each time: a peer that is slow, or gone, costs little. One that was sent nothing
//! is never asked.
//!
//! Invariant: a connection waits to be asked in one place, the next gathering or the wheel, if it
//! is in any.

use super::{Shard, TICK_MS, delivery::confirm, wheel::Wheel};
use crate::base::id::ConnectionKey;

/// The longest pause between two questions is so many doublings of a tick: 3.2 s.
const DOUBLINGS: u32 = 5;
/// Holds the longest pause.
const WHEEL_SLOTS: usize = 64;

/// The connections to be asked.
#[derive(Debug)]
pub(super) struct Questions {
    /// With the next gathering.
    next: Vec<ConnectionKey>,
    /// At once, beside that.
    now: Vec<ConnectionKey>,
    /// When their pause is over.
    later: Wheel,
}

impl Default for Questions {
    fn default() -> Self {
        Self {
            next: Vec::new(),
            now: Vec::new(),
            later: Wheel::new(TICK_MS, WHEEL_SLOTS),
        }
    }
}

impl Questions {
    /// Whether some wait to be asked at once.
    pub(super) fn are_pressing(&self) -> bool {
        !self.now.is_empty()
    }

    /// Those that wait to be asked with a gathering.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn waiting(&self) -> impl Iterator<Item = &ConnectionKey> {
        self.next.iter().chain(self.later.keys())
    }
}

impl Shard {
    /// The connection was sent something: has it asked with the next gathering, if that completed a
    /// push.
    pub(super) fn ask_after_sending(&mut self, key: ConnectionKey) {
        if let Some(connection) = self.connection_mut(key)
            && connection.outbox.awaits()
            && !std::mem::replace(&mut connection.to_be_asked, true)
        {
            self.questions.next.push(key);
        }
    }

    /// Has the connection asked this very turn, where there is something to ask about.
    pub fn ask_now(&mut self, key: ConnectionKey) {
        if self.awaits(key) {
            self.questions.now.push(key);
        }
    }

    /// Whether the connection was sent pushes that its peer is not known to have.
    pub fn awaits(&self, key: ConnectionKey) -> bool {
        self.connection(key)
            .is_some_and(|connection| connection.outbox.awaits())
    }

    /// Moves the connections that are to be asked into `into`: those that cannot wait and, where
    /// confirmations are being
    /// `gathered`, those whose turn it is.
    pub fn take_questions(&mut self, gathered: bool, into: &mut Vec<ConnectionKey>) {
        into.append(&mut self.questions.now);
        if gathered {
            for key in &self.questions.next {
                if let Some(connection) = self.connections.get_mut(key.slot as usize)
                    && connection.generation == key.generation
                {
                    connection.to_be_asked = false;
                }
            }
            into.append(&mut self.questions.next);
        }
    }

    /// The peer has acknowledged all that the kernel took but the last `outstanding` bytes:
    /// confirms what that completes, and takes it for a sign of life. Nothing for longer than the
    /// time for it, and the connection is given up.
    pub fn acknowledged(&mut self, key: ConnectionKey, outstanding: u64) {
        let now_ms = self.now_ms();
        let Some(connection) = self
            .connections
            .get_mut(key.slot as usize)
            .filter(|connection| connection.generation == key.generation)
        else {
            return;
        };
        let acks = &mut self.acks;
        let progress =
            connection
                .outbox
                .acknowledge(outstanding, now_ms, &mut self.pool, |delivery| {
                    confirm(acks, delivery);
                });
        if progress.of_pushes {
            connection.session.alive(now_ms);
        }
        let Some((silent_since_ms, asked_in_vain)) = progress.waits else {
            return;
        };
        let patience_ms = self.options.acknowledgement_timeout_ms;
        if patience_ms.is_some_and(|patience_ms| now_ms >= silent_since_ms + patience_ms) {
            self.expired.push(key);
        } else if !std::mem::replace(&mut connection.to_be_asked, true) {
            let pause_ms = TICK_MS << asked_in_vain.saturating_sub(1).min(DOUBLINGS);
            self.questions.later.schedule(key, now_ms + pause_ms);
        }
    }

    /// Time has passed: those whose pause is over are asked with the next gathering.
    pub(super) fn ask_again(&mut self) {
        let (connections, next) = (&self.connections, &mut self.questions.next);
        self.questions
            .later
            .advance(self.now.monotonic_us / 1000, |key| {
                let connection = connections.get(key.slot as usize);
                if connection.is_some_and(|connection| connection.generation == key.generation) {
                    next.push(key);
                }
                None
            });
    }

    /// Whether a flow waits for what its client has acknowledged.
    pub fn has_pressing_questions(&self) -> bool {
        self.questions.are_pressing()
    }

    /// Whether the next gathering has something to do: connections to ask, or confirmations to hand
    /// out.
    pub fn has_to_gather(&self) -> bool {
        !self.questions.next.is_empty() || self.has_acks()
    }
}
