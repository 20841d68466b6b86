//! The bytes of mprpc: calls, replies without ids, replies with ids. Both ends of the wire.
//!
//! ```text
//! call           u32 LE header_len | RpcHeader | arguments
//! classic reply  u32 LE len | message
//! reply with id  u32 LE header_len | ReplyHeader | message
//! ```
//!
//! Owns the framing. Pure: bytes in, frames out. Nothing is believed about a length before it is
//! within its limit, and nothing is reserved for bytes that have not come.

mod caller;
mod reply_order;

use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};

pub(super) use self::caller::{ClassicCaller, WithIdsCaller};
pub(super) use self::reply_order::ReplyOrder;
use crate::proto::{ReplyHeader, ReplyStatus, RpcHeader};

/// The longest header, of calls and of replies: names are short.
pub const HEADER_MAX_BYTES: usize = 1024;
const LENGTH_BYTES: usize = 4;

/// Why a stream of frames cannot go on: after one of these nothing that follows can be understood.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// A header longer than any.
    #[error("a header of {0} bytes")]
    HeaderTooLong(usize),
    /// A header that does not parse.
    #[error("a header that does not parse")]
    BadHeader,
    /// Arguments or a message beyond the limit.
    #[error("a message of {0} bytes")]
    BodyTooLong(usize),
}

/// One call as it came.
#[derive(Clone, Debug, PartialEq)]
pub struct CallFrame<'a> {
    /// Who is asked what, and in which form to answer.
    pub header: RpcHeader,
    /// The arguments, not looked at.
    pub args: &'a [u8],
}

/// One reply with an id as it came.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ReplyFrame<'a> {
    /// Whose it is, and how the call went.
    pub header: ReplyHeader,
    /// The message, not looked at.
    pub body: &'a [u8],
}

/// A frame and how many bytes it took; `None`: its end has not come yet.
pub type Parsed<T> = Result<Option<(T, usize)>, FramingError>;

/// What the header of a call says beside the size of its arguments.
#[derive(Clone, Copy, Debug)]
pub struct CallHead<'a> {
    /// The service's name.
    pub service: &'a str,
    /// The method's name.
    pub method: &'a str,
    /// The id of the reply; 0: a classic reply is wanted.
    pub call_id: u64,
    /// How long the caller waits; 0: it does not say.
    pub timeout_ms: u32,
}

/// Appends a call.
pub fn write_call(head: CallHead<'_>, args: &impl Message, into: &mut Vec<u8>) {
    let encode = |into: &mut Vec<u8>| args.encode_raw(into);
    write_call_with(head, args.encoded_len(), encode, into);
}

/// Appends a call with the arguments that `encode` writes, `args_len` bytes.
fn write_call_with(
    head: CallHead<'_>,
    args_len: usize,
    encode: impl FnOnce(&mut Vec<u8>),
    into: &mut Vec<u8>,
) {
    let args_size = args_len as u64;
    let bytes_field = |text: &str| 1 + encoded_len_varint(text.len() as u64) + text.len();
    let number_field = |number: u64| match number {
        0 => 0,
        number => 1 + encoded_len_varint(number),
    };
    let header_len = bytes_field(head.service)
        + bytes_field(head.method)
        + number_field(args_size)
        + number_field(head.call_id)
        + number_field(head.timeout_ms.into());
    let begin = into.len();
    into.reserve(LENGTH_BYTES + header_len + args_size as usize);
    into.extend_from_slice(&(header_len as u32).to_le_bytes());
    // Written field by field: no copies of the names for each call. A test holds it to the
    // message's own encoding.
    for (key, text) in [(0x0a, head.service), (0x12, head.method)] {
        into.push(key);
        encode_varint(text.len() as u64, into);
        into.extend_from_slice(text.as_bytes());
    }
    for (key, number) in [
        (0x18, args_size),
        (0x20, head.call_id),
        (0x28, head.timeout_ms.into()),
    ] {
        if number != 0 {
            into.push(key);
            encode_varint(number, into);
        }
    }
    assert_eq!(
        into.len(),
        begin + LENGTH_BYTES + header_len,
        "a header is as long as it says"
    );
    encode(into);
    assert_eq!(
        into.len(),
        begin + LENGTH_BYTES + header_len + args_len,
        "arguments are as long as they say"
    );
}

/// Appends the length in front of a classic reply; the message follows.
pub fn write_classic_length(len: usize, into: &mut Vec<u8>) {
    assert!(
        u32::try_from(len).is_ok(),
        "{len} bytes cannot be announced"
    );
    into.extend_from_slice(&(len as u32).to_le_bytes());
}

/// Appends the header of a reply with an id; the message follows.
pub(crate) fn write_reply_header(
    call_id: u64,
    status: ReplyStatus,
    body_len: usize,
    into: &mut Vec<u8>,
) {
    assert!(
        u32::try_from(body_len).is_ok(),
        "{body_len} bytes cannot be announced"
    );
    let header = ReplyHeader {
        call_id,
        status: status.into(),
        body_size: body_len as u32,
    };
    into.extend_from_slice(&(header.encoded_len() as u32).to_le_bytes());
    header.encode_raw(into);
}

/// Reads a call off the front of `bytes`, with arguments of at most `args_max` bytes.
///
/// # Errors
/// Bytes that are no call.
pub fn read_call(bytes: &[u8], args_max: usize) -> Parsed<CallFrame<'_>> {
    let Some((header, rest)) = read_header::<RpcHeader>(bytes)? else {
        return Ok(None);
    };
    let args = body(rest, header.args_size, args_max)?;
    Ok(args.map(|args| {
        let taken = bytes.len() - rest.len() + args.len();
        (CallFrame { header, args }, taken)
    }))
}

/// Reads a classic reply off the front of `bytes`: a message of at most `body_max` bytes.
///
/// # Errors
/// A message beyond the limit.
pub fn read_classic_reply(bytes: &[u8], body_max: usize) -> Parsed<&[u8]> {
    let Some((len, rest)) = split_length(bytes) else {
        return Ok(None);
    };
    let message = body(rest, len, body_max)?;
    Ok(message.map(|message| (message, LENGTH_BYTES + message.len())))
}

/// Reads a reply with an id off the front of `bytes`, with a message of at most `body_max` bytes.
///
/// # Errors
/// Bytes that are no reply.
pub fn read_reply(bytes: &[u8], body_max: usize) -> Parsed<ReplyFrame<'_>> {
    let Some((header, rest)) = read_header::<ReplyHeader>(bytes)? else {
        return Ok(None);
    };
    let message = body(rest, header.body_size, body_max)?;
    Ok(message.map(|body| {
        let taken = bytes.len() - rest.len() + body.len();
        (ReplyFrame { header, body }, taken)
    }))
}

fn split_length(bytes: &[u8]) -> Option<(u32, &[u8])> {
    let (length, rest) = bytes.split_first_chunk::<LENGTH_BYTES>()?;
    Some((u32::from_le_bytes(*length), rest))
}

fn read_header<H: Message + Default>(bytes: &[u8]) -> Result<Option<(H, &[u8])>, FramingError> {
    let Some((len, rest)) = split_length(bytes) else {
        return Ok(None);
    };
    let len = len as usize;
    if len > HEADER_MAX_BYTES {
        return Err(FramingError::HeaderTooLong(len));
    }
    let Some((header, rest)) = rest.split_at_checked(len) else {
        return Ok(None);
    };
    let header = H::decode(header).map_err(|_| FramingError::BadHeader)?;
    Ok(Some((header, rest)))
}

fn body(rest: &[u8], len: u32, max: usize) -> Result<Option<&[u8]>, FramingError> {
    let len = len as usize;
    if len > max {
        return Err(FramingError::BodyTooLong(len));
    }
    Ok(rest.get(..len))
}

#[cfg(test)]
mod tests;
