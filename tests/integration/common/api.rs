//! A client of the HTTP API, with one kept connection.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};

use super::http::{self, Response};
use super::{DEADLINE, client::password_of};

/// A kept connection, and who asks on it.
pub struct Api {
    stream: TcpStream,
    read: Vec<u8>,
    /// The token that goes with each request; empty: none does.
    pub token: String,
    /// Whose it is.
    pub uid: u64,
}

impl Api {
    /// A connection that nobody has said anything on.
    pub fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
        Self {
            stream,
            read: Vec::new(),
            token: String::new(),
            uid: 0,
        }
    }

    /// The same, with a new account.
    pub fn registered(address: SocketAddr, name: &str) -> Self {
        let mut api = Self::connect(address);
        api.enter("register", name);
        api
    }

    /// The same, with a session of an account that is there.
    pub fn logged_in(address: SocketAddr, name: &str) -> Self {
        let mut api = Self::connect(address);
        api.enter("login", name);
        api
    }

    fn enter(&mut self, command: &str, name: &str) {
        let data = self.ask(
            command,
            json!({"user": name, "password": password_of(name)}),
        );
        self.uid = data["uid"].as_u64().expect("a uid");
        self.token = data["token"].as_str().expect("a token").to_owned();
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).expect("sent");
    }

    /// Sends a request with more `headers`, each with its line end.
    pub fn request(&mut self, method: &str, target: &str, headers: &str, body: &str) {
        let bearer = match self.token.as_str() {
            "" => String::new(),
            token => format!("Authorization: Bearer {token}\r\n"),
        };
        let length = body.len();
        let head = format!(
            "{method} {target} HTTP/1.1\r\nHost: gateway\r\n{bearer}{headers}Content-Length: {length}\r\n\r\n"
        );
        self.send(&[head.as_bytes(), body.as_bytes()].concat());
    }

    /// The next answer.
    #[track_caller]
    pub fn response(&mut self) -> Response {
        loop {
            if let Some(length) = whole_length(&self.read) {
                let rest = self.read.split_off(length);
                let answer = std::mem::replace(&mut self.read, rest);
                return http::parse(&answer).expect("an answer");
            }
            assert!(self.read_on(), "the gateway closed: {:?}", self.read);
        }
    }

    /// Asserts that the gateway closes and sends nothing more.
    #[track_caller]
    pub fn assert_closed(&mut self) {
        assert!(!self.read_on(), "{}", String::from_utf8_lossy(&self.read));
    }

    fn read_on(&mut self) -> bool {
        let mut bytes = [0; 4096];
        let count = self.stream.read(&mut bytes).expect("an answer in time");
        self.read.extend(&bytes[..count]);
        count > 0
    }

    /// Asks for a command; its status and what the answer holds.
    #[track_caller]
    pub fn post(&mut self, command: &str, data: &Value) -> (u16, Value) {
        self.request("POST", &format!("/api/v1/{command}"), "", &data.to_string());
        let response = self.response();
        (response.status, body_of(&response))
    }

    /// Asks for a command that succeeds.
    #[track_caller]
    pub fn ask(&mut self, command: &str, data: Value) -> Value {
        let (status, answer) = self.post(command, &data);
        assert_eq!(status, 200, "{command} {data}: {answer}");
        answer
    }

    /// Asks with `GET`; its status and what the answer holds.
    #[track_caller]
    pub fn get(&mut self, target: &str) -> (u16, Value) {
        self.request("GET", &format!("/api/v1/{target}"), "", "");
        let response = self.response();
        (response.status, body_of(&response))
    }
}

/// The JSON of an answer.
pub fn body_of(response: &Response) -> Value {
    serde_json::from_str(&response.body).unwrap_or_else(|_| panic!("no JSON: {response:?}"))
}

/// The length of the answer that `bytes` begin with, once it is whole.
fn whole_length(bytes: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(bytes);
    let head = text.split_once("\r\n\r\n")?.0;
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("Content-Length: "))
        .map_or(0, |length| length.parse().expect("a length"));
    let whole = head.len() + 4 + length;
    (bytes.len() >= whole).then_some(whole)
}
