//! One connection to a server: how far it is, and what is out over it.
//!
//! Owns the states and their transitions. Knows no socket.

use std::cell::{Cell, RefCell};

use crate::{
    base::send_buffer::SharedSendBuffer,
    rpc::wire::{Caller, OutgoingCall},
};

/// How far a connection is.
///
/// ```text
///   Connecting ──┬──▶ Open ──┬──▶ Closing ──▶ Lost
///   Retrying ────┘           └───────────────▶
/// ```
///
/// What is being opened may be closed or lost as well.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It is being opened, and nothing says that it will fail: calls may wait for it.
    Connecting,
    /// It is being opened after that failed.
    Retrying,
    /// Calls may go over it.
    Open,
    /// This side closes it.
    Closing,
    /// It is gone, or could not be opened.
    Lost,
}

/// One connection to a server.
#[derive(Debug)]
pub struct Connection {
    /// Names it among all connections of the core.
    pub(super) id: u64,
    pub(super) state: Cell<State>,
    /// It has carried a reply.
    pub(super) useful: Cell<bool>,
    /// When the ping that is out over it was sent.
    pub(super) pinged_ms: Cell<Option<u64>>,
    /// Turns calls into bytes and bytes into replies.
    pub(super) wire: RefCell<Caller>,
    /// What is said over it.
    pub send_buffer: SharedSendBuffer,
}

impl Connection {
    /// One that is being opened. `connecting`: nothing says that it will fail.
    pub(super) fn new(id: u64, wire: Caller, connecting: bool) -> Self {
        Self {
            id,
            state: Cell::new(match connecting {
                true => State::Connecting,
                false => State::Retrying,
            }),
            useful: Cell::new(false),
            pinged_ms: Cell::default(),
            wire: RefCell::new(wire),
            send_buffer: SharedSendBuffer::default(),
        }
    }

    /// Whether it has carried a reply.
    pub fn was_useful(&self) -> bool {
        self.useful.get()
    }

    /// Whether a call of the classic wire is out over it.
    #[cfg(test)]
    pub fn is_busy(&self) -> bool {
        !self.has_room()
    }

    /// Whether calls may go over it.
    pub fn is_open(&self) -> bool {
        self.state.get() == State::Open
    }

    /// Whether a further call may go over it now.
    pub(super) fn has_room(&self) -> bool {
        self.is_open() && self.wire.borrow().has_room()
    }

    /// Sends `call`; `false`: the send buffer is full, and nothing was sent.
    pub(super) fn call(&self, call: &OutgoingCall<'_>) -> bool {
        assert!(
            self.has_room(),
            "a call over a connection that cannot take it"
        );
        self.send_buffer
            .append(|bytes| self.wire.borrow_mut().call(call, bytes))
    }

    /// Nobody waits for call `number` any more.
    pub(super) fn give_up(&self, number: u64) {
        let can_go_on = self.wire.borrow().give_up(number);
        if !can_go_on {
            self.close();
        }
    }

    /// Whether it was this side that ended it.
    pub(super) fn was_closed(&self) -> bool {
        self.state.get() == State::Closing
    }

    pub(super) fn close(&self) {
        if !matches!(self.state.get(), State::Closing | State::Lost) {
            self.enter(State::Closing);
            self.send_buffer.close();
        }
    }

    /// Goes over to `to`, which the drawing of the states must show.
    pub(super) fn enter(&self, to: State) {
        let from = self.state.get();
        let is_drawn = match to {
            State::Connecting | State::Retrying => false,
            State::Open => matches!(from, State::Connecting | State::Retrying),
            State::Closing => matches!(from, State::Connecting | State::Retrying | State::Open),
            State::Lost => from != State::Lost,
        };
        assert!(is_drawn, "a connection goes from {from:?} to {to:?}");
        self.state.set(to);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::endpoints::Wire;

    fn connection(connecting: bool) -> Connection {
        Connection::new(1, Caller::new(Wire::Classic, 100), connecting)
    }

    #[test]
    fn what_was_closed_while_it_was_being_opened_is_lost_and_never_open() {
        let connection = connection(true);
        connection.close();
        connection.close();
        assert!(connection.was_closed());
        connection.enter(State::Lost);
        connection.close();
        assert!(!connection.was_closed() && !connection.is_open());
    }

    #[test]
    #[should_panic(expected = "a connection goes from Closing to Open")]
    fn what_is_closed_does_not_open() {
        let connection = connection(false);
        connection.close();
        connection.enter(State::Open);
    }
}
