//! The answering end of a connection, over which calls come in both forms of mprpc.
//!
//! Owns the order of classic replies. Invariant: each call that is to be replied to is replied to
//! once, and a classic reply leaves after those to the calls before it.

use super::{
    WireError,
    mprpc::{CallFrame, ReplyOrder, read_call, write_reply_header},
};
use crate::proto::{ReplyStatus, RpcHeader};

/// How a call is to be replied to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::rpc) enum ReplyTo {
    /// By its id.
    Id(u64),
    /// In its place among the classic replies.
    Position(u64),
}

/// A call as it came.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::rpc) struct ReceivedCall<'a> {
    header: RpcHeader,
    /// The arguments, not looked at.
    pub(in crate::rpc) args: &'a [u8],
}

impl ReceivedCall<'_> {
    /// The service's name, as the caller wrote it.
    pub(in crate::rpc) fn service(&self) -> &[u8] {
        &self.header.service_name
    }

    /// The method's name, as the caller wrote it.
    pub(in crate::rpc) fn method(&self) -> &[u8] {
        &self.header.method_name
    }

    /// How long the caller waits; 0: it does not say.
    pub(in crate::rpc) fn timeout_ms(&self) -> u32 {
        self.header.timeout_ms
    }
}

/// See the module's description. One for each connection.
#[derive(Debug, Default)]
pub(in crate::rpc) struct Responder {
    reply_order: ReplyOrder,
}

impl Responder {
    /// Reads a call off the front of `bytes`, with arguments of at most `args_max` bytes, and says
    /// how many bytes it took; `None`: its end has not come yet.
    ///
    /// # Errors
    /// Bytes that are no call.
    pub(in crate::rpc) fn read<'a>(
        &self,
        bytes: &'a [u8],
        args_max: usize,
    ) -> Result<Option<(ReceivedCall<'a>, usize)>, WireError> {
        let read = read_call(bytes, args_max)?;
        Ok(read.map(|(CallFrame { header, args }, taken)| (ReceivedCall { header, args }, taken)))
    }

    /// How `call` is to be replied to, which it must be from now on.
    pub(in crate::rpc) fn accept(&mut self, call: &ReceivedCall<'_>) -> ReplyTo {
        match call.header.call_id {
            0 => ReplyTo::Position(self.reply_order.take()),
            id => ReplyTo::Id(id),
        }
    }

    /// Appends the reply that `encode` writes, `len` bytes, as soon as its place has come.
    pub(in crate::rpc) fn reply(
        &mut self,
        to: ReplyTo,
        len: usize,
        encode: impl FnOnce(&mut Vec<u8>),
        output: &mut Vec<u8>,
    ) {
        match to {
            ReplyTo::Id(id) => {
                write_reply_header(id, ReplyStatus::ReplyOk, len, output);
                let before = output.len();
                encode(output);
                assert_eq!(output.len() - before, len, "a reply as long as it said");
            }
            ReplyTo::Position(position) => {
                self.reply_order.answer(position, len, encode, output);
            }
        }
    }

    /// Says that there was no room and nothing was done; `false`: a classic reply has no place for
    /// that but the service's own result.
    pub(in crate::rpc) fn overloaded(to: ReplyTo, output: &mut Vec<u8>) -> bool {
        match to {
            ReplyTo::Id(id) => {
                write_reply_header(id, ReplyStatus::ReplyOverloaded, 0, output);
                true
            }
            ReplyTo::Position(_) => false,
        }
    }

    /// Says that `call` was not understood. A classic one is never answered, as MPIM has it: its
    /// caller gives the connection up.
    pub(in crate::rpc) fn refuse(
        call: &ReceivedCall<'_>,
        status: ReplyStatus,
        output: &mut Vec<u8>,
    ) {
        assert!(status != ReplyStatus::ReplyOk, "a refusal is no answer");
        match call.header.call_id {
            0 => {}
            id => write_reply_header(id, status, 0, output),
        }
    }

    /// Replies that are to come, or wait for those before them, among classic ones.
    pub(in crate::rpc) fn places(&self) -> usize {
        self.reply_order.len()
    }

    /// How long the replies are that wait for those before them.
    pub(in crate::rpc) fn held_bytes(&self) -> usize {
        self.reply_order.held_bytes()
    }
}
