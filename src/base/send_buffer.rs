//! Bytes on their way into a socket.
//!
//! [`SendBuffer`] owns what has not left; [`SharedSendBuffer`] lies between whoever speaks and the
//! task that holds the socket, on one core. Pure: knows no socket.
//!
//! Invariants: bytes leave once and in order; what is kept for later is never more than what has
//! not left and `KEPT_BYTES`, or twice that.

use std::{
    cell::RefCell,
    error::Error,
    task::{Context, Waker},
};

/// Room that an empty buffer keeps; one that grew larger in a burst gives it back.
const KEPT_BYTES: usize = 256 * 1024;
/// Bytes that the socket has not taken, at most; beyond it whoever speaks is told that there is no
/// room.
const UNSENT_MAX_BYTES: usize = 4 * 1024 * 1024;

/// Bytes that are to leave over one connection.
#[derive(Debug, Default)]
pub struct SendBuffer {
    bytes: Vec<u8>,
    /// How many of them have left.
    sent: usize,
}

impl SendBuffer {
    /// What has not left.
    pub fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// How many bytes have not left.
    pub fn len(&self) -> usize {
        self.bytes.len() - self.sent
    }

    /// Whether everything has left.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Where to append.
    pub fn end(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    /// The first `count` bytes of [`unsent`](Self::unsent) have left.
    pub fn consume(&mut self, count: usize) {
        assert!(count <= self.len(), "only what is here can leave");
        self.sent += count;
        if self.is_empty() {
            self.sent = 0;
            self.bytes.clear();
            if self.bytes.capacity() > KEPT_BYTES {
                self.bytes = Vec::new();
            }
        } else if self.sent >= KEPT_BYTES && self.sent >= self.len() {
            // A peer that is always a little behind must not make it grow without end.
            self.bytes.drain(..self.sent);
            self.sent = 0;
        }
        debug_assert!(self.sent < KEPT_BYTES || self.sent < self.len());
    }
}

/// What is to be sent over one connection of a core: whoever speaks appends, and the task that
/// holds the socket sends, once for all that was said in a turn.
#[derive(Debug, Default)]
pub struct SharedSendBuffer {
    state: RefCell<State>,
}

#[derive(Debug, Default)]
struct State {
    buffer: SendBuffer,
    closed: bool,
    waker: Option<Waker>,
}

impl SharedSendBuffer {
    /// Has `write` append to what is to be sent; `false`: there is no room, and nothing was
    /// appended.
    pub fn append(&self, write: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut state = self.state.borrow_mut();
        if state.buffer.len() >= UNSENT_MAX_BYTES {
            return false;
        }
        let before = state.buffer.len();
        write(state.buffer.end());
        assert!(
            state.buffer.len() >= before,
            "what was appended before stays"
        );
        if let Some(waker) = state.waker.take() {
            drop(state);
            waker.wake();
        }
        true
    }

    /// The connection is to be closed, whatever has not left.
    pub fn close(&self) {
        let mut state = self.state.borrow_mut();
        state.closed = true;
        if let Some(waker) = state.waker.take() {
            drop(state);
            waker.wake();
        }
    }

    /// For the task that holds the socket: whether to close it. Has `context` woken when there is
    /// something new to send, or it is to be closed.
    pub fn is_closed(&self, context: &Context<'_>) -> bool {
        let mut state = self.state.borrow_mut();
        match &mut state.waker {
            Some(waker) => waker.clone_from(context.waker()),
            empty => *empty = Some(context.waker().clone()),
        }
        state.closed
    }

    /// Whether everything has left.
    pub fn is_empty(&self) -> bool {
        self.state.borrow().buffer.is_empty()
    }

    /// For the task that holds the socket: has `send` send what is to leave, or some of it, and say
    /// how much.
    ///
    /// # Errors
    /// Those of `send`.
    pub fn send<E>(&self, send: impl FnOnce(&[u8]) -> Result<usize, E>) -> Result<(), E> {
        let mut state = self.state.borrow_mut();
        let count = send(state.buffer.unsent())?;
        state.buffer.consume(count);
        Ok(())
    }
}

/// What a connection is for: takes the bytes that come over it.
pub trait ConnectionHandler {
    /// Where it leaves what it has to say.
    fn send_buffer(&self) -> &SharedSendBuffer;

    /// Takes bytes from the other side.
    ///
    /// # Errors
    /// What makes it impossible to go on: the connection is closed.
    fn received(&self, bytes: &[u8]) -> Result<(), Box<dyn Error>>;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_leave_once_and_in_order_and_room_that_was_grown_is_given_back() {
        let mut buffer = SendBuffer::default();
        buffer.end().extend_from_slice(b"one two");
        buffer.consume(4);
        assert_eq!(buffer.unsent(), b"two");
        buffer.end().resize(4 + 2 * KEPT_BYTES, 7);
        buffer.consume(2 * KEPT_BYTES);
        assert!(buffer.is_empty() && buffer.bytes.capacity() == 0);
    }

    #[test]
    fn a_peer_that_is_always_a_little_behind_costs_no_more_than_what_it_is_behind() {
        let mut buffer = SendBuffer::default();
        buffer.end().push(0);
        for _ in 0..100 {
            let len = buffer.bytes.len();
            buffer.end().resize(len + KEPT_BYTES, 0);
            buffer.consume(KEPT_BYTES);
            assert!(buffer.len() == 1 && buffer.bytes.len() <= 2 * KEPT_BYTES);
        }
    }

    #[test]
    #[should_panic(expected = "only what is here can leave")]
    fn what_is_not_here_cannot_leave() {
        SendBuffer::default().consume(1);
    }

    #[test]
    fn what_is_said_in_one_turn_is_sent_at_once_and_a_full_connection_says_so() {
        let shared = SharedSendBuffer::default();
        let context = Context::from_waker(Waker::noop());
        assert!(shared.append(|bytes| bytes.extend_from_slice(b"one ")));
        assert!(shared.append(|bytes| bytes.extend_from_slice(b"two")));
        let mut taken = Vec::new();
        let mut send = |most: usize| {
            shared.send(|bytes| {
                taken.extend_from_slice(&bytes[..most]);
                Ok::<_, ()>(most)
            })
        };
        assert_eq!((send(3), send(4)), (Ok(()), Ok(())));
        assert!(shared.is_empty() && taken == b"one two");
        assert!(shared.append(|bytes| bytes.resize(UNSENT_MAX_BYTES, 0)));
        assert!(!shared.append(|bytes| bytes.push(0)));
        assert!(!shared.is_closed(&context));
        shared.close();
        assert!(shared.is_closed(&context));
    }
}
