//! Requests, replies and pushes in envelopes: each command beside its line, each reply and each
//! push by what a client reads of it, and what is no envelope.

mod answers;
mod hostile;
mod requests;

use prost::{Message, Name};

use super::{
    envelope,
    messages::{
        base::{BaseRequest, BaseResponse, ImHeader},
        group::GroupActionResponse,
        message::{MessageBody, PullMessageRequest, SendMessageRequest},
    },
    request::{self, ProtobufRequest},
};

/// The header of a request of user 1.
fn header(cmd_id: u32) -> ImHeader {
    ImHeader {
        version: "1.0".into(),
        seq: 7,
        cmd_id,
        from_uid: "1".into(),
        token: "a.b.c".into(),
        ..ImHeader::default()
    }
}

/// A frame as a client writes it.
fn frame<M: Name>(header: &ImHeader, body: &M) -> Vec<u8> {
    let mut frame = Vec::new();
    envelope::write(header, body, &mut frame);
    frame
}

/// The request of a frame.
#[track_caller]
fn read(frame: &[u8]) -> ProtobufRequest {
    request::read(frame).unwrap_or_else(|bad| panic!("{bad:?}"))
}

/// The header and the body, an `M`, of a frame that was written.
#[track_caller]
fn written<M: Name + Default>(frame: &[u8]) -> (ImHeader, M) {
    let envelope = envelope::read(frame).expect("an envelope");
    assert!(envelope.is_of::<M>(), "{}", envelope.type_name);
    let body = M::decode(envelope.body).expect("of its type");
    (envelope.header, body)
}

/// A request with nothing but a header: its number, its token and its device.
pub(crate) fn bare_frame(cmd_id: u32, token: &str, device_id: &str) -> Vec<u8> {
    let header = ImHeader {
        token: token.into(),
        device_id: device_id.into(),
        ..header(cmd_id)
    };
    match cmd_id {
        2002 => frame(&header, &PullMessageRequest::default()),
        _ => frame(&header, &BaseRequest::default()),
    }
}

/// A request to send `text` to the user 42.
pub(crate) fn chat_frame(token: &str, text: &str) -> Vec<u8> {
    let header = ImHeader {
        token: token.into(),
        to_uid: "42".into(),
        ..header(2001)
    };
    let body = MessageBody {
        content: text.into(),
        ..MessageBody::default()
    };
    let request = SendMessageRequest {
        header: None,
        body: Some(body),
    };
    frame(&header, &request)
}

/// What a reply or a push says, as far as they all say it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) type_name: String,
    pub(crate) cmd_id: u32,
    pub(crate) seq: u32,
    /// Of a reply; 0: success.
    pub(crate) error_code: i32,
}

/// Reads what was written.
#[track_caller]
pub(crate) fn said(frame: &[u8]) -> Said {
    let envelope = envelope::read(frame).expect("an envelope");
    let base = match envelope.is_of::<BaseResponse>() {
        true => BaseResponse::decode(envelope.body).ok(),
        // The base of every response has the same place; a push has none there.
        false => GroupActionResponse::decode(envelope.body).map_or(None, |response| response.base),
    };
    Said {
        type_name: envelope.type_name.to_owned(),
        cmd_id: envelope.header.cmd_id,
        seq: envelope.header.seq,
        error_code: base.map_or(0, |base| base.error_code),
    }
}

/// A base that says nothing but success.
fn success() -> Option<BaseResponse> {
    Some(BaseResponse::default())
}
