//! The calling end of mprpc, in both its forms.

use super::{CallHead, read_classic_reply, read_reply, write_call_with};
use crate::{
    base::receive_buffer::ReceiveBuffer,
    proto::ReplyStatus,
    rpc::wire::{OutgoingCall, ReceivedReply, WireError},
};

/// A connection on which replies carry no id: a reply is that of the one call that is out.
///
/// Invariant: at most one call is out.
#[derive(Debug)]
pub(in crate::rpc) struct ClassicCaller {
    /// The call that is out.
    current: Option<u64>,
    input: ReceiveBuffer,
    max_reply_bytes: usize,
}

impl ClassicCaller {
    pub(in crate::rpc::wire) fn new(max_reply_bytes: usize) -> Self {
        Self {
            current: None,
            input: ReceiveBuffer::default(),
            max_reply_bytes,
        }
    }

    pub(in crate::rpc::wire) fn is_idle(&self) -> bool {
        self.current.is_none()
    }

    pub(in crate::rpc::wire) fn awaits(&self, number: u64) -> bool {
        self.current == Some(number)
    }

    pub(in crate::rpc::wire) fn call(&mut self, call: &OutgoingCall<'_>, into: &mut Vec<u8>) {
        assert!(
            self.is_idle(),
            "its reply could not be told from that of another"
        );
        self.current = Some(call.number);
        // Who knows no ids does not know the time a caller waits either.
        let head = CallHead {
            service: call.service,
            method: call.method,
            call_id: 0,
            timeout_ms: 0,
        };
        write_call_with(head, call.args.len(), |into| call.args.encode(into), into);
    }

    pub(in crate::rpc::wire) fn receive(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(ReceivedReply<'_>),
    ) -> Result<(), WireError> {
        let (current, max_reply_bytes) = (&mut self.current, self.max_reply_bytes);
        self.input.feed(bytes, |rest| {
            if rest.is_empty() {
                return Ok(None);
            }
            let Some((body, taken)) = read_classic_reply(rest, max_reply_bytes)? else {
                // The beginning of one, although nothing is out.
                return match current {
                    Some(_) => Ok(None),
                    None => Err(WireError::Unasked),
                };
            };
            each(ReceivedReply {
                number: current.take().ok_or(WireError::Unasked)?,
                status: ReplyStatus::ReplyOk,
                body,
            });
            Ok(Some(taken))
        })
    }
}

/// A connection on which replies carry the number of their call.
#[derive(Debug)]
pub(in crate::rpc) struct WithIdsCaller {
    input: ReceiveBuffer,
    max_reply_bytes: usize,
}

impl WithIdsCaller {
    pub(in crate::rpc::wire) fn new(max_reply_bytes: usize) -> Self {
        Self {
            input: ReceiveBuffer::default(),
            max_reply_bytes,
        }
    }

    pub(in crate::rpc::wire) fn call(call: &OutgoingCall<'_>, into: &mut Vec<u8>) {
        assert!(call.number != 0, "0 would ask for a reply without an id");
        let head = CallHead {
            service: call.service,
            method: call.method,
            call_id: call.number,
            timeout_ms: call.timeout_ms,
        };
        write_call_with(head, call.args.len(), |into| call.args.encode(into), into);
    }

    pub(in crate::rpc::wire) fn receive(
        &mut self,
        bytes: &[u8],
        mut each: impl FnMut(ReceivedReply<'_>),
    ) -> Result<(), WireError> {
        let max_reply_bytes = self.max_reply_bytes;
        self.input.feed(bytes, |rest| {
            let Some((frame, taken)) = read_reply(rest, max_reply_bytes)? else {
                return Ok(None);
            };
            each(ReceivedReply {
                number: frame.header.call_id,
                // A status of the future is no answer.
                status: ReplyStatus::try_from(frame.header.status)
                    .unwrap_or(ReplyStatus::ReplyInternal),
                body: frame.body,
            });
            Ok(Some(taken))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::wire::{
        Arguments,
        mprpc::{read_call, write_classic_length},
    };

    fn call(number: u64) -> OutgoingCall<'static> {
        OutgoingCall {
            number,
            service: "UserService",
            method: "Login",
            timeout_ms: 3000,
            args: Arguments::new(3, &|into| into.extend_from_slice(b"arg")),
        }
    }

    #[test]
    fn a_classic_connection_has_one_call_out_and_its_reply_is_that_calls() {
        let (mut caller, mut bytes) = (ClassicCaller::new(100), Vec::new());
        caller.call(&call(7), &mut bytes);
        let (frame, _) = read_call(&bytes, 100).expect("a call").expect("whole");
        assert_eq!((frame.header.call_id, frame.args), (0, &b"arg"[..]));
        assert!(!caller.is_idle() && caller.awaits(7) && !caller.awaits(8));
        let mut reply = Vec::new();
        write_classic_length(2, &mut reply);
        reply.extend_from_slice(b"ok");
        let mut numbers = Vec::new();
        let received = caller.receive(&reply, |reply| numbers.push(reply.number));
        received.expect("a reply");
        assert!(numbers == [7] && caller.is_idle());
        assert!(
            caller.receive(&reply[..1], |_| {}).is_err(),
            "nothing is out"
        );
    }

    #[test]
    #[should_panic(expected = "told from that of another")]
    fn a_second_call_on_a_classic_connection_is_a_bug() {
        let mut caller = ClassicCaller::new(100);
        caller.call(&call(7), &mut Vec::new());
        caller.call(&call(8), &mut Vec::new());
    }

    #[test]
    #[should_panic(expected = "as long as they said")]
    fn arguments_of_another_length_than_announced_are_a_bug() {
        let lying = OutgoingCall {
            args: Arguments::new(4, &|into| into.extend_from_slice(b"arg")),
            ..call(7)
        };
        WithIdsCaller::call(&lying, &mut Vec::new());
    }
}
