//! A client of protobuf frames, written apart from the gateway's own codec: messages are fields by
//! number, and the checksum is computed bit by bit.

use std::collections::VecDeque;

use super::Gateway;
use super::client::password_of;
use super::websocket::{BINARY, Frame, WebSocket};

/// Numbers from here on are pushes.
const PUSHES: u64 = 5000;

/// A message: its fields in their order, each text or message as bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields(Vec<(u64, Value)>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Number(u64),
    Bytes(Vec<u8>),
}

impl Fields {
    /// With a number more.
    pub fn number(mut self, field: u64, number: u64) -> Self {
        self.0.push((field, Value::Number(number)));
        self
    }

    /// With a text more.
    pub fn text(mut self, field: u64, text: &str) -> Self {
        self.0.push((field, Value::Bytes(text.into())));
        self
    }

    /// With a message more.
    pub fn message(mut self, field: u64, message: &Fields) -> Self {
        self.0.push((field, Value::Bytes(message.bytes())));
        self
    }

    /// The message on the wire.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (field, value) in &self.0 {
            match value {
                Value::Number(number) => {
                    varint(field << 3, &mut out);
                    varint(*number, &mut out);
                }
                Value::Bytes(bytes) => {
                    varint(field << 3 | 2, &mut out);
                    varint(bytes.len() as u64, &mut out);
                    out.extend_from_slice(bytes);
                }
            }
        }
        out
    }

    /// Reads a message.
    #[track_caller]
    fn read(mut bytes: &[u8]) -> Self {
        let mut fields = Vec::new();
        while !bytes.is_empty() {
            let key = take_varint(&mut bytes);
            let value = match key & 7 {
                0 => Value::Number(take_varint(&mut bytes)),
                2 => {
                    let length = take_varint(&mut bytes) as usize;
                    Value::Bytes(bytes.split_off(..length).expect("all of it").to_vec())
                }
                kind => panic!("a field of kind {kind}"),
            };
            fields.push((key >> 3, value));
        }
        Self(fields)
    }

    fn all(&self, field: u64) -> impl Iterator<Item = &Value> {
        let fields = self.0.iter().filter(move |(number, _)| *number == field);
        fields.map(|(_, value)| value)
    }

    /// A number; 0: it is not there.
    #[track_caller]
    pub fn get_number(&self, field: u64) -> u64 {
        match self.all(field).last() {
            None => 0,
            Some(Value::Number(number)) => *number,
            other => panic!("field {field} is {other:?}"),
        }
    }

    /// A text; empty: it is not there.
    #[track_caller]
    pub fn get_text(&self, field: u64) -> String {
        match self.all(field).last() {
            None => String::new(),
            Some(Value::Bytes(bytes)) => String::from_utf8(bytes.clone()).expect("a text"),
            other => panic!("field {field} is {other:?}"),
        }
    }

    /// The messages of a repeated field.
    #[track_caller]
    pub fn get_all(&self, field: u64) -> Vec<Fields> {
        let messages = self.all(field).map(|value| match value {
            Value::Bytes(bytes) => Self::read(bytes),
            other => panic!("field {field} is {other:?}"),
        });
        messages.collect()
    }

    /// A message that is there.
    #[track_caller]
    pub fn get(&self, field: u64) -> Fields {
        match self.get_all(field).pop() {
            Some(message) => message,
            None => panic!("there is no field {field} in {self:?}"),
        }
    }
}

fn varint(mut number: u64, out: &mut Vec<u8>) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

#[track_caller]
fn take_varint(bytes: &mut &[u8]) -> u64 {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = bytes.split_off_first().expect("more of a number");
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return number;
        }
    }
    panic!("a number without an end");
}

/// CRC-32 as IEEE 802.3 has it.
pub fn checksum(bytes: &[u8]) -> u32 {
    let mut rest = u32::MAX;
    for byte in bytes {
        rest ^= u32::from(*byte);
        for _ in 0..8 {
            rest = (rest >> 1) ^ (0xedb8_8320 & (rest & 1).wrapping_neg());
        }
    }
    !rest
}

/// What is in a frame.
#[derive(Clone, Debug)]
pub struct Envelope {
    /// Of which type the body is.
    pub type_name: String,
    /// The header.
    pub header: Fields,
    /// The body.
    pub body: Fields,
}

impl Envelope {
    /// The frame's payload.
    pub fn bytes(&self) -> Vec<u8> {
        let header = self.header.bytes();
        let mut bytes = Vec::new();
        varint(header.len() as u64, &mut bytes);
        varint(self.type_name.len() as u64, &mut bytes);
        bytes.extend(self.type_name.as_bytes());
        bytes.extend(header);
        bytes.extend(self.body.bytes());
        bytes.extend(checksum(&bytes).to_le_bytes());
        bytes
    }

    /// Takes a frame's payload apart.
    #[track_caller]
    pub fn read(payload: &[u8]) -> Self {
        let (mut rest, sum) = payload.split_last_chunk::<4>().expect("a checksum");
        assert_eq!(checksum(rest), u32::from_le_bytes(*sum), "a bad checksum");
        let header_length = take_varint(&mut rest) as usize;
        let name_length = take_varint(&mut rest) as usize;
        let (name, rest) = rest.split_at(name_length);
        let (header, body) = rest.split_at(header_length);
        Self {
            type_name: String::from_utf8(name.to_vec()).expect("a name"),
            header: Fields::read(header),
            body: Fields::read(body),
        }
    }

    /// The number in the header.
    pub fn cmd_id(&self) -> u64 {
        self.header.get_number(3)
    }

    /// The token in the header.
    pub fn token(&self) -> String {
        self.header.get_text(7)
    }

    /// The base of a response, which is what some replies are.
    #[track_caller]
    pub fn base(&self) -> Fields {
        match self.type_name.as_str() {
            "im.base.BaseResponse" => self.body.clone(),
            _ => self.body.get(1),
        }
    }

    /// Of a push: who sent it, what it says, and its number.
    pub fn message(&self) -> (u64, String, u64) {
        let body = self.body.get(2);
        let sender = self.header.get_text(4).parse().expect("a number");
        let id = body.get_text(4).parse().expect("a number");
        (sender, body.get_text(3), id)
    }
}

/// A connection whose requests are protobuf frames.
pub struct ProtobufClient {
    /// What carries them.
    pub socket: WebSocket,
    pushes: VecDeque<Envelope>,
    /// The header of every request, without its numbers and its receiver.
    header: Fields,
    seq: u64,
    /// The user logged in here.
    pub uid: u64,
    /// The token that login answered.
    pub token: String,
}

impl ProtobufClient {
    /// Shakes hands, with the subprotocol of the form.
    #[track_caller]
    pub fn connect(gateway: &Gateway) -> Self {
        Self::open(gateway, "/ws")
    }

    /// The same with parameters.
    #[track_caller]
    pub fn open(gateway: &Gateway, target: &str) -> Self {
        let protocol = [("Sec-WebSocket-Protocol", "im.pb")];
        let socket = WebSocket::open(gateway.web_address(), target, &protocol);
        assert!(
            socket.answer.contains("Sec-WebSocket-Protocol: im.pb\r\n"),
            "{}",
            socket.answer
        );
        Self {
            socket,
            pushes: VecDeque::new(),
            header: Fields::default().text(1, "1.0"),
            seq: 0,
            uid: 0,
            token: String::new(),
        }
    }

    /// Says a device and a token in every header from here on.
    pub fn with_header(mut self, device_id: &str, token: &str) -> Self {
        self.header = Fields::default().text(1, "1.0").text(8, device_id);
        if !token.is_empty() {
            self.header = self.header.text(7, token);
        }
        self
    }

    /// A request with the next number.
    pub fn envelope(&mut self, (cmd_id, to): (u64, &str), kind: &str, body: Fields) -> Envelope {
        self.seq += 1;
        let header = self.header.clone().number(2, self.seq).number(3, cmd_id);
        Envelope {
            type_name: format!("im.{kind}"),
            header: header.text(5, to).text(4, &self.uid.to_string()),
            body,
        }
    }

    /// Sends a frame.
    #[track_caller]
    pub fn send(&mut self, envelope: &Envelope) {
        self.socket.send_frame(BINARY, &envelope.bytes());
    }

    /// The next frame, which is an envelope.
    #[track_caller]
    pub fn receive(&mut self) -> Envelope {
        match self.socket.frame() {
            Some(Frame::Binary(payload)) => Envelope::read(&payload),
            other => panic!("an envelope was expected, this came: {other:?}"),
        }
    }

    /// The next reply. Pushes before it are kept.
    #[track_caller]
    pub fn reply(&mut self) -> Envelope {
        loop {
            let envelope = self.receive();
            if envelope.cmd_id() < PUSHES {
                return envelope;
            }
            self.pushes.push_back(envelope);
        }
    }

    /// The reply to a request to `to`, and that it is one to it.
    #[track_caller]
    pub fn request(&mut self, (cmd_id, to): (u64, &str), kind: &str, body: Fields) -> Envelope {
        let request = self.envelope((cmd_id, to), kind, body);
        self.send(&request);
        let reply = self.reply();
        let header = &reply.header;
        assert_eq!(header.get_number(2), self.seq, "{reply:?}");
        assert_eq!(header.get_text(4), to, "{reply:?}");
        assert_eq!(header.get_text(5), request.header.get_text(4), "{reply:?}");
        reply
    }

    /// The reply to a request without a receiver that succeeds with a response of type `answer`.
    #[track_caller]
    pub fn ask(&mut self, cmd_id: u64, kind: &str, body: Fields, answer: &str) -> Envelope {
        let reply = self.request((cmd_id, ""), kind, body);
        assert_eq!(reply.type_name, format!("im.{answer}"));
        let base = reply.base();
        assert_eq!(base.get_number(1), 0, "{}", base.get_text(2));
        reply
    }

    /// The error number and the words of a request without a receiver that fails.
    #[track_caller]
    pub fn refused(&mut self, cmd_id: u64, kind: &str, body: Fields) -> (u64, String) {
        let base = self.request((cmd_id, ""), kind, body).base();
        (base.get_number(1), base.get_text(2))
    }

    /// Creates an account and remembers who it is.
    #[track_caller]
    pub fn register(&mut self, name: &str) -> u64 {
        let request = Fields::default().text(9, name).text(5, &password_of(name));
        let reply = self.ask(
            1003,
            "user.RegisterRequest",
            request,
            "user.RegisterResponse",
        );
        self.entered(&reply)
    }

    /// Logs in with the password.
    #[track_caller]
    pub fn login(&mut self, name: &str) -> u64 {
        let request = Fields::default().text(3, name).text(6, &password_of(name));
        let reply = self.ask(1001, "user.LoginRequest", request, "user.LoginResponse");
        self.entered(&reply)
    }

    #[track_caller]
    fn entered(&mut self, reply: &Envelope) -> u64 {
        self.uid = reply.body.get(2).get_text(1).parse().expect("a number");
        self.token = reply.token();
        assert!(!self.token.is_empty(), "a login answers with a token");
        self.uid
    }

    /// Sends a text; the message as it was stored.
    #[track_caller]
    pub fn say(&mut self, to: &str, text: &str) -> Fields {
        let body = Fields::default().text(3, text);
        let request = Fields::default().message(2, &body);
        let reply = self.request((2001, to), "message.SendMessageRequest", request);
        assert_eq!(reply.type_name, "im.message.SendMessageResponse");
        assert_eq!(
            reply.base().get_number(1),
            0,
            "{}",
            reply.base().get_text(2)
        );
        reply.body.get(2)
    }

    /// The number of a text that is sent.
    #[track_caller]
    pub fn chat(&mut self, to: &str, text: &str) -> u64 {
        self.say(to, text).get_text(1).parse().expect("a number")
    }

    /// The next push, waiting for it if need be.
    #[track_caller]
    pub fn push(&mut self) -> Envelope {
        let push = self.pushes.pop_front();
        push.unwrap_or_else(|| {
            let envelope = self.receive();
            assert!(envelope.cmd_id() > PUSHES, "no push: {envelope:?}");
            envelope
        })
    }

    /// Asserts that whatever was on its way has come and that there was no push in it.
    #[track_caller]
    pub fn assert_no_push(&mut self) {
        let pong = self.ask(
            1,
            "base.BaseRequest",
            Fields::default(),
            "base.BaseResponse",
        );
        assert_eq!(pong.cmd_id(), 1);
        assert!(self.pushes.is_empty(), "unexpected: {:?}", self.pushes);
    }

    /// Asserts that the connection ends with a kick for this reason and this code.
    #[track_caller]
    pub fn assert_kicked(&mut self, reason: &str, code: u16) {
        let kick = self.push();
        assert_eq!(kick.cmd_id(), 5003);
        let content = kick.body.get(2).get_text(3);
        assert_eq!(content, format!(r#"{{"reason":"{reason}"}}"#));
        assert_eq!(self.socket.frame(), Some(Frame::Close(code)));
        assert_eq!(self.socket.frame(), None, "nothing follows a close frame");
    }
}
