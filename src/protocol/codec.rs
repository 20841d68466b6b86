//! How values travel: from the bytes of a connection to requests, and from replies and pushes to
//! bytes.
//!
//! Owns the choice between the forms and nothing of any of them: a session and its core name this
//! alone, so that a further form is a variant here and a module beside the others. What depends on
//! a form (how text is escaped, where a message ends) stays in its module.
//!
//! Two things make up a codec: the carrier, which cuts the stream into messages (lines, or
//! WebSocket frames), and the form of a message (a line, a JSON object, or a protobuf envelope).

use super::{
    command::{Tag, parse_line, trim_blanks},
    http::{
        events,
        head::{self, Head},
        response::Status,
    },
    json,
    line::{Split, split_line},
    protobuf,
    push::Push,
    reply::Reply,
    request::{BadRequest, ReplyTo, Request},
    websocket::{self, Assembly, Frame, FrameError, HEAD_BYTES_MAX, Opcode},
};
use crate::base::{close::CloseReason, id::UserId};

/// What a message is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// A line of text.
    Line,
    /// A JSON object.
    Json,
    /// A protobuf message in an envelope.
    Protobuf,
}

/// What cuts a connection's stream into messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// Line ends.
    Line,
    /// HTTP.
    Http,
    /// WebSocket frames.
    WebSocket,
}

/// How a connection's requests, replies and pushes travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Codec {
    /// Lines of text.
    #[default]
    Line,
    /// HTTP, until a handshake has been answered: nothing but that is said on it.
    Http,
    /// Server-Sent Events: pushes alone.
    Events,
    /// WebSocket messages. A request says its form by itself; pushes have this one.
    WebSocket(Form),
}

/// What stands at the front of a connection's input.
#[derive(Debug)]
pub enum Front<'a> {
    /// A request, or what should be one, of so many bytes.
    Request(Result<Request<'a>, BadRequest>, usize),
    /// An HTTP request's head and body, of so many bytes.
    Http(Head<'a>, &'a [u8], usize),
    /// An HTTP request that no server should read further.
    BadHead(Status),
    /// Nothing that asks for anything, of so many bytes.
    Nothing(usize),
    /// What is to be answered with [`Codec::write_pong`], of so many bytes.
    Ping(&'a [u8], usize),
    /// The peer says that it closes.
    Close,
    /// The beginning of a message; more bytes are needed.
    Incomplete,
    /// A message longer than allowed, whether its end has come yet or not.
    TooLong,
    /// What no peer may send.
    Broken(FrameError),
}

/// What a connection keeps between two reads, beside its unhandled bytes.
#[derive(Debug, Default)]
pub struct Partial {
    /// The beginning of a message in fragments.
    assembly: Option<Box<Assembly>>,
}

impl Partial {
    /// How much of a message in fragments it holds, in bytes; `None`: no such message has begun.
    pub fn begun_bytes(&self) -> Option<usize> {
        let assembly = self.assembly.as_ref();
        assembly.map(|assembly| assembly.held_bytes())
    }

    /// A request in fragments is to be taken up later: what `begun` holds came before its last one.
    /// Its form says whether it is text.
    pub fn put_back(&mut self, form: Form, begun: &[u8]) {
        debug_assert!(self.assembly.is_none(), "the message was whole");
        self.assembly = Some(Box::new(Assembly::begun_with(form.opcode(), begun)));
    }
}

impl Codec {
    /// How many forms of a push there are: each is encoded once for all connections that need it.
    pub const COUNT: usize = 5;

    /// What carries its messages.
    pub fn carrier(self) -> Carrier {
        match self {
            Self::Line => Carrier::Line,
            Self::Http | Self::Events => Carrier::Http,
            Self::WebSocket(_) => Carrier::WebSocket,
        }
    }

    /// The place of this codec's pushes among all of them.
    pub fn index(self) -> usize {
        match self {
            // Nobody is pushed anything before the handshake is answered.
            Self::Line | Self::Http => 0,
            Self::WebSocket(Form::Line) => 1,
            Self::WebSocket(Form::Json) => 2,
            Self::WebSocket(Form::Protobuf) => 3,
            Self::Events => 4,
        }
    }

    /// How much of the stream a message of `max_bytes` may take.
    pub fn room_bytes(self, max_bytes: usize) -> usize {
        match self {
            Self::Line => max_bytes,
            Self::Http | Self::Events => head::request_bytes_max(max_bytes),
            Self::WebSocket(_) => max_bytes + HEAD_BYTES_MAX,
        }
    }

    /// Takes the first message off `input`. It may have `max_bytes`, a line's terminator counted.
    /// `partial` is the connection's, `scratch` is lent until the next call.
    pub fn front<'a>(
        self,
        input: &'a [u8],
        max_bytes: usize,
        partial: &mut Partial,
        scratch: &'a mut Vec<u8>,
    ) -> Front<'a> {
        match self {
            Self::Line => match split_line(input, max_bytes) {
                Split::Line { text, consumed } if trim_blanks(text).is_empty() => {
                    Front::Nothing(consumed)
                }
                Split::Line { text, consumed } => {
                    Front::Request(parse_line(text).map(Request::Line), consumed)
                }
                Split::Incomplete => Front::Incomplete,
                Split::TooLong => Front::TooLong,
            },
            Self::Http => match head::read_request(input, max_bytes) {
                Ok(None) => Front::Incomplete,
                Ok(Some((head, body, consumed))) => Front::Http(head, body, consumed),
                Err(status) => Front::BadHead(status),
            },
            Self::Events if input.is_empty() => Front::Incomplete,
            // Nothing can be asked for any more.
            Self::Events => Front::Close,
            Self::WebSocket(_) => {
                match websocket::read_frame(input, max_bytes, &mut partial.assembly, scratch) {
                    Ok(None) => Front::Incomplete,
                    Ok(Some((frame, consumed))) => of_frame(frame, consumed),
                    Err(FrameError::TooLong) => Front::TooLong,
                    Err(error) => Front::Broken(error),
                }
            }
        }
    }

    /// Whether a message may be whole in `input`; it is not for certain.
    pub fn may_have_message(self, input: &[u8]) -> bool {
        match self {
            Self::Line => memchr::memchr(b'\n', input).is_some(),
            Self::Http | Self::Events | Self::WebSocket(_) => !input.is_empty(),
        }
    }

    /// Appends `reply` in the form of what it answers to `out`.
    pub fn write_reply(self, reply: &Reply, tag: Option<&Tag>, to: &ReplyTo, out: &mut Vec<u8>) {
        let start = out.len();
        match to {
            ReplyTo::Line(dialect) => reply.write(tag, *dialect, out),
            ReplyTo::Json(id) => json::reply::write(reply, id.as_deref(), out),
            ReplyTo::Protobuf(answer) => protobuf::reply::write(reply, answer, out),
            // Who has the connection answers these.
            ReplyTo::Upgrade(_) | ReplyTo::HeaderLogin(_) | ReplyTo::Http(_) => return,
        }
        self.end_message(to.form(), start, out);
    }

    /// Appends a part of what was pulled: `messages` as [`ReplyTo::write_pulled_message`] writes
    /// them. `more` is said in the last part.
    pub fn write_pulled(
        self,
        (messages, count): (&[u8], usize),
        more: Option<bool>,
        to: &ReplyTo,
        out: &mut Vec<u8>,
    ) {
        let start = out.len();
        match to {
            ReplyTo::Json(id) => {
                json::reply::write_pulled((messages, count), more, id.as_deref(), out);
            }
            ReplyTo::Protobuf(answer) => {
                let more = more.expect("all that was pulled is one part");
                let reply = Reply::PullDone { count, more };
                protobuf::reply::write_pulled(messages, &reply, answer, out);
            }
            // These are pushed what they pull, or answered by who has the connection.
            ReplyTo::Line(_) | ReplyTo::Upgrade(_) | ReplyTo::HeaderLogin(_) | ReplyTo::Http(_) => {
                return;
            }
        }
        self.end_message(to.form(), start, out);
    }

    /// Appends `push` in the form of this codec's pushes to `out`.
    pub fn write_push(self, push: &Push<'_>, out: &mut Vec<u8>) {
        let start = out.len();
        match self {
            Self::Line | Self::WebSocket(Form::Line) => push.write(out),
            Self::WebSocket(Form::Json) => json::push::write(push, out),
            Self::WebSocket(Form::Protobuf) => protobuf::push::write(push, out),
            Self::Events => events::write(push, out),
            Self::Http => return,
        }
        self.end_message(self.form(), start, out);
    }

    /// Appends the answer to a ping.
    pub fn write_pong(self, payload: &[u8], out: &mut Vec<u8>) {
        debug_assert!(
            matches!(self, Self::WebSocket(_)),
            "others know no pings of their own"
        );
        websocket::write_control(Opcode::Pong, payload, out);
    }

    /// Appends a ping, if the carrier has them.
    pub fn write_ping(self, out: &mut Vec<u8>) {
        match self {
            Self::WebSocket(_) => websocket::write_control(Opcode::Ping, b"", out),
            Self::Events => events::write_ping(out),
            Self::Line | Self::Http => {}
        }
    }

    /// Appends what tells the peer that the connection ends, and why.
    pub fn write_end(self, end: End, out: &mut Vec<u8>) {
        if let Some(word) = end.reason.kick_word() {
            self.write_push(&Push::Kick { reason: word }, out);
        }
        if let Self::WebSocket(_) = self {
            let code = end.broken.map_or(close_code(end.reason), FrameError::code);
            websocket::write_close(code, end.reason.word(), out);
        }
    }

    /// The last end of a message in `bytes` up to `sent`; a message begins where `bytes` do.
    pub fn last_end(self, bytes: &[u8], sent: usize) -> usize {
        match self {
            Self::Http => 0,
            Self::Line => memchr::memrchr(b'\n', &bytes[..sent]).map_or(0, |end| end + 1),
            Self::Events => events::last_end(&bytes[..sent]).unwrap_or(0),
            Self::WebSocket(_) => frame_ends(bytes)
                .take_while(|end| *end <= sent)
                .last()
                .unwrap_or(0),
        }
    }

    /// The first end of a message in `bytes` from `sent` on; a message begins where `bytes` do.
    pub fn first_end(self, bytes: &[u8], sent: usize) -> usize {
        if sent == 0 {
            return 0;
        }
        let end = match self {
            Self::Http => None,
            Self::Line => memchr::memchr(b'\n', &bytes[sent - 1..]).map(|end| sent + end),
            Self::Events => events::first_end(bytes, sent),
            Self::WebSocket(_) => frame_ends(bytes).find(|end| *end >= sent),
        };
        end.unwrap_or(bytes.len())
    }

    /// The form of its pushes.
    fn form(self) -> Form {
        match self {
            Self::Line | Self::Http => Form::Line,
            Self::Events => Form::Json,
            Self::WebSocket(form) => form,
        }
    }

    /// What begins at `start` is a message of this form.
    fn end_message(self, form: Form, start: usize, out: &mut Vec<u8>) {
        if let Self::WebSocket(_) = self {
            if form == Form::Line && out.last() == Some(&b'\n') {
                out.pop();
            }
            websocket::frame(form.opcode(), start, out);
        }
    }
}

impl Form {
    /// The kind of frames it travels in.
    fn opcode(self) -> Opcode {
        match self {
            Self::Line | Self::Json => Opcode::Text,
            Self::Protobuf => Opcode::Binary,
        }
    }
}

impl ReplyTo {
    /// Appends a message that `reader` has pulled, after those that `out` holds already.
    pub fn write_pulled_message(&self, push: &Push<'_>, reader: UserId, out: &mut Vec<u8>) {
        if let Self::Protobuf(_) = self {
            return protobuf::reply::write_message(push, reader, out);
        }
        if !out.is_empty() {
            out.push(b',');
        }
        json::push::write_message(push, out);
    }
}

/// Why a connection ends, as its peer is told.
#[derive(Clone, Copy, Debug)]
pub struct End {
    /// The reason.
    pub reason: CloseReason,
    /// What the peer sent that no peer may send.
    pub broken: Option<FrameError>,
}

fn of_frame(frame: Frame<'_>, consumed: usize) -> Front<'_> {
    match frame {
        Frame::Text(text) if text.starts_with('{') => Front::Request(
            json::request::read(text).map(|json| Request::Json(Box::new(json))),
            consumed,
        ),
        Frame::Text(text) if trim_blanks(text.as_bytes()).is_empty() => Front::Nothing(consumed),
        Frame::Text(text) => {
            Front::Request(parse_line(text.as_bytes()).map(Request::Line), consumed)
        }
        Frame::Binary(bytes) => Front::Request(
            protobuf::request::read(bytes).map(|request| Request::Protobuf(Box::new(request))),
            consumed,
        ),
        Frame::Ping(payload) => Front::Ping(payload, consumed),
        Frame::Close(_) => Front::Close,
        Frame::Nothing => Front::Nothing(consumed),
    }
}

/// The ends of the whole frames in `bytes`.
fn frame_ends(bytes: &[u8]) -> impl Iterator<Item = usize> {
    std::iter::successors(Some(0), |begin| {
        let end = begin + websocket::written_length(bytes.get(*begin..)?)?;
        (end <= bytes.len()).then_some(end)
    })
    .skip(1)
}

fn close_code(reason: CloseReason) -> u16 {
    match reason {
        CloseReason::ClientClosed | CloseReason::Quit | CloseReason::ConnectionLost => 1000,
        CloseReason::Shutdown => 1001,
        CloseReason::Protocol => 1008,
        CloseReason::Internal => 1011,
        CloseReason::Replaced => 4001,
        CloseReason::Idle => 4002,
        CloseReason::SlowConsumer => 4003,
        CloseReason::Admin => 4004,
        CloseReason::AuthTimeout => 4005,
        CloseReason::RateLimited => 4006,
        CloseReason::Revoked => 4007,
    }
}
