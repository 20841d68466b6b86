//! How calls and their replies travel: at each end an object for each connection, which turns them
//! into bytes and back.
//!
//! Owns the words in which both ends speak with their wire. Whoever chooses, pools and repeats
//! ([`client`](super::client)) or serves ([`server`](super::server)) knows calls by numbers and
//! sees no frame; what the bytes are is the implementation's: [`mprpc`], in its two forms. Pure.

mod caller;
pub mod mprpc;
mod responder;

use prost::Message;

use crate::proto::ReplyStatus;

pub(super) use self::caller::Caller;
pub use self::caller::WireError;
pub(super) use self::responder::{ReceivedCall, ReplyTo, Responder};

/// A call as its caller sees it.
#[derive(Clone, Copy)]
pub(super) struct OutgoingCall<'a> {
    /// Names it among all calls under way; its reply comes by this number.
    pub(super) number: u64,
    /// The service's name.
    pub(super) service: &'static str,
    /// The method's name.
    pub(super) method: &'static str,
    /// How long the caller waits.
    pub(super) timeout_ms: u32,
    /// What is asked.
    pub(super) args: Arguments<'a>,
}

/// The arguments of a call: a message, or one that is encoded already.
#[derive(Clone, Copy)]
pub(super) struct Arguments<'a> {
    len: usize,
    encode: &'a dyn Fn(&mut Vec<u8>),
}

impl<'a> Arguments<'a> {
    /// `len` bytes, which `encode` appends.
    pub(super) fn new(len: usize, encode: &'a dyn Fn(&mut Vec<u8>)) -> Self {
        Self { len, encode }
    }

    /// How many bytes they are.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Appends them.
    pub(super) fn encode(&self, into: &mut Vec<u8>) {
        let before = into.len();
        (self.encode)(into);
        assert_eq!(
            into.len() - before,
            self.len,
            "arguments as long as they said"
        );
    }
}

/// Has `with` use the arguments that `message` is.
pub(super) fn with_arguments<T>(
    message: &impl Message,
    with: impl FnOnce(Arguments<'_>) -> T,
) -> T {
    let encode = |into: &mut Vec<u8>| message.encode_raw(into);
    with(Arguments::new(message.encoded_len(), &encode))
}

/// A reply as it came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct ReceivedReply<'a> {
    /// The number of its call.
    pub(super) number: u64,
    /// How the call went.
    pub(super) status: ReplyStatus,
    /// The message, not looked at.
    pub(super) body: &'a [u8],
}
