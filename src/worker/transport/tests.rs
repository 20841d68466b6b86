//! A TLS client in memory at one end of a pair of sockets, the transport at the other.

use std::{
    io::{ErrorKind, Read, Write},
    os::{fd::OwnedFd, unix::net::UnixStream},
};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, ClientConnection, RootCertStore,
    pki_types::{PrivateKeyDer, ServerName},
};

use super::*;

struct Pair {
    transport: Transport,
    scratch: Scratch,
    client: ClientConnection,
    far: UnixStream,
}

/// Both ends before the handshake.
fn pair() -> Pair {
    let key = KeyPair::generate().expect("a key");
    let params = CertificateParams::new(vec!["a.example".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("a certificate");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(
            vec![certificate.der().clone()],
            PrivateKeyDer::try_from(key.serialize_der()).expect("a key"),
        )
        .expect("a certificate with its key");
    let mut roots = RootCertStore::empty();
    roots.add(certificate.der().clone()).expect("a root");
    let client = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from("a.example").expect("a name");
    let client = ClientConnection::new(Arc::new(client), name).expect("a client");
    let (near, far) = UnixStream::pair().expect("two sockets");
    for side in [&near, &far] {
        side.set_nonblocking(true).expect("non-blocking");
    }
    let mut transport = Transport::new(OwnedFd::from(near));
    transport
        .secure(Arc::new(server), Vec::new())
        .expect("a server");
    Pair {
        transport,
        scratch: Scratch::default(),
        client,
        far,
    }
}

impl Pair {
    /// What the server reads with so much room for each read, until there is no more.
    fn read(&mut self, room: usize) -> (Vec<u8>, Transfer) {
        let (mut all, mut buffer) = (Vec::new(), vec![0; room]);
        loop {
            match self.transport.read(&mut buffer, &mut self.scratch) {
                Transfer::Bytes(count) => all.extend_from_slice(&buffer[..count]),
                end => return (all, end),
            }
        }
    }

    /// Sends what the client has to say, in pieces; the server reads after each.
    fn client_says(&mut self, piece: usize) -> Vec<u8> {
        let (mut said, mut read) = (Vec::new(), Vec::new());
        while self.client.wants_write() {
            self.client.write_tls(&mut said).expect("memory");
        }
        for piece in said.chunks(piece) {
            self.far.write_all(piece).expect("room");
            read.extend(self.read(100).0);
        }
        read
    }

    /// What the client reads, as far as there is something.
    fn client_reads(&mut self) -> Vec<u8> {
        let mut plain = Vec::new();
        loop {
            match self.client.read_tls(&mut self.far) {
                Ok(0) => return plain,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return plain,
                Err(error) => panic!("{error}"),
            }
            let state = self.client.process_new_packets().expect("good records");
            let mut some = vec![0; state.plaintext_bytes_to_read()];
            self.client.reader().read_exact(&mut some).expect("there");
            plain.extend(some);
        }
    }

    /// The handshake, with the client's part in pieces.
    fn shake_hands(&mut self, piece: usize) {
        for _ in 0..10 {
            self.client_says(piece);
            self.client_reads();
        }
        assert!(!self.client.is_handshaking() && self.transport.is_secured());
    }
}

#[test]
fn a_handshake_and_what_follows_may_come_in_any_pieces() {
    for piece in [1, 2, 7, 300, 100_000] {
        let mut pair = pair();
        assert!(!pair.transport.is_secured());
        pair.shake_hands(piece);
        let text: Vec<u8> = (0..40_000_u32).map(|n| n as u8).collect();
        pair.client.writer().write_all(&text).expect("memory");
        assert_eq!(pair.client_says(piece), text, "in pieces of {piece}");
    }
}

#[test]
fn what_has_not_left_counts_as_unacknowledged_and_leaves_when_there_is_room() {
    let mut pair = pair();
    pair.shake_hands(1000);
    let text: Vec<u8> = (0..4_000_000_u32).map(|n| (n / 7) as u8).collect();
    let (mut written, mut read) = (0, Vec::new());
    let mut was_full = false;
    while read.len() < text.len() {
        let outcome = pair.transport.write(&text[written..], &mut pair.scratch);
        match outcome {
            Transfer::Bytes(count) => written += count,
            Transfer::WouldBlock => {}
            lost => panic!("{lost:?}"),
        }
        let waiting = pair.transport.tls.as_ref().map_or(0, |tls| tls.unsent());
        was_full |= waiting > 0;
        assert!(waiting <= 17 * 1024, "{waiting} bytes wait");
        // What the reader can have is at most what has left.
        let got = pair.client_reads();
        read.extend(got);
        assert!(read.len() <= written);
        pair.transport.flush();
    }
    assert!(was_full && read == text);
}

#[test]
fn both_sides_say_that_nothing_more_comes() {
    let mut pair = pair();
    pair.shake_hands(1000);
    let last = pair.transport.write(b"bye\n", &mut pair.scratch);
    assert_eq!(last, Transfer::Bytes(4));
    pair.transport.close_writing();
    assert_eq!(pair.client_reads(), b"bye\n");
    let mut rest = Vec::new();
    // An end without the notice would be an error.
    pair.client.reader().read_to_end(&mut rest).expect("an end");
    pair.client.writer().write_all(b"quit\n").expect("memory");
    pair.client.send_close_notify();
    assert_eq!(pair.client_says(1000), b"quit\n");
    assert_eq!(pair.read(10), (Vec::new(), Transfer::End));
}

#[test]
fn a_changed_byte_ends_the_connection_with_an_alert() {
    let mut pair = pair();
    pair.shake_hands(1000);
    let mut said = Vec::new();
    pair.client.writer().write_all(b"ping\n").expect("memory");
    pair.client.write_tls(&mut said).expect("memory");
    *said.last_mut().expect("a record") ^= 1;
    pair.far.write_all(&said).expect("room");
    assert_eq!(pair.read(100), (Vec::new(), Transfer::Lost));
    assert_eq!(pair.read(100).1, Transfer::Lost, "and stays lost");
    let write = pair.transport.write(b"no\n", &mut pair.scratch);
    assert_eq!(write, Transfer::Lost);
    pair.client.read_tls(&mut pair.far).expect("an alert");
    let error = pair.client.process_new_packets().expect_err("an alert");
    let bad_mac = rustls::AlertDescription::BadRecordMac;
    assert_eq!(error, rustls::Error::AlertReceived(bad_mac));
}

#[test]
fn garbage_never_panics_and_is_not_kept_without_bound() {
    let mut pair = pair();
    let header = [22, 3, 1, 0x40, 0];
    let mut message = vec![1, 0, 0xff, 0xff];
    message.resize(0x4000, 0);
    // A handshake's message that is longer than is kept.
    for _ in 0..4 {
        let _ = pair.far.write_all(&[&header[..], &message].concat());
        if pair.read(100).1 == Transfer::Lost {
            return;
        }
    }
    panic!("it waits for more");
}
