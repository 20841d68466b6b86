//! A WebSocket client, written apart from the gateway's own codec.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};
use socket2::SockRef;

use super::DEADLINE;
use super::client::password_of;
use super::http::{self, Response};

/// First bytes of whole frames.
pub const TEXT: u8 = 0x81;
/// Bytes.
pub const BINARY: u8 = 0x82;
/// A ping.
pub const PING: u8 = 0x89;
const PONG: u8 = 0x8a;
const CLOSE: u8 = 0x88;

const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];

/// A frame of the gateway.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame {
    /// A text.
    Text(String),
    /// Bytes.
    Binary(Vec<u8>),
    /// The answer to a ping.
    Pong(Vec<u8>),
    /// The end, and its code.
    Close(u16),
}

/// One connection after its handshake.
pub struct WebSocket {
    stream: TcpStream,
    unread: Vec<u8>,
    pushes: VecDeque<Value>,
    last_id: u64,
    /// What answered the handshake, headers included.
    pub answer: String,
    /// The user logged in here.
    pub uid: u64,
    /// The token that login answered.
    pub token: String,
}

/// A masked frame, as a client writes it.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![first];
    match payload.len() {
        short @ ..126 => bytes.push(0x80 | short as u8),
        long @ 126..0x1_0000 => {
            bytes.push(0x80 | 126);
            bytes.extend((long as u16).to_be_bytes());
        }
        longer => {
            bytes.push(0x80 | 127);
            bytes.extend((longer as u64).to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes.extend(payload.iter().zip(MASK.iter().cycle()).map(|(b, m)| b ^ m));
    bytes
}

impl WebSocket {
    /// Shakes hands at `/ws` without saying anything further.
    #[track_caller]
    pub fn connect(address: SocketAddr) -> Self {
        Self::open(address, "/ws", &[])
    }

    /// The same with parameters or headers.
    #[track_caller]
    pub fn open(address: SocketAddr, target: &str, headers: &[(&str, &str)]) -> Self {
        match Self::try_open(address, target, headers) {
            Ok(socket) => socket,
            Err(refused) => panic!("the handshake was refused: {refused:?}"),
        }
    }

    /// The same where it may be refused.
    pub fn try_open(
        address: SocketAddr,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Response> {
        let stream = TcpStream::connect(address).expect("connect");
        Self::try_open_over(stream, address, target, headers)
    }

    /// The same over a connection that is there.
    pub fn try_open_over(
        mut stream: TcpStream,
        address: SocketAddr,
        target: &str,
        headers: &[(&str, &str)],
    ) -> Result<Self, Response> {
        stream.set_nodelay(true).expect("nodelay");
        stream.set_read_timeout(Some(DEADLINE)).expect("timeout");
        let mut request = format!(
            "GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: Upgrade\r\n\
             Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        );
        for (name, value) in headers {
            request += &format!("{name}: {value}\r\n");
        }
        request += "\r\n";
        stream.write_all(request.as_bytes()).expect("write");
        let mut socket = Self {
            stream,
            unread: Vec::new(),
            pushes: VecDeque::new(),
            last_id: 0,
            answer: String::new(),
            uid: 0,
            token: String::new(),
        };
        let end = loop {
            if let Some(end) = memchr::memmem::find(&socket.unread, b"\r\n\r\n") {
                break end + 4;
            }
            assert!(socket.read_more(), "closed before an answer");
        };
        socket.answer = String::from_utf8_lossy(&socket.unread[..end]).into_owned();
        if !socket.answer.starts_with("HTTP/1.1 101 ") {
            while socket.read_more() {}
            return Err(http::parse(&socket.unread).expect("an answer"));
        }
        assert!(
            socket.answer.contains("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="),
            "{}",
            socket.answer
        );
        socket.unread.drain(..end);
        Ok(socket)
    }

    /// Reads once; false: the gateway has closed.
    #[track_caller]
    fn read_more(&mut self) -> bool {
        let mut chunk = [0; 65536];
        match self.stream.read(&mut chunk) {
            Ok(0) => false,
            Ok(length) => {
                self.unread.extend_from_slice(&chunk[..length]);
                true
            }
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut => {
                    panic!("nothing came within {DEADLINE:?}")
                }
                _ => false,
            },
        }
    }

    /// The kernel keeps little for this connection, so that a reader who stops is noticed soon.
    pub fn shrink_receive_buffer(&self) {
        SockRef::from(&self.stream)
            .set_recv_buffer_size(4096)
            .expect("receive buffer");
    }

    /// The connection without what reads it.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }

    /// All bytes until the gateway closes; nothing is answered.
    #[track_caller]
    pub fn bytes_until_closed(&mut self) -> Vec<u8> {
        while self.read_more() {}
        std::mem::take(&mut self.unread)
    }

    /// Sends bytes as they are.
    #[track_caller]
    pub fn send_bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("send");
    }

    /// Sends a frame.
    #[track_caller]
    pub fn send_frame(&mut self, first: u8, payload: &[u8]) {
        self.send_bytes(&frame(first, payload));
    }

    /// Sends a text frame.
    #[track_caller]
    pub fn send(&mut self, text: &str) {
        self.send_frame(TEXT, text.as_bytes());
    }

    /// The next frame but for pings, which are answered; `None`: the connection has ended.
    #[track_caller]
    pub fn frame(&mut self) -> Option<Frame> {
        loop {
            let Some((first, payload)) = self.cut() else {
                if self.read_more() {
                    continue;
                }
                assert!(self.unread.is_empty(), "it ends within a frame");
                return None;
            };
            match first {
                TEXT => {
                    return Some(Frame::Text(String::from_utf8(payload).expect("UTF-8")));
                }
                BINARY => return Some(Frame::Binary(payload)),
                PING => self.send_frame(PONG, &payload),
                PONG => return Some(Frame::Pong(payload)),
                CLOSE => {
                    let code = payload.first_chunk().expect("a code");
                    return Some(Frame::Close(u16::from_be_bytes(*code)));
                }
                first => panic!("a frame that begins with {first:#x}"),
            }
        }
    }

    /// Takes a whole frame off what was read.
    fn cut(&mut self) -> Option<(u8, Vec<u8>)> {
        let [first, short] = *self.unread.first_chunk()?;
        let (head, length) = match short {
            126 => (
                4,
                u64::from(u16::from_be_bytes(*self.unread[2..].first_chunk()?)),
            ),
            127 => (10, u64::from_be_bytes(*self.unread[2..].first_chunk()?)),
            short => (2, u64::from(short)),
        };
        assert!(short & 0x80 == 0, "a server masks nothing");
        let payload = self.unread.get(head..head + length as usize)?.to_vec();
        self.unread.drain(..head + payload.len());
        Some((first, payload))
    }

    /// The next text.
    #[track_caller]
    pub fn text(&mut self) -> String {
        match self.frame() {
            Some(Frame::Text(text)) => text,
            other => panic!("a text was expected, this came: {other:?}"),
        }
    }

    /// The next text, which is JSON.
    #[track_caller]
    fn object(&mut self) -> Value {
        let text = self.text();
        match serde_json::from_str(&text) {
            Ok(object) => object,
            Err(error) => panic!("{error}: {text}"),
        }
    }

    /// Sends a JSON request; its reply as it came. Pushes before it are kept.
    #[track_caller]
    pub fn request(&mut self, kind: &str, data: Value) -> Value {
        self.last_id += 1;
        self.send(&json!({"id": self.last_id, "type": kind, "data": data}).to_string());
        loop {
            let object = self.object();
            if object.get("id").is_none() {
                self.pushes.push_back(object);
                continue;
            }
            assert_eq!(object["id"], self.last_id, "{object}");
            return object;
        }
    }

    /// The data of the reply to a JSON request that succeeds.
    #[track_caller]
    pub fn ask(&mut self, kind: &str, data: Value) -> Value {
        let mut reply = self.request(kind, data);
        assert_eq!(reply["type"], "ok", "{kind}: {reply}");
        reply["data"].take()
    }

    /// The next push, waiting for it if need be.
    #[track_caller]
    pub fn push(&mut self) -> Value {
        let push = self.pushes.pop_front();
        push.unwrap_or_else(|| {
            let object = self.object();
            assert!(object.get("id").is_none(), "no push: {object}");
            object
        })
    }

    /// Asserts that whatever was on its way has come and that there was no push in it.
    #[track_caller]
    pub fn assert_no_push(&mut self) {
        self.ask("ping", json!({}));
        assert!(self.pushes.is_empty(), "unexpected: {:?}", self.pushes);
    }

    /// Creates an account and remembers who it is.
    #[track_caller]
    pub fn register(&mut self, name: &str) -> u64 {
        self.enter("register", name)
    }

    /// Logs in with the password.
    #[track_caller]
    pub fn login(&mut self, name: &str) -> u64 {
        self.enter("login", name)
    }

    #[track_caller]
    fn enter(&mut self, kind: &str, name: &str) -> u64 {
        let data = self.ask(kind, json!({"user": name, "password": password_of(name)}));
        self.uid = data["uid"].as_u64().expect("a number");
        self.token = data["token"].as_str().expect("a token").to_owned();
        self.uid
    }

    /// The texts until the close frame, its code, and nothing behind it.
    #[track_caller]
    pub fn texts_until_closed(&mut self) -> (Vec<String>, u16) {
        let mut texts = Vec::new();
        loop {
            match self.frame() {
                Some(Frame::Text(text)) => texts.push(text),
                Some(Frame::Pong(_)) => {}
                Some(Frame::Close(code)) => {
                    assert_eq!(self.frame(), None, "nothing follows a close frame");
                    return (texts, code);
                }
                Some(Frame::Binary(_)) => panic!("bytes among the texts: {texts:?}"),
                None => panic!("no close frame; before the end: {texts:?}"),
            }
        }
    }

    /// Asserts that the connection ends with a kick for this reason and this code.
    #[track_caller]
    pub fn assert_kicked(&mut self, reason: &str, code: u16) {
        let (texts, closed_with) = self.texts_until_closed();
        let last = texts.last().map(|text| serde_json::from_str::<Value>(text));
        let kick = json!({"type": "kick", "data": {"reason": reason}});
        assert_eq!(last.expect("a kick").expect("JSON"), kick, "{texts:?}");
        assert_eq!(closed_with, code);
    }
}
