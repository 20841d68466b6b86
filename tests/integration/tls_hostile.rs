//! What is no TLS, or no good one: the right alert, counted, closed, and little memory until then.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use crate::common::certificates::Authority;
use crate::common::config::Config;
use crate::common::{Client, Gateway, eventually};

const HOST: &str = "chat.example";
/// The descriptions of alerts.
const DECODE_ERROR: u8 = 50;
const HANDSHAKE_FAILURE: u8 = 40;
const PROTOCOL_VERSION: u8 = 70;

fn secured(configure: impl FnOnce(&mut Config)) -> (Authority, Gateway) {
    let authority = Authority::new();
    authority.sign("chat", HOST);
    let gateway = Gateway::start(|config| {
        authority.secure("chat", config);
        configure(config);
    });
    (authority, gateway)
}

fn failed(gateway: &Gateway, reason: &str) -> f64 {
    gateway.metric("prefaces_failed_total", &[("reason", reason)])
}

/// The first record that a client sends which offers this.
fn hello(alpn: &[&str]) -> Vec<u8> {
    let provider = std::sync::Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    let name = rustls::pki_types::ServerName::try_from(HOST).expect("a name");
    let mut client =
        rustls::ClientConnection::new(std::sync::Arc::new(config), name).expect("a client");
    let mut record = Vec::new();
    client.write_tls(&mut record).expect("a record");
    record
}

/// What comes until the gateway closes.
fn answer_to(address: SocketAddr, pieces: &[&[u8]]) -> Vec<u8> {
    let mut stream = TcpStream::connect(address).expect("connect");
    for piece in pieces {
        // It may have been closed before the last of them.
        let _ = stream.write_all(piece);
        std::thread::sleep(Duration::from_millis(50));
    }
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer
}

/// The description in the alert that ends `answer`.
fn alert_in(answer: &[u8]) -> Option<u8> {
    let record = answer.last_chunk::<7>()?;
    matches!(record, [21, 3, _, 0, 2, 2, _]).then_some(record[6])
}

#[test]
fn what_breaks_the_protocol_gets_the_alert_for_it() {
    let (_authority, gateway) = secured(|_| {});
    let address = gateway.address();
    // TLS 1.0: a hello of that version that knows no later one.
    let mut old = vec![22, 3, 1, 0, 47, 1, 0, 0, 43, 3, 1];
    old.extend([7; 32]);
    old.extend([0, 0, 4, 0xc0, 0x13, 0, 0x2f, 1, 0]);
    let old_length = u8::try_from(old.len() - 5).expect("short");
    (old[4], old[8]) = (old_length, old_length - 4);
    let garbage = [&[22, 3, 1, 0, 8][..], &[1, 0, 0, 4, 9, 9, 9, 9]].concat();
    for (hello, alerts) in [
        (&old, &[PROTOCOL_VERSION, HANDSHAKE_FAILURE][..]),
        (&garbage, &[DECODE_ERROR]),
    ] {
        let answer = answer_to(address, &[hello]);
        let alert = alert_in(&answer).expect("an alert");
        assert!(alerts.contains(&alert), "{alert} to {hello:?}");
    }
    // Behind the server's hello an alert is encrypted, so that nobody else can read it.
    let good = hello(&[]);
    for pieces in [
        // HTTP/2 and nothing else.
        &[&hello(&["h2"])[..]][..],
        &[&good, &[23, 3, 3, 0, 4, 1, 2, 3, 4]],
        &[&good, b"GET / HTTP/1.1\r\n\r\n"],
    ] {
        let answer = answer_to(address, pieces);
        assert_eq!(answer.first(), Some(&22), "the server's hello");
    }
    eventually("all are counted", || failed(&gateway, "handshake") == 5.0);
    eventually("nothing is left", || gateway.metric("prefaces", &[]) == 0.0);
}

#[test]
fn who_comes_without_tls_is_closed_and_counted_where_it_is_required() {
    let (_authority, gateway) = secured(|_| {});
    for bytes in [
        &b"login:alice:secret\n"[..],
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        assert_eq!(answer_to(gateway.address(), &[bytes]), b"");
    }
    assert_eq!(failed(&gateway, "plain"), 2.0);
}

#[test]
fn where_it_is_optional_lines_come_with_it_and_without() {
    let (authority, gateway) = secured(|config| {
        config.set("gateway_service", "tls", "optional");
    });
    let mut plain = Client::connect(gateway.address());
    plain.send("ping");
    assert!(plain.line().starts_with("+OK welcome"));
    assert_eq!(plain.line(), "+OK pong");
    let mut secured = authority.client(gateway.address(), HOST, &[]);
    assert!(
        secured
            .line()
            .is_some_and(|line| line.starts_with("+OK welcome"))
    );
    assert_eq!(secured.ask("ping"), "+OK pong");
}

#[test]
fn a_handshake_may_come_byte_by_byte_but_not_for_ever() {
    let (_authority, gateway) = secured(|config| {
        config.set("tls", "handshake_timeout", "2s");
    });
    let mut stream = TcpStream::connect(gateway.address()).expect("connect");
    for byte in hello(&[]) {
        stream.write_all(&[byte]).expect("write");
    }
    let mut record = [0; 5];
    stream.read_exact(&mut record).expect("the server's hello");
    assert_eq!(record[0], 22);
    // Nothing more is said.
    let mut rest = Vec::new();
    let _ = stream.read_to_end(&mut rest);
    assert_eq!(failed(&gateway, "late_handshake"), 1.0);
}

#[test]
fn no_more_handshakes_are_under_way_than_may_be_and_each_costs_little() {
    const SILENT: usize = 1500;
    const AT_ONCE: usize = 1000;
    let (authority, gateway) = secured(|config| {
        config
            .set("tls", "handshakes", AT_ONCE as i64)
            .set("tls", "handshakes_per_second", 1_000_000)
            .set("tls", "handshake_timeout", "8s");
    });
    let before = gateway.resident_bytes();
    let hello = hello(&[]);
    let mut silent: Vec<TcpStream> = (0..SILENT)
        .map(|_| {
            let mut stream = TcpStream::connect(gateway.address()).expect("connect");
            stream.write_all(&hello).expect("write");
            stream
        })
        .collect();
    eventually("all have come", || {
        gateway.metric("prefaces", &[]) == SILENT as f64
    });
    let mut answered = 0;
    for stream in &mut silent {
        let wait = Duration::from_millis(if answered < AT_ONCE { 5000 } else { 1 });
        stream.set_read_timeout(Some(wait)).expect("set");
        answered += usize::from(stream.read(&mut [0; 5]).is_ok_and(|count| count > 0));
    }
    assert_eq!(answered, AT_ONCE);
    let each = gateway.resident_bytes().saturating_sub(before) / AT_ONCE as u64;
    println!("{each} bytes for each handshake under way");
    // 10,000 of them may take 300 MiB.
    assert!(each < 31_000, "{each} bytes each");
    // They end in time, and those that waited let others in.
    eventually("all are closed", || {
        failed(&gateway, "late_handshake") == SILENT as f64
    });
    let mut client = authority.client(gateway.address(), HOST, &[]);
    assert!(client.line().is_some());
}
