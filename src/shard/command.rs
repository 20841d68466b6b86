//! One request: what it says, whether it may be said now, and the answer where the gateway gives it
//! alone.

use std::borrow::Cow;

use super::Shard;
use crate::{
    base::{close::CloseReason, id::ConnectionKey, secret::Secret},
    limits::Patience,
    protocol::{
        command::{AckMode, Command, Dialect, Tag, Verb},
        error_code::ErrorCode,
        http::events::LastEvent,
        reply::Reply,
        request::{BadRequest, ReplyTo, Request},
    },
    session::job::{Asked, Call},
};

/// A request, looked at.
pub(super) enum ReadRequest<'a> {
    /// It makes no sense.
    Bad(&'a BadRequest),
    /// It is a command, or would be one, but for what stands in its place.
    Command {
        /// The dialect that the client speaks from here on.
        spoken: Dialect,
        /// What its reply is written for.
        to: ReplyTo,
        verb: Verb,
        tag: Option<Tag>,
        command: Result<Command<'a>, (ErrorCode, Cow<'static, str>)>,
    },
}

impl ReadRequest<'_> {
    /// Whether it asks for a message to be stored.
    pub(super) fn is_send(&self) -> bool {
        matches!(
            self,
            Self::Command {
                command: Ok(Command::Chat { .. } | Command::GroupChat { .. }),
                ..
            }
        )
    }
}

impl Shard {
    /// What one request says: tag, command word, permission, arguments are looked at in this order.
    /// Changes nothing.
    pub(super) fn read_request<'a>(
        &self,
        key: ConnectionKey,
        request: &'a Result<Request<'a>, BadRequest>,
    ) -> ReadRequest<'a> {
        let session = &self.connections[key.slot as usize].session;
        let request = match request {
            Ok(request) => request,
            Err(bad) => return ReadRequest::Bad(bad),
        };
        let (verb, to) = (request.verb(), request.reply_to(session.dialect));
        let dialect = to.dialect();
        let permitted = if self.draining {
            Err((
                ErrorCode::ShuttingDown,
                Cow::from("the gateway is going down"),
            ))
        } else {
            permission(verb, dialect, session.login().is_some())
                .map_err(|(code, words)| (code, Cow::from(words)))
        };
        let command = permitted.and_then(|()| {
            request
                .command(dialect, self.options.judge)
                .map_err(|bad| (ErrorCode::BadArgument, bad.0))
        });
        ReadRequest::Command {
            spoken: request.spoken_dialect(session.dialect),
            to,
            verb,
            tag: request.tag(),
            command,
        }
    }

    /// Does what a request of `length` bytes says, or gives what a service has to do.
    pub(super) fn take_up(
        &mut self,
        key: ConnectionKey,
        request: ReadRequest<'_>,
        length: usize,
    ) -> Option<Asked> {
        let (spoken, to, verb, tag, command) = match request {
            ReadRequest::Bad(bad) => {
                self.message_handled(key, length);
                self.refuse_bad_request(key, bad);
                return None;
            }
            ReadRequest::Command {
                spoken,
                to,
                verb,
                tag,
                command,
            } => (spoken, to, verb, tag, command),
        };
        self.connections[key.slot as usize].session.dialect = spoken;
        let failed = self.message_handled(key, length);
        let reply = match (command.map(Call::of), failed) {
            (Ok(Ok(call)), Some(failed)) if call.is_send() => failed,
            (Ok(Ok(call)), _) => {
                return Some(Asked {
                    tag,
                    to,
                    verb,
                    call,
                    started_us: self.now.monotonic_us,
                });
            }
            (Ok(Err(command)), _) => self.answer(key, command),
            (Err((code, words)), _) => Reply::error(code, words),
        };
        self.metrics
            .command(verb, !matches!(reply, Reply::Error { .. }));
        self.reply(key.slot, tag.as_ref(), &to, &reply);
        if reply == Reply::Bye {
            self.end(key, CloseReason::Quit);
        }
        None
    }

    /// The login by `token` that something needs first: its answer is written for that.
    pub(super) fn login_for(
        &self,
        to: ReplyTo,
        token: Secret<String>,
        last_event: Option<LastEvent>,
    ) -> Asked {
        Asked {
            tag: None,
            to,
            verb: Verb::Auth,
            call: Call::Auth {
                token,
                user: None,
                last_event,
            },
            started_us: self.now.monotonic_us,
        }
    }

    /// A message of `length` bytes is handled: what it is answered if it is a send and was read
    /// before one that failed.
    pub(super) fn message_handled(&mut self, key: ConnectionKey, length: usize) -> Option<Reply> {
        let behind = &mut self.connections[key.slot as usize].session.failed_behind;
        let reply = behind.as_mut()?.next_message(length).cloned();
        if reply.is_none() {
            *behind = None;
        }
        reply
    }

    /// A request that makes no sense; after too many of them the connection is closed.
    fn refuse_bad_request(&mut self, key: ConnectionKey, bad: &BadRequest) {
        let slot = key.slot;
        let to = match &bad.to {
            Some(to) => to.clone(),
            None => ReplyTo::Line(self.connections[slot as usize].session.dialect),
        };
        if bad.code == ErrorCode::Unsupported {
            // Well said, and not served.
            return self.reply(slot, None, &to, &Reply::error(bad.code, bad.words.clone()));
        }
        let session = &mut self.connections[slot as usize].session;
        let patience = session.bad_lines.note(
            self.now.monotonic_us / 1000,
            self.options.protocol_error_limit,
        );
        self.metrics.protocol_errors_total.inc();
        let words = match patience {
            Patience::Short(left) => with_warning(&bad.words, left),
            Patience::Ample | Patience::Over => bad.words.clone(),
        };
        let reply = Reply::error(bad.code, words);
        self.reply(slot, bad.tag.as_ref(), &to, &reply);
        if patience == Patience::Over {
            self.end(key, CloseReason::Protocol);
        }
    }

    /// Commands that the gateway answers alone.
    pub(super) fn answer(&mut self, key: ConnectionKey, command: Command<'_>) -> Reply {
        let session = &mut self.connections[key.slot as usize].session;
        match command {
            Command::Ping { text } => Reply::Pong(text.map(str::to_owned)),
            Command::Help(None) => Reply::Commands,
            Command::Help(Some(verb)) => Reply::Form(verb),
            Command::Quit => Reply::Bye,
            Command::SetAck(mode) => {
                self.set_ack_mode(key, mode);
                Reply::AckMode(mode)
            }
            Command::SetDevice(_) if session.login().is_some() => Reply::error(
                ErrorCode::AlreadyLoggedIn,
                "set the device before logging in",
            ),
            Command::SetDevice(name) => {
                session.device = Some(name.into());
                Reply::Device(name.to_owned())
            }
            #[cfg(feature = "test-hooks")]
            Command::Panic => panic!("a client asked for it"),
            // All others are calls: `Call::of` took them.
            _ => Reply::error(ErrorCode::Internal, "not served here"),
        }
    }

    fn set_ack_mode(&mut self, key: ConnectionKey, mode: AckMode) {
        self.connections[key.slot as usize].session.ack_mode = mode;
        match mode {
            AckMode::Manual => self.open_window(key),
            // What was held back while the client confirmed too little goes out now.
            AckMode::Auto => self.catch_up_if_throttled(key),
        }
    }
}

/// The words about a bad line, when the connection bears few more.
fn with_warning(words: &str, left: u32) -> Cow<'static, str> {
    let lines = if left == 1 { "line ends" } else { "lines end" };
    format!("{words} ({left} more bad {lines} this connection)").into()
}

/// Whether a session may use `verb` now.
fn permission(
    verb: Verb,
    dialect: Dialect,
    logged_in: bool,
) -> Result<(), (ErrorCode, &'static str)> {
    match verb {
        // MPIM's tools make one account after the other on one connection.
        Verb::Register if dialect == Dialect::Space => Ok(()),
        Verb::Register | Verb::Login | Verb::Auth if logged_in => Err((
            ErrorCode::AlreadyLoggedIn,
            "log out first to log in as somebody else",
        )),
        _ if logged_in || verb.allowed_before_login() => Ok(()),
        _ => Err((ErrorCode::NotLoggedIn, "log in first")),
    }
}
