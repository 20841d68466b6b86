//! The WebSocket codec against the cases of the Autobahn test suite, which the Python package
//! `kosoku` brings and runs. They want a server that sends back what it gets: the codec and the
//! handshake are the gateway's, the loop around them is this test's own.

#[path = "support/python.rs"]
mod python;

use std::{
    io::{self, ErrorKind, Read, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    process::Command,
    thread,
};

use im_gateway::protocol::{
    http::{
        head::read_head,
        upgrade::{WebRules, handshake},
    },
    websocket::{Frame, Opcode, frame, read_frame, write_close, write_control},
};

/// The longest message of any case is 16 MiB.
const MESSAGE_MAX_BYTES: usize = 16 << 20;

/// A connection with what was read of it and not taken.
struct Connection {
    stream: TcpStream,
    input: Vec<u8>,
}

impl Connection {
    fn read_more(&mut self) -> io::Result<()> {
        let mut chunk = vec![0; 65536];
        match self.stream.read(&mut chunk)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            length => {
                self.input.extend_from_slice(&chunk[..length]);
                Ok(())
            }
        }
    }

    fn shake_hands(&mut self) -> io::Result<()> {
        let rules = WebRules {
            paths: vec!["/".to_owned()],
            ..WebRules::default()
        };
        loop {
            if let Some((head, consumed)) = read_head(&self.input).expect("a head") {
                let answer = handshake(&head, &rules).expect("a handshake").answer();
                self.input.drain(..consumed);
                return self.stream.write_all(answer.as_bytes());
            }
            self.read_more()?;
        }
    }

    /// Sends back each message until the peer closes, or sends what no peer may.
    fn echo(mut self) -> io::Result<()> {
        self.shake_hands()?;
        let (mut assembly, mut scratch, mut out) = (None, Vec::new(), Vec::new());
        loop {
            out.clear();
            let read = read_frame(&self.input, MESSAGE_MAX_BYTES, &mut assembly, &mut scratch);
            let (consumed, is_last) = match read {
                Ok(None) => {
                    self.read_more()?;
                    continue;
                }
                Ok(Some((got, consumed))) => {
                    answer(got, &mut out);
                    (consumed, matches!(got, Frame::Close(_)))
                }
                Err(error) => {
                    write_close(error.code(), error.words(), &mut out);
                    (self.input.len(), true)
                }
            };
            self.input.drain(..consumed);
            self.stream.write_all(&out)?;
            if is_last {
                self.stream.shutdown(Shutdown::Write)?;
                // Closed with unread bytes, it would be reset, and the peer lose what was said.
                return io::copy(&mut self.stream, &mut io::sink()).map(|_| ());
            }
        }
    }
}

fn answer(got: Frame<'_>, out: &mut Vec<u8>) {
    match got {
        Frame::Text(text) => {
            out.extend_from_slice(text.as_bytes());
            frame(Opcode::Text, 0, out);
        }
        Frame::Binary(bytes) => {
            out.extend_from_slice(bytes);
            frame(Opcode::Binary, 0, out);
        }
        Frame::Ping(bytes) => write_control(Opcode::Pong, bytes, out),
        Frame::Close(_) => write_close(1000, "", out),
        Frame::Nothing => {}
    }
}

/// A server for as long as the test runs.
fn start() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("an address");
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let connection = Connection {
                stream,
                input: Vec::new(),
            };
            // The cases that break a connection off are those that end with an error here.
            thread::spawn(move || connection.echo());
        }
    });
    address
}

/// Runs these cases and asserts that all of them pass.
fn pass(cases: &[&str]) {
    let packages = python::packages("kosoku", "kosoku==0.1.0", "kosoku");
    let reports = tempfile::tempdir().expect("a folder");
    let mut kosoku = Command::new("python3");
    kosoku
        .args(["-c", "from kosoku._cli import main; main()"])
        .args(["-p", "2", "-o"])
        .arg(reports.path())
        .env("PYTHONPATH", packages);
    for case in cases {
        kosoku.args(["-i", case]);
    }
    let output = kosoku.arg(start().to_string()).output().expect("it starts");
    let said = String::from_utf8_lossy(&output.stdout);
    println!("{said}");
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}{errors}");
    assert!(said.contains(" cases passed"), "{said}{errors}");
}

#[test]
fn frames_pings_fragments_and_closes_are_as_the_suite_wants_them() {
    pass(&["1.*", "2.*", "3.*", "4.*", "5.*", "7.*", "10.*"]);
}

#[test]
fn text_is_utf_8_as_the_suite_wants_it() {
    pass(&["6.*"]);
}

/// Messages of up to 16 MiB, in many sizes of pieces.
#[test]
#[ignore = "longer than all others; scripts/conformance runs it"]
fn the_largest_messages_come_back() {
    pass(&["9.*"]);
}
