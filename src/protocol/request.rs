//! One request of a client, in whichever form it came: its command, what its reply says that it
//! answers, and the mark by which a repeat is known.
//!
//! In two steps, so that the session can judge between them whether the command is allowed at all:
//! the command word first, then the arguments.

use std::borrow::Cow;

use super::{
    codec::{Codec, Form},
    command::{BadArgument, Command, Dialect, Judge, Line, Tag, Verb, parse_arguments_for},
    error_code::ErrorCode,
    json::request::JsonRequest,
    protobuf::{reply::Answer, request::ProtobufRequest},
};

/// What a reply is written for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReplyTo {
    /// A line, in this dialect. The reply repeats the line's tag.
    Line(Dialect),
    /// A JSON request; its `id`, as it is written in JSON.
    Json(Option<Box<str>>),
    /// A protobuf request.
    Protobuf(Box<Answer>),
    /// A handshake, which waits for its login.
    Upgrade(Box<Upgrade>),
    /// A protobuf request that waits for the login by the token in its header.
    HeaderLogin(Box<HeaderLogin>),
    /// A request over HTTP.
    Http(HttpReply),
}

/// How a request over HTTP is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpReply {
    /// Another request may follow on the connection.
    pub keep_alive: bool,
    /// The origin whose pages may read the answer.
    pub origin: Option<Box<str>>,
}

impl HttpReply {
    /// The last answer on a connection, to nobody in particular.
    pub const LAST: Self = Self {
        keep_alive: false,
        origin: None,
    };
}

/// A request that is taken up once the token in its header has logged its connection in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeaderLogin {
    /// What it is answered where the token is no good.
    pub answer: Answer,
    /// How many bytes of the input it is then.
    pub length: usize,
}

/// A handshake that is good, but for its login.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upgrade {
    /// What it is answered.
    pub answer: String,
    /// What the connection speaks from then on; `None`: a WebSocket whose first request says in
    /// which form pushes come.
    pub codec: Option<Codec>,
}

impl ReplyTo {
    /// The dialect that was spoken.
    pub fn dialect(&self) -> Dialect {
        match self {
            Self::Line(dialect) => *dialect,
            Self::Json(_)
            | Self::Protobuf(_)
            | Self::Upgrade(_)
            | Self::HeaderLogin(_)
            | Self::Http(_) => Dialect::Colon,
        }
    }

    /// The form of the reply.
    pub fn form(&self) -> Form {
        match self {
            Self::Line(_) | Self::Upgrade(_) => Form::Line,
            Self::Json(_) | Self::Http(_) => Form::Json,
            Self::Protobuf(_) | Self::HeaderLogin(_) => Form::Protobuf,
        }
    }
}

/// What is no request: what to reply. Counts toward `protocol_error_limit`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadRequest {
    /// The client's mark, where it could be read.
    pub tag: Option<Tag>,
    /// What the reply is written for; `None`: a line, in the dialect of the connection.
    pub to: Option<ReplyTo>,
    /// [`ErrorCode::BadRequest`] or [`ErrorCode::UnknownCommand`]; or [`ErrorCode::Unsupported`],
    /// which does not count.
    pub code: ErrorCode,
    /// The human-readable words of the reply.
    pub words: Cow<'static, str>,
}

/// A request taken apart as far as its command word.
#[derive(Debug)]
pub enum Request<'a> {
    /// A line.
    Line(Line<'a>),
    /// A JSON object.
    Json(Box<JsonRequest<'a>>),
    /// A protobuf envelope.
    Protobuf(Box<ProtobufRequest>),
}

/// The form of a request, or of what should be one.
pub fn form_of(request: &Result<Request<'_>, BadRequest>) -> Form {
    match request {
        Ok(Request::Line(_)) => Form::Line,
        Ok(Request::Json(_)) => Form::Json,
        Ok(Request::Protobuf(_)) => Form::Protobuf,
        Err(bad) => bad.to.as_ref().map_or(Form::Line, ReplyTo::form),
    }
}

impl Request<'_> {
    /// The command's name.
    pub fn verb(&self) -> Verb {
        match self {
            Self::Line(line) => line.verb,
            Self::Json(request) => request.verb(),
            Self::Protobuf(request) => request.verb(),
        }
    }

    /// The client's mark.
    pub fn tag(&self) -> Option<Tag> {
        match self {
            Self::Line(line) => line.tag,
            Self::Json(request) => request.tag(),
            Self::Protobuf(request) => request.tag(),
        }
    }

    /// What the reply is written for, on a connection that `speaks` a dialect.
    pub fn reply_to(&self, speaks: Dialect) -> ReplyTo {
        match self {
            Self::Line(line) => ReplyTo::Line(line.answer_dialect(speaks)),
            Self::Json(request) => request.reply_to(),
            Self::Protobuf(request) => request.reply_to(),
        }
    }

    /// The dialect that the connection speaks from this request on.
    pub fn spoken_dialect(&self, speaks: Dialect) -> Dialect {
        match self {
            Self::Line(line) => line.spoken_dialect(speaks),
            Self::Json(_) | Self::Protobuf(_) => speaks,
        }
    }

    /// The typed command; `dialect` is what a line is answered in.
    ///
    /// # Errors
    /// Arguments that do not fit it.
    pub fn command(&self, dialect: Dialect, judge: Judge) -> Result<Command<'_>, BadArgument> {
        match self {
            Self::Line(line) => parse_arguments_for(line, dialect, judge),
            Self::Json(request) => request.command(judge),
            Self::Protobuf(request) => request.command(judge),
        }
    }
}
