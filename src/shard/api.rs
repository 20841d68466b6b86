//! Commands over HTTP: each is an identity without a connection, which gets a reply and nothing
//! else.
//!
//! Owns the way from a request to a command, and from a reply to an answer. Who asks is found out
//! by the flow that carries out the command, from the token that goes with it.

use super::Shard;
use crate::{
    base::{close::CloseReason, id::ConnectionKey, secret::Secret},
    protocol::{
        command::{AckMode, Dialect, Verb},
        error_code::ErrorCode,
        http::{
            api,
            head::Head,
            response::{self, Status},
            upgrade::allowed_origin,
        },
        reply::Reply,
        request::{HttpReply, ReplyTo},
    },
    session::job::{Asked, Call},
};

/// The device of a client that asks over HTTP.
const DEVICE: &str = "http";

impl Shard {
    /// Does what a request for the command `name` says, or gives what a service has to do, and the
    /// token it is asked by.
    pub(super) fn take_up_api(
        &mut self,
        key: ConnectionKey,
        name: &str,
        (head, body): (&Head<'_>, &[u8]),
    ) -> Option<(Asked, Option<Secret<String>>)> {
        // What is known of whom a proxy comes for is known of this request alone.
        let is_forwarded = self.connections[key.slot as usize]
            .session
            .peer
            .is_forwarded;
        let http = HttpReply {
            keep_alive: head.keeps_connection() && !is_forwarded,
            origin: allowed_origin(head, &self.options.web).map(Into::into),
        };
        if head.method == "OPTIONS" {
            self.write_answer(key, &http, Status::NoContent, response::write_preflight);
            return None;
        }
        let (request, token) = match api::read(name, head, body) {
            Ok(asked) => asked,
            Err(refused) => {
                self.metrics.error(refused.code);
                let reply = Reply::error(refused.code, refused.words);
                self.write_answer(key, &http, refused.status, |http, out| {
                    response::write_reply(refused.status, &reply, http, out);
                });
                return None;
            }
        };
        let session = &mut self.connections[key.slot as usize].session;
        session.device = Some(DEVICE.into());
        // What is pulled is confirmed by nothing but `ack`.
        session.ack_mode = AckMode::Manual;
        let (verb, tag) = (request.verb(), request.tag());
        let token = token.filter(|_| !opens_session(verb));
        let command = self.may_ask(verb, token.is_some()).and_then(|()| {
            let command = request.command(Dialect::Colon, self.options.judge);
            command.map_err(|bad| Reply::error(ErrorCode::BadArgument, bad.0))
        });
        let to = ReplyTo::Http(http);
        let reply = match command.map(Call::of) {
            Ok(Ok(call)) => {
                let asked = Asked {
                    tag,
                    to,
                    verb,
                    call,
                    started_us: self.now.monotonic_us,
                };
                return Some((asked, token));
            }
            Ok(Err(command)) => self.answer(key, command),
            Err(reply) => reply,
        };
        self.metrics
            .command(verb, !matches!(reply, Reply::Error { .. }));
        self.reply(key.slot, tag.as_ref(), &to, &reply);
        None
    }

    /// Whether somebody with or without a token may ask for `verb` now.
    fn may_ask(&self, verb: Verb, has_token: bool) -> Result<(), Reply> {
        if self.draining {
            let words = "the gateway is going down";
            return Err(Reply::error(ErrorCode::ShuttingDown, words));
        }
        if has_token || verb.allowed_before_login() {
            return Ok(());
        }
        let words = "say who asks: Authorization: Bearer";
        Err(Reply::error(ErrorCode::NotLoggedIn, words))
    }

    /// Answers a command that came over HTTP.
    pub(super) fn answer_http(&mut self, key: ConnectionKey, http: &HttpReply, reply: &Reply) {
        let page = self.connections[key.slot as usize].page.take();
        match (reply, page) {
            (Reply::PullDone { more, .. }, Some(page)) => {
                self.write_answer(key, http, Status::Ok, |http, out| {
                    response::write_pulled(&page.messages, page.count, *more, http, out);
                });
            }
            _ => {
                let status = match reply {
                    Reply::Error { code, .. } => Status::of(*code),
                    _ => Status::Ok,
                };
                self.write_answer(key, http, status, |http, out| {
                    response::write_reply(status, reply, http, out);
                });
            }
        }
    }

    /// Has `write` write an answer. Then the connection ends, or waits for the next request.
    fn write_answer(
        &mut self,
        key: ConnectionKey,
        http: &HttpReply,
        status: Status,
        write: impl FnOnce(&HttpReply, &mut Vec<u8>),
    ) {
        self.metrics.http_response(status);
        let deadline_ms = self.now_ms() + self.options.login_timeout_ms;
        let connection = &mut self.connections[key.slot as usize];
        let before = connection.outbox.end();
        write(http, connection.outbox.bytes(&mut self.pool));
        let length = (connection.outbox.end() - before) as usize;
        connection.outbox.asked_for(length, &mut self.pool);
        self.mark_dirty(key.slot);
        if http.keep_alive {
            self.connections[key.slot as usize].session.deadline_ms = deadline_ms;
            self.arm(key, deadline_ms);
        } else {
            self.end(key, CloseReason::Quit);
        }
    }
}

/// Whether the command begins a session, whoever asks.
fn opens_session(verb: Verb) -> bool {
    matches!(verb, Verb::Register | Verb::Login)
}
