//! A connection that begins with HTTP: its handshake, and what it is answered where it asks for
//! something else.
//!
//! Owns the way from a request's head to a WebSocket. A handshake that brings a token is answered
//! once the login is: until then the connection is busy, as with any command.

use super::Shard;
use crate::{
    base::{close::CloseReason, id::ConnectionKey, secret::Secret},
    protocol::{
        codec::{Carrier, Codec, Form},
        command::AckMode,
        error_code::ErrorCode,
        http::{
            api,
            asset::Asset,
            events,
            head::Head,
            response::{self, Status},
            upgrade::{Handshake, handshake},
        },
        reply::Reply,
        request::{ReplyTo, Upgrade},
    },
    session::job::Asked,
};

/// The letters of a device's name that the gateway makes up.
const DEVICE_LETTERS: usize = 4;

impl Shard {
    /// Does what an HTTP request asks for, or gives what a service has to do, and the token it is
    /// asked by.
    pub(super) fn take_up_http(
        &mut self,
        key: ConnectionKey,
        head: &Head<'_>,
        body: &[u8],
    ) -> Option<(Asked, Option<Secret<String>>)> {
        match api::command_of(head) {
            Some(events::NAME) => self.take_up_events(key, head).map(|asked| (asked, None)),
            Some(name) => self.take_up_api(key, name, (head, body)),
            None => self.take_up_head(key, head).map(|asked| (asked, None)),
        }
    }

    /// Does what a request's head asks for, or gives the login that it needs first.
    fn take_up_head(&mut self, key: ConnectionKey, head: &Head<'_>) -> Option<Asked> {
        if head.path == "/health" {
            if head.method != "GET" {
                let words = "health is asked for with GET";
                self.refuse_head(key, Status::MethodNotAllowed, ErrorCode::BadRequest, words);
                return None;
            }
            let (status, body) = match self.draining {
                false => (Status::Ok, r#"{"status":"ok"}"#),
                true => (Status::Unavailable, r#"{"status":"shutting_down"}"#),
            };
            self.respond(key, status, |out| response::write(status, body, out));
            return None;
        }
        if self.options.web.has_page
            && let Some(asset) = Asset::at(head.path)
        {
            self.show_page(key, head, asset);
            return None;
        }
        match handshake(head, &self.options.web) {
            Ok(_) if self.draining => {
                self.refuse_while_draining(key);
                None
            }
            Ok(handshake) => self.begin_handshake(key, handshake),
            Err((status, words)) => {
                self.refuse_head(key, status, code_of(status), words);
                None
            }
        }
    }

    /// Answers with a file of the chat page.
    fn show_page(&mut self, key: ConnectionKey, head: &Head<'_>, asset: &'static Asset) {
        if head.method != "GET" {
            let words = "the page is asked for with GET";
            self.refuse_head(key, Status::MethodNotAllowed, ErrorCode::BadRequest, words);
            return;
        }
        self.respond(key, Status::Ok, |out| out.extend(asset.head().bytes()));
        let connection = &mut self.connections[key.slot as usize];
        let body = asset.body.as_bytes();
        connection.outbox.end_with(body, &mut self.pool);
    }

    fn begin_handshake(&mut self, key: ConnectionKey, handshake: Handshake) -> Option<Asked> {
        let upgrade = Upgrade {
            answer: handshake.answer(),
            codec: handshake.form().map(Codec::WebSocket),
        };
        self.set_device(key, handshake.device, handshake.ack_mode);
        let Some(token) = handshake.token else {
            self.upgrade(key, &upgrade);
            return None;
        };
        let to = ReplyTo::Upgrade(Box::new(upgrade));
        Some(self.login_for(to, token, None))
    }

    /// Does what is to be done for a client that wants pushes over HTTP: gives its login.
    pub(super) fn take_up_events(&mut self, key: ConnectionKey, head: &Head<'_>) -> Option<Asked> {
        match events::subscription(head, &self.options.web) {
            Ok(_) if self.draining => {
                self.refuse_while_draining(key);
                None
            }
            Ok(subscription) => {
                self.set_device(key, subscription.device, subscription.ack_mode);
                let upgrade = Upgrade {
                    answer: subscription.answer,
                    codec: Some(Codec::Events),
                };
                let to = ReplyTo::Upgrade(Box::new(upgrade));
                Some(self.login_for(to, subscription.token, subscription.last_event))
            }
            Err((status, words)) => {
                self.refuse_head(key, status, code_of(status), words);
                None
            }
        }
    }

    fn refuse_while_draining(&mut self, key: ConnectionKey) {
        let words = "the gateway is going down";
        self.refuse_head(key, Status::Unavailable, ErrorCode::ShuttingDown, words);
    }

    /// The device of the connection is called so, or has a name of its own.
    fn set_device(&mut self, key: ConnectionKey, device: Option<String>, ack_mode: AckMode) {
        let device = device.unwrap_or_else(|| self.device_name());
        let session = &mut self.connections[key.slot as usize].session;
        session.device = Some(device.into());
        session.ack_mode = ack_mode;
    }

    /// A name of its own, so that two pages of one user do not displace each other.
    fn device_name(&mut self) -> String {
        let mut number = self.next_session_id();
        let letters = (0..DEVICE_LETTERS).map(|_| {
            let letter = b'a' + (number % 26) as u8;
            number /= 26;
            char::from(letter)
        });
        "web-".chars().chain(letters).collect()
    }

    /// The login that a handshake needed was answered.
    pub(super) fn complete_upgrade(
        &mut self,
        key: ConnectionKey,
        upgrade: &Upgrade,
        reply: &Reply,
    ) {
        match reply {
            Reply::Error { code, words, .. } => {
                self.refuse_head(key, Status::of(*code), *code, words);
            }
            _ => self.upgrade(key, upgrade),
        }
    }

    /// From here on the connection is a WebSocket, or brings events.
    fn upgrade(&mut self, key: ConnectionKey, upgrade: &Upgrade) {
        let now_ms = self.now_ms();
        let ping_interval_ms = self.options.ping_interval_ms;
        let connection = &mut self.connections[key.slot as usize];
        assert_eq!(
            connection.codec,
            Codec::Http,
            "a connection is upgraded once"
        );
        let out = connection.outbox.bytes(&mut self.pool);
        out.extend_from_slice(upgrade.answer.as_bytes());
        let codec = upgrade.codec.unwrap_or(Codec::WebSocket(Form::Json));
        connection.codec = codec;
        connection.has_form = upgrade.codec.is_some();
        self.metrics.connections(Carrier::Http).dec();
        self.metrics.connections(codec.carrier()).inc();
        self.metrics.http_response(match codec {
            Codec::WebSocket(_) => Status::SwitchingProtocols,
            _ => Status::Ok,
        });
        self.mark_dirty(key.slot);
        self.arm(key, now_ms + ping_interval_ms);
    }

    /// What came is no request that could be read further.
    pub(super) fn refuse_bad_head(&mut self, key: ConnectionKey, status: Status) {
        let (code, words) = match status {
            Status::BodyTooLong => (ErrorCode::LineTooLong, "the body is too long"),
            Status::HeadTooLong => (ErrorCode::BadRequest, "the head is too long"),
            _ => (
                ErrorCode::BadRequest,
                "this is not a request of HTTP/1.1 with a length",
            ),
        };
        self.refuse_head(key, status, code, words);
    }

    fn refuse_head(&mut self, key: ConnectionKey, status: Status, code: ErrorCode, words: &str) {
        self.metrics.error(code);
        if matches!(status, Status::BadRequest | Status::HeadTooLong) {
            self.metrics.protocol_errors_total.inc();
        }
        self.respond(key, status, |out| {
            response::write_error(status, code, words, out);
        });
    }

    /// Answers, and closes.
    fn respond(&mut self, key: ConnectionKey, status: Status, write: impl FnOnce(&mut Vec<u8>)) {
        self.metrics.http_response(status);
        let connection = &mut self.connections[key.slot as usize];
        write(connection.outbox.bytes(&mut self.pool));
        self.mark_dirty(key.slot);
        self.end(key, CloseReason::Quit);
    }
}

fn code_of(status: Status) -> ErrorCode {
    match status {
        Status::NotFound => ErrorCode::NotFound,
        Status::Unauthorized => ErrorCode::NotLoggedIn,
        Status::Forbidden => ErrorCode::Forbidden,
        _ => ErrorCode::BadRequest,
    }
}
