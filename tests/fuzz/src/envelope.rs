//! What must hold of any bytes in a binary frame.

use im_gateway::protocol::{
    codec::{Codec, Form},
    command::{Dialect, Judge},
    error_code::ErrorCode,
    protobuf::request,
    reply::Reply,
    request::{BadRequest, ReplyTo, Request},
    websocket::written_length,
};

use super::understood;

const CHECKSUM_BYTES: usize = 4;

/// Any bytes are an envelope with a command in it, whose arguments are within their bounds, or an
/// error; both are answered by one envelope in a binary frame.
///
/// The same is asked of the bytes with a checksum that is right: nothing else passes by it.
pub fn envelope(data: &[u8]) {
    read(data);
    let mut sealed = data[..data.len().saturating_sub(CHECKSUM_BYTES)].to_vec();
    let checksum = crc32fast::hash(&sealed);
    sealed.extend(checksum.to_le_bytes());
    read(&sealed);
}

fn read(frame: &[u8]) {
    let request = match request::read(frame) {
        Ok(request) => Request::Protobuf(Box::new(request)),
        Err(BadRequest {
            tag,
            to,
            code,
            words,
        }) => {
            assert!(matches!(
                code,
                ErrorCode::BadRequest | ErrorCode::Unsupported
            ));
            assert_eq!(tag, None, "what is stored has one");
            return answered(&to.expect("its own form"), &Reply::error(code, words), 0);
        }
    };
    let to = request.reply_to(Dialect::Colon);
    match request.command(Dialect::Colon, Judge::Gateway) {
        Err(bad) => {
            let reply = Reply::error(ErrorCode::BadArgument, bad.0);
            answered(&to, &reply, frame.len());
        }
        Ok(command) => {
            understood(&command, frame.len());
            let reply = Reply::Stored {
                group: false,
                message_id: 1,
                duplicate: false,
            };
            answered(&to, &reply, frame.len());
        }
    }
    // Its arguments are not shown: one may be a password.
    assert!(format!("{request:?}").len() < 100);
}

/// The answer is one whole frame with a right checksum, little longer than what it answers.
fn answered(to: &ReplyTo, reply: &Reply, request_bytes: usize) {
    let mut out = Vec::new();
    Codec::WebSocket(Form::Protobuf).write_reply(reply, None, to, &mut out);
    assert_eq!(out[0], 0x82, "a binary frame");
    assert_eq!(written_length(&out), Some(out.len()));
    let (rest, checksum) = out.split_last_chunk().expect("a checksum");
    let head_bytes = match out[1] {
        126 => 4,
        127 => 10,
        _ => 2,
    };
    assert_eq!(
        crc32fast::hash(&rest[head_bytes..]),
        u32::from_le_bytes(*checksum)
    );
    assert!(request_bytes == 0 || out.len() < request_bytes + 512);
}
