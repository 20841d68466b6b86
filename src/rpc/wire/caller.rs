//! The calling end of a connection.

use super::{
    OutgoingCall, ReceivedReply,
    mprpc::{ClassicCaller, FramingError, WithIdsCaller},
};
use crate::contract::endpoints::Wire;

/// Why a connection cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Its bytes are no frames.
    #[error("its bytes cannot be understood: {0}")]
    Framing(#[from] FramingError),
    /// A reply that nobody asked for: whose the next one would be is unknown.
    #[error("the server answered what it was not asked")]
    Unasked,
}

/// See the module's description. One for each connection, from its opening on.
#[derive(Debug)]
pub(in crate::rpc) enum Caller {
    /// mprpc without ids: one call at a time.
    Classic(ClassicCaller),
    /// mprpc with ids.
    WithIds(WithIdsCaller),
}

impl Caller {
    /// For a connection to who speaks `wire`, on which nothing was said yet; replies are no longer
    /// than `max_reply_bytes`.
    pub(in crate::rpc) fn new(wire: Wire, max_reply_bytes: usize) -> Self {
        match wire {
            Wire::Classic => Self::Classic(ClassicCaller::new(max_reply_bytes)),
            Wire::WithIds => Self::WithIds(WithIdsCaller::new(max_reply_bytes)),
        }
    }

    /// Whether a further call may go over the connection beside those that are out.
    pub(in crate::rpc) fn has_room(&self) -> bool {
        match self {
            Self::Classic(caller) => caller.is_idle(),
            Self::WithIds(_) => true,
        }
    }

    /// Appends `call`, for which there must be room; its reply is expected from now on.
    pub(in crate::rpc) fn call(&mut self, call: &OutgoingCall<'_>, into: &mut Vec<u8>) {
        assert!(self.has_room(), "a call beside one that bears no other");
        match self {
            Self::Classic(caller) => caller.call(call, into),
            Self::WithIds(_) => WithIdsCaller::call(call, into),
        }
    }

    /// Nobody waits for the reply to call `number` any more; `false`: as it may still come, the
    /// connection is of no further use.
    pub(in crate::rpc) fn give_up(&self, number: u64) -> bool {
        match self {
            Self::Classic(caller) => !caller.awaits(number),
            Self::WithIds(_) => true,
        }
    }

    /// Takes bytes that follow those before, and hands each reply to `each`.
    ///
    /// # Errors
    /// What makes it impossible to go on with the connection.
    pub(in crate::rpc) fn receive(
        &mut self,
        bytes: &[u8],
        each: impl FnMut(ReceivedReply<'_>),
    ) -> Result<(), WireError> {
        match self {
            Self::Classic(caller) => caller.receive(bytes, each),
            Self::WithIds(caller) => caller.receive(bytes, each),
        }
    }
}
