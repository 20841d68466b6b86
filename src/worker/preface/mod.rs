//! What comes before a connection's first request: for whom a proxy passes it on, and by its first
//! bytes what carries it.
//!
//! ```text
//!   accepted ──► proxy header ──► first bytes ──► lines
//!        └─────────────────────►   ▲  │ │  └────► HTTP (a WebSocket begins so, too), by a trusted
//!                                  │  │ │         proxy once its head says for whom
//!                 (no proxies)     │  │ └───────► refused
//!                                  │  └─► TLS handshake
//!                                  └────────┘ (once)
//! ```
//!
//! Sans-IO: who owns the connection hands over all that was read of it and not taken, and does what
//! the answer says. Invariant: what was decided about some bytes stays whatever follows, so that it
//! does not matter in which pieces they come.

mod forwarded;
pub mod proxy;

use std::net::SocketAddr;

use self::{forwarded::Forwarded, proxy::Header};
use crate::{base::close::Misfit, limits::Exempt};

/// The methods of HTTP with the space behind them, and what HTTP/2 begins with.
const METHODS: [&[u8]; 10] = [
    b"GET ",
    b"HEAD ",
    b"POST ",
    b"PUT ",
    b"DELETE ",
    b"OPTIONS ",
    b"PATCH ",
    b"CONNECT ",
    b"TRACE ",
    b"PRI ",
];

/// The first byte of a TLS connection.
const TLS_HANDSHAKE: u8 = 0x16;

/// What is expected at a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// A proxy header before everything else.
    pub proxy: bool,
    /// TLS around what follows.
    pub tls: Security,
    /// Lines.
    pub lines: bool,
    /// HTTP.
    pub http: bool,
}

/// Whether connections come by TLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Security {
    /// None does.
    Off,
    /// Some do.
    Optional,
    /// All do.
    Required,
}

/// What carries a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// Lines.
    Lines,
    /// HTTP.
    Http,
}

/// What is to be done next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// More has to be read.
    Wait,
    /// A proxy has said for whom it comes, in a header of so many bytes that is to be taken away.
    Proxied {
        /// Its length; 0: it is part of the request.
        length: usize,
        /// Whose connection it is; `None`: the proxy's own.
        client: Option<SocketAddr>,
    },
    /// A TLS handshake is to begin; all that was not taken away is its beginning. Then the preface
    /// is [`Preface::secured`].
    Secure,
    /// It is known what carries it; all that was not taken away is its beginning.
    Known(Carrier),
    /// It is to be closed.
    Refused(Misfit),
}

/// Where a connection is before its first request.
#[derive(Clone, Copy, Debug)]
pub struct Preface {
    expected: Expected,
    is_handshaking: bool,
    /// It comes from a trusted proxy, whose requests may say for whom.
    may_be_forwarded: bool,
}

impl Preface {
    /// Of a connection that was just accepted.
    pub fn new(expected: Expected) -> Self {
        assert!(
            expected.lines || expected.http,
            "a listener carries something"
        );
        Self {
            expected,
            is_handshaking: false,
            may_be_forwarded: false,
        }
    }

    /// It comes from a trusted proxy: where it is HTTP, its head may say for whom.
    pub fn may_be_forwarded(&mut self) {
        self.may_be_forwarded = self.expected.http;
    }

    /// What is still expected.
    pub fn expected(&self) -> Expected {
        self.expected
    }

    /// Whether the header of a proxy is still to come.
    pub fn awaits_proxy(&self) -> bool {
        self.expected.proxy
    }

    /// The TLS handshake is over: what is read from now on was encrypted.
    pub fn secured(&mut self) {
        assert!(self.is_handshaking, "it was begun");
        self.is_handshaking = false;
        self.expected.tls = Security::Off;
    }

    /// What to do, after `bytes` have come and nothing of them was taken away; `trusted` are the
    /// proxies that are believed.
    pub fn step(&mut self, bytes: &[u8], trusted: &Exempt) -> Step {
        match self.step_unnamed(bytes) {
            Step::Known(carrier) if self.may_be_forwarded => {
                let client = match carrier {
                    Carrier::Lines => None,
                    Carrier::Http => match forwarded::read(bytes, trusted) {
                        Forwarded::Incomplete => return Step::Wait,
                        Forwarded::For(client) => client,
                    },
                };
                self.may_be_forwarded = false;
                Step::Proxied {
                    length: 0,
                    client: client.map(|ip| SocketAddr::new(ip, 0)),
                }
            }
            step => step,
        }
    }

    /// The same as if nobody could forward requests.
    fn step_unnamed(&mut self, bytes: &[u8]) -> Step {
        if self.expected.proxy {
            return match proxy::read(bytes) {
                Header::Incomplete => Step::Wait,
                Header::Malformed => Step::Refused(Misfit::MalformedProxy),
                Header::Complete { length, client } => {
                    self.expected.proxy = false;
                    Step::Proxied { length, client }
                }
            };
        }
        if self.is_handshaking {
            return Step::Wait;
        }
        if self.expected.tls != Security::Off {
            match bytes.first() {
                None => return Step::Wait,
                Some(&TLS_HANDSHAKE) => {
                    self.is_handshaking = true;
                    return Step::Secure;
                }
                Some(_) if self.expected.tls == Security::Required => {
                    return Step::Refused(Misfit::Plain);
                }
                Some(_) => {}
            }
        }
        match (self.expected.lines, self.expected.http) {
            (true, false) => Step::Known(Carrier::Lines),
            (lines, _) => match first_word(bytes) {
                None => Step::Wait,
                Some(Carrier::Lines) if !lines || bytes[0] == TLS_HANDSHAKE => {
                    Step::Refused(Misfit::Carrier)
                }
                Some(carrier) => Step::Known(carrier),
            },
        }
    }
}

/// What begins like this; `None`: that cannot be said yet.
fn first_word(bytes: &[u8]) -> Option<Carrier> {
    if METHODS.iter().any(|method| bytes.starts_with(method)) {
        Some(Carrier::Http)
    } else if METHODS.iter().any(|method| method.starts_with(bytes)) {
        None
    } else {
        Some(Carrier::Lines)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOTH: Expected = Expected {
        proxy: false,
        tls: Security::Off,
        lines: true,
        http: true,
    };

    /// What becomes of `bytes` that come in pieces of `size`: whose they are, and the end.
    fn run(expected: Expected, bytes: &[u8], size: usize) -> (Option<SocketAddr>, Step, Vec<u8>) {
        run_as(false, expected, bytes, size)
    }

    /// The same, from a trusted proxy or not.
    fn run_as(
        is_forwarded: bool,
        expected: Expected,
        bytes: &[u8],
        size: usize,
    ) -> (Option<SocketAddr>, Step, Vec<u8>) {
        let trusted = Exempt::new(Vec::new());
        let (mut preface, mut kept, mut client) = (Preface::new(expected), Vec::new(), None);
        if is_forwarded {
            preface.may_be_forwarded();
        }
        let mut pieces = bytes.chunks(size);
        loop {
            match preface.step(&kept, &trusted) {
                Step::Wait => match pieces.next() {
                    Some(piece) => kept.extend_from_slice(piece),
                    None => return (client, Step::Wait, kept),
                },
                Step::Proxied {
                    length,
                    client: named,
                } => {
                    client = named;
                    kept.drain(..length);
                }
                Step::Secure => {
                    // A handshake that takes nothing but its first byte.
                    assert_eq!(kept.remove(0), TLS_HANDSHAKE);
                    assert_eq!(preface.step(&kept, &trusted), Step::Wait);
                    preface.secured();
                }
                end => {
                    kept.extend(pieces.flatten());
                    return (client, end, kept);
                }
            }
        }
    }

    #[test]
    fn carriers_are_told_apart_by_their_first_bytes_wherever_those_are_split() {
        for (bytes, carrier) in [
            (&b"GET / HTTP/1.1\r\n"[..], Carrier::Http),
            (b"OPTIONS * HTTP/1.1\r\n", Carrier::Http),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Carrier::Http),
            (b"login:alice:secret\n", Carrier::Lines),
            (b"GETTER\n", Carrier::Lines),
            (b"PULL 7\n", Carrier::Lines),
            (b"\n", Carrier::Lines),
            (b"get / HTTP/1.1\r\n", Carrier::Lines),
        ] {
            for size in 1..=bytes.len() {
                let end = run(BOTH, bytes, size);
                assert_eq!(end, (None, Step::Known(carrier), bytes.to_vec()));
            }
        }
        assert_eq!(run(BOTH, b"GE", 1).1, Step::Wait);
    }

    #[test]
    fn lines_alone_are_not_waited_for() {
        let lines = Expected {
            http: false,
            ..BOTH
        };
        for bytes in [&b""[..], b"GET / HTTP/1.1\r\n"] {
            let step = Preface::new(lines).step(bytes, &Exempt::new(Vec::new()));
            assert_eq!(step, Step::Known(Carrier::Lines));
        }
    }

    #[test]
    fn what_a_listener_does_not_carry_is_refused() {
        let http = Expected {
            lines: false,
            ..BOTH
        };
        let refused = Step::Refused(Misfit::Carrier);
        assert_eq!(run(http, b"login:alice:secret\n", 3).1, refused);
        assert_eq!(run(http, b"\x16\x03\x01", 1).1, refused);
        assert_eq!(run(BOTH, b"\x16\x03\x01", 1).1, refused);
    }

    #[test]
    fn tls_comes_first_once_and_where_it_is_expected() {
        for (tls, bytes, end) in [
            (
                Security::Required,
                &b"\x16ping\n"[..],
                Step::Known(Carrier::Lines),
            ),
            (
                Security::Optional,
                b"\x16GET / HTTP/1.1\r\n",
                Step::Known(Carrier::Http),
            ),
            (Security::Optional, b"ping\n", Step::Known(Carrier::Lines)),
            (
                Security::Optional,
                b"GET / HTTP/1.1\r\n",
                Step::Known(Carrier::Http),
            ),
            (Security::Required, b"ping\n", Step::Refused(Misfit::Plain)),
            (Security::Required, b"", Step::Wait),
            (
                Security::Required,
                b"\x16\x16ping\n",
                Step::Refused(Misfit::Carrier),
            ),
        ] {
            for size in 1..=bytes.len().max(1) {
                let expected = Expected { tls, ..BOTH };
                assert_eq!(run(expected, bytes, size).1, end, "{bytes:?} in {size}s");
            }
        }
        // Lines alone, which may come without it, are told from it by the first byte.
        let lines = Expected {
            tls: Security::Optional,
            http: false,
            ..BOTH
        };
        assert_eq!(run(lines, b"", 1).1, Step::Wait);
        assert_eq!(run(lines, b"p", 1).1, Step::Known(Carrier::Lines));
        assert_eq!(run(lines, b"\x16", 1).1, Step::Known(Carrier::Lines));
    }

    #[test]
    fn a_trusted_proxy_says_in_the_head_of_a_request_for_whom_it_is() {
        let request = b"GET / HTTP/1.1\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n";
        let client = Some(SocketAddr::from(([192, 0, 2, 1], 0)));
        for size in 1..=request.len() {
            let end = run_as(true, BOTH, request, size);
            assert_eq!(end, (client, Step::Known(Carrier::Http), request.to_vec()));
            let end = run_as(false, BOTH, request, size);
            assert_eq!(end, (None, Step::Known(Carrier::Http), request.to_vec()));
            let lines = run_as(true, BOTH, b"ping\n", size).1;
            assert_eq!(lines, Step::Known(Carrier::Lines));
        }
        let half = &request[..request.len() - 1];
        assert_eq!(run_as(true, BOTH, half, 7).1, Step::Wait);
        // What is no head is not waited for.
        let endless = [b"GET / HTTP/1.1\r\nX: ", &[b'x'; 9000][..]].concat();
        let end = run_as(true, BOTH, &endless, 1000).1;
        assert_eq!(end, Step::Known(Carrier::Http));
    }

    #[test]
    fn behind_a_proxy_the_header_comes_first_and_once() {
        let expected = Expected {
            proxy: true,
            ..BOTH
        };
        let header = b"PROXY TCP4 192.0.2.1 10.0.0.1 50123 6000\r\n";
        let client = Some(SocketAddr::from(([192, 0, 2, 1], 50123)));
        for (request, carrier) in [
            (&b"ping\n"[..], Carrier::Lines),
            (b"GET /", Carrier::Http),
            // Who is believed once is not believed twice.
            (header, Carrier::Lines),
        ] {
            let bytes = [header, request].concat();
            for size in 1..=bytes.len() {
                let end = run(expected, &bytes, size);
                assert_eq!(end, (client, Step::Known(carrier), request.to_vec()));
            }
        }
        assert_eq!(
            run(expected, b"ping\n", 1).1,
            Step::Refused(Misfit::MalformedProxy)
        );
    }
}
