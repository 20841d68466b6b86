//! What the header of a protobuf request says of its connection, before anybody is logged in on it:
//! the device, and the token that logs it in.
//!
//! Owns the way from such a request to its login and back. While the login is under way the
//! request stays the first of the connection's input; it is taken up once the token was good, and
//! is answered and dropped where it was not.

use super::Shard;
use crate::{
    base::{id::ConnectionKey, secret::Secret},
    protocol::{
        codec::Partial,
        protobuf::request::ProtobufRequest,
        reply::Reply,
        request::{HeaderLogin, ReplyTo},
    },
    session::job::Asked,
};

impl Shard {
    /// The login that `request` of `length` bytes needs first, if its connection has none and it
    /// brings a token. Takes its device for that of the login which it is or needs.
    pub(super) fn header_login(
        &mut self,
        key: ConnectionKey,
        request: &ProtobufRequest,
        length: usize,
    ) -> Option<Asked> {
        let session = &mut self.connections[key.slot as usize].session;
        if session.login().is_some() || self.draining {
            return None;
        }
        if let Some(device) = request.device() {
            session.device = Some(device.into());
        }
        let token = request.token()?;
        let to = ReplyTo::HeaderLogin(Box::new(HeaderLogin {
            answer: request.answer(),
            length,
        }));
        let token = Secret::new((*token.expose()).to_owned());
        Some(self.login_for(to, token, None))
    }

    /// The login that a request needed was answered.
    pub(super) fn complete_header_login(
        &mut self,
        key: ConnectionKey,
        login: &HeaderLogin,
        reply: &Reply,
    ) {
        if let Reply::Error { .. } = reply {
            let connection = &mut self.connections[key.slot as usize];
            connection.partial = Partial::default();
            connection.handled += login.length;
            assert!(
                connection.handled <= connection.input.len(),
                "the request is the first of the input"
            );
            self.message_handled(key, login.length);
            let to = ReplyTo::Protobuf(Box::new(login.answer.clone()));
            self.reply(key.slot, None, &to, reply);
        }
    }
}
