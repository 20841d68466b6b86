//! A connection that a core opens to a server (a backend, Redis): what its two ends agree on.
//!
//! Owns the bytes on their way out. Pure: whoever speaks appends, and the task that holds the socket takes, once for all that
//! was said in a turn. Knows no socket.

use std::{
    cell::RefCell,
    error::Error,
    task::{Context, Waker},
};

/// Bytes that the socket has not taken, at most; beyond it whoever speaks is told that there is no room.
const UNSENT_MAX_BYTES: usize = 4 * 1024 * 1024;

/// What is to be said over one connection.
#[derive(Debug, Default)]
pub struct SendBuffer {
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    closed: bool,
    waker: Option<Waker>,
}

impl SendBuffer {
    /// Has `write` append to what is to be said; `false`: there is no room, and nothing was appended.
    pub fn append(&self, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut state = self.state.borrow_mut();
        if state.bytes.len() >= UNSENT_MAX_BYTES {
            return false;
        }
        write(&mut state.bytes);
        if let Some(waker) = state.waker.take() {
            drop(state);
            waker.wake();
        }
        true
    }

    /// The connection is to be closed, whatever is unsaid.
    pub fn close(&self) {
        let mut state = self.state.borrow_mut();
        state.closed = true;
        if let Some(waker) = state.waker.take() {
            drop(state);
            waker.wake();
        }
    }

    /// For the task that holds the socket: whether to close it. Has `context` woken when there is something new to say, or
    /// it is to be closed.
    pub fn is_closed(&self, context: &Context<'_>) -> bool {
        let mut state = self.state.borrow_mut();
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            empty => *empty = Some(context.waker().clone()),
        }
        state.closed
    }

    /// For the task that holds the socket: swaps what is to be said into the empty `into`.
    pub fn take(&self, into: &mut Vec<u8>) {
        debug_assert!(into.is_empty());
        std::mem::swap(&mut self.state.borrow_mut().bytes, into);
    }
}

/// What a connection is for: takes the bytes that come over it.
pub trait ConnectionHandler {
    /// Where it leaves what it has to say.
    fn send_buffer(&self) -> &SendBuffer;

    /// Takes bytes from the other side.
    ///
    /// # Errors
    /// What makes it impossible to go on: the connection is closed.
    fn received(&self, bytes: &[u8]) -> Result<(), Box<dyn Error>>;
}

/// How long to wait before connecting again: longer each time, and never quite as long as anybody else.
#[derive(Debug)]
pub struct BackOff {
    first_ms: u64,
    longest_ms: u64,
    next_ms: u64,
    random: u64,
}

impl BackOff {
    /// Waits of about `first_ms`, doubling up to `longest_ms`; `seed` should differ from one connection to another.
    pub fn new(first_ms: u64, longest_ms: u64, seed: u64) -> Self {
        Self {
            first_ms,
            longest_ms,
            next_ms: first_ms,
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
        }
    }

    /// The next wait: between half of it and all of it.
    pub fn next_ms(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let full = self.next_ms;
        self.next_ms = (full * 2).min(self.longest_ms);
        full / 2 + self.random % (full / 2 + 1)
    }

    /// It worked: the next wait is a short one again.
    pub fn reset(&mut self) {
        self.next_ms = self.first_ms;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_in_one_turn_is_taken_at_once_and_a_full_connection_says_so() {
        let send_buffer = SendBuffer::default();
        let context = Context::from_waker(Waker::noop());
        assert!(send_buffer.append(|bytes| bytes.extend_from_slice(b"one ")));
        assert!(send_buffer.append(|bytes| bytes.extend_from_slice(b"two")));
        let mut taken = Vec::new();
        send_buffer.take(&mut taken);
        assert_eq!(taken, b"one two");
        assert!(send_buffer.append(|bytes| bytes.resize(UNSENT_MAX_BYTES, 0)));
        assert!(!send_buffer.append(|bytes| bytes.push(0)));
        assert!(!send_buffer.is_closed(&context));
        send_buffer.close();
        assert!(send_buffer.is_closed(&context));
    }

    #[test]
    fn waits_grow_to_the_longest_and_start_again() {
        let mut back_off = BackOff::new(50, 1000, 7);
        let waits: Vec<u64> = (0..7).map(|_| back_off.next_ms()).collect();
        for (wait, full) in waits.iter().zip([50, 100, 200, 400, 800, 1000, 1000]) {
            assert!((full / 2..=full).contains(wait), "{waits:?}");
        }
        back_off.reset();
        assert!((25..=50).contains(&back_off.next_ms()));
        let mut back_off = BackOff::new(50, 2000, 8);
        for _ in 0..40 {
            back_off.next_ms();
        }
        assert!((1000..=2000).contains(&back_off.next_ms()));
    }
}
