//! What must hold of any bytes at the web listener: heads of requests, handshakes, frames.

use im_gateway::protocol::{
    http::{
        head::read_head,
        response::Status,
        upgrade::{WebRules, handshake},
    },
    websocket::{Frame, FrameError, HEAD_BYTES_MAX, read_frame},
};

/// Any stream is the same messages whether it comes whole, byte by byte, or in pieces; none is over
/// its limit, and no more is kept than one message.
///
/// The first byte chooses the limit and the second the size of the pieces.
pub fn websocket(data: &[u8]) {
    let [limit, piece, stream @ ..] = data else {
        return;
    };
    let max_bytes = usize::from(*limit);
    let whole = messages_of(stream, stream.len().max(1), max_bytes);
    assert_eq!(whole, messages_of(stream, 1, max_bytes));
    assert_eq!(
        whole,
        messages_of(stream, usize::from(*piece) + 1, max_bytes)
    );
    for message in whole.0 {
        match message {
            Message::Text(text) => assert!(text.len() <= max_bytes),
            Message::Binary(bytes) => assert!(bytes.len() <= max_bytes),
            Message::Ping(bytes) => assert!(bytes.len() <= 125),
            Message::Close(code) => assert!((1000..5000).contains(&code)),
        }
    }
}

/// A frame that asks for something, owned.
#[derive(Debug, PartialEq, Eq)]
enum Message {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Close(u16),
}

/// The messages of `stream` that comes in pieces of `piece` bytes, and what it ended in that no
/// peer may send.
fn messages_of(
    stream: &[u8],
    piece: usize,
    max_bytes: usize,
) -> (Vec<Message>, Option<FrameError>) {
    let (mut messages, mut unread) = (Vec::new(), Vec::new());
    let (mut assembly, mut scratch) = (None, Vec::new());
    for arrived in stream.chunks(piece) {
        unread.extend_from_slice(arrived);
        loop {
            let consumed = match read_frame(&unread, max_bytes, &mut assembly, &mut scratch) {
                Ok(None) => break,
                Err(error) => return (messages, Some(error)),
                Ok(Some((frame, consumed))) => {
                    messages.extend(match frame {
                        Frame::Text(text) => Some(Message::Text(text.to_owned())),
                        Frame::Binary(bytes) => Some(Message::Binary(bytes.to_vec())),
                        Frame::Ping(bytes) => Some(Message::Ping(bytes.to_vec())),
                        Frame::Close(code) => Some(Message::Close(code)),
                        Frame::Nothing => None,
                    });
                    consumed
                }
            };
            unread.drain(..consumed);
        }
        let begun = assembly.as_ref().map_or(0, |begun| begun.held_bytes());
        // A control frame may come between the fragments of a message.
        let kept_max = max_bytes.max(125) + HEAD_BYTES_MAX;
        assert!(begun <= max_bytes && unread.len() < kept_max, "bounded");
    }
    (messages, None)
}

/// A head is whole when its end has come and not before, wherever it is cut; a handshake that is
/// answered says nothing that the client wrote but its subprotocol's name.
pub fn head(data: &[u8]) {
    let whole = read_head(data);
    if let Ok(Some((head, consumed))) = &whole {
        for cut in 0..*consumed {
            assert_eq!(read_head(&data[..cut]), Ok(None), "cut at {cut}");
        }
        let text = &data[..*consumed];
        let lines = text.split(|byte| *byte == b'\n');
        assert!(
            lines.rev().skip(1).all(|line| line.ends_with(b"\r")),
            "a bare LF"
        );
        let rules = WebRules {
            paths: vec!["/".to_owned()],
            ..WebRules::default()
        };
        match handshake(head, &rules) {
            Ok(handshake) => assert_eq!(
                handshake.answer().lines().count(),
                5 + usize::from(handshake.form().is_some())
            ),
            Err((status, _)) => assert_ne!(status, Status::Ok),
        }
    }
    if let Ok(None) = whole {
        assert!(data.len() < 8 * 1024, "it is known by then");
    }
}
