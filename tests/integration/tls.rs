//! TLS: clients that are not ours log in and chat, certificates by name, of clients, and new ones.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;

use rustix::process::Signal;
use rustls::pki_types::{CertificateDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

use crate::common::certificates::Authority;
use crate::common::{Gateway, eventually, number};

const HOST: &str = "chat.example";

fn authority() -> Authority {
    let authority = Authority::new();
    authority.sign("chat", HOST);
    authority
}

fn client_config(authority: &Authority) -> Arc<ClientConfig> {
    let mut roots = RootCertStore::empty();
    let ca = CertificateDer::from_pem_file(authority.path("ca.pem")).expect("a certificate");
    roots.add(ca).expect("a root");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    Arc::new(config)
}

type Stream = StreamOwned<ClientConnection, TcpStream>;

fn connect(config: &Arc<ClientConfig>, address: SocketAddr) -> Stream {
    let name = ServerName::try_from(HOST).expect("a name");
    let client = ClientConnection::new(Arc::clone(config), name).expect("a client");
    StreamOwned::new(client, TcpStream::connect(address).expect("connect"))
}

#[test]
fn clients_of_both_versions_log_in_and_chat_with_each_other() {
    let authority = authority();
    let gateway = Gateway::start(|config| authority.secure("chat", config));
    let mut alice = authority.client(gateway.address(), HOST, &["-tls1_2"]);
    let mut bob = authority.client(gateway.address(), HOST, &["-tls1_3", "-alpn", "http/1.1"]);
    for (client, name) in [(&mut alice, "alice"), (&mut bob, "bob")] {
        // Where there is nothing but lines, nobody has to speak first.
        let welcome = client.line().expect("a welcome");
        assert!(welcome.starts_with("+OK welcome"), "{welcome}");
        let reply = client.ask(&format!("register:{name}:password-of-{name}"));
        assert!(reply.starts_with("+OK "), "{reply}");
    }
    let whoami = bob.ask("whoami");
    let sent = alice.ask(&format!("chat:{}:by TLS", number(&whoami, "uid")));
    assert!(sent.starts_with("+OK "), "{sent}");
    let push = bob.line().expect("a push");
    assert!(
        push.starts_with("MSG ") && push.ends_with("by TLS"),
        "{push}"
    );
    // It is confirmed like any other once it was acknowledged.
    eventually("nothing waits in the inbox", || {
        bob.send("pull");
        bob.line().is_some_and(|reply| reply.contains("count=0"))
    });
    let two = gateway.metric("tls_handshakes_total", &[]);
    assert_eq!(two, 2.0);
}

#[test]
fn more_than_fits_in_a_record_or_a_buffer_arrives_whole() {
    let authority = authority();
    let gateway = Gateway::start(|config| {
        authority.secure("chat", config);
        config
            .limit("commands_per_second", 100_000)
            .limit("commands_burst", 100_000)
            .limit("inbox_limit", 100_000);
    });
    let config = client_config(&authority);
    let mut stream = connect(&config, gateway.address());
    stream
        .write_all(b"register:alice:password-of-alice\nset:ack:manual\n")
        .expect("write");
    let text = "x".repeat(7000);
    const MESSAGES: usize = 300;
    for _ in 0..MESSAGES {
        writeln!(stream, "chat:1:{text}").expect("write");
    }
    stream.write_all(b"pull:500\nquit\n").expect("write");
    let mut read = String::new();
    // It ends by an alert that says so.
    stream.read_to_string(&mut read).expect("a good end");
    let pushed = read.lines().filter(|line| line.starts_with("MSG ")).count();
    assert!(pushed >= MESSAGES, "{pushed}");
    assert!(
        read.lines()
            .all(|line| !line.starts_with("MSG ") || line.ends_with(&text))
    );
    assert!(read.ends_with("+OK bye\n"), "{}", &read[read.len() - 80..]);
}

#[test]
fn who_names_a_host_gets_its_certificate_and_one_that_came_back_its_ticket() {
    let authority = authority();
    authority.sign("other", "other.example");
    let gateway = Gateway::start(|config| {
        let both = vec![authority.entry("chat"), authority.entry("other")];
        config
            .cores(2)
            .set("tls", "certificates", both)
            .set("gateway_service", "tls", "required");
    });
    for host in [HOST, "other.example"] {
        let mut client = authority.client(gateway.address(), host, &[]);
        assert!(
            client
                .line()
                .is_some_and(|line| line.starts_with("+OK welcome"))
        );
    }
    let mut stranger = authority.client(gateway.address(), "third.example", &[]);
    assert_eq!(stranger.line(), None, "no certificate is good for it");
    // On whichever core it comes back.
    let config = client_config(&authority);
    for time in 0..6 {
        let mut stream = connect(&config, gateway.address());
        stream.write_all(b"quit\n").expect("write");
        stream.read_to_string(&mut String::new()).expect("an end");
        let kind = stream.conn.handshake_kind().expect("a handshake");
        let resumed = kind == rustls::HandshakeKind::Resumed;
        assert_eq!(resumed, time > 0, "{kind:?} at the {time}th time");
    }
}

#[test]
fn new_certificates_are_used_for_new_connections_and_leave_the_others_alone() {
    let authority = authority();
    let gateway = Gateway::start(|config| authority.secure("chat", config));
    let mut before = authority.client(gateway.address(), HOST, &[]);
    assert!(before.line().is_some());
    authority.sign("chat", "new.example");
    gateway.signal(Signal::HUP);
    eventually("the new one is used", || {
        let mut client = authority.client(gateway.address(), "new.example", &[]);
        client.line().is_some()
    });
    assert_eq!(before.ask("ping"), "+OK pong");
    // A key that is not the certificate's changes nothing.
    std::fs::copy(authority.path("ca.pem"), authority.path("chat.key")).expect("copied");
    gateway.signal(Signal::HUP);
    eventually("the log says so", || {
        gateway.output().1.contains("keeps what it had")
    });
    let mut client = authority.client(gateway.address(), "new.example", &[]);
    assert!(client.line().is_some());
    // Nobody has to ask.
    authority.sign("chat", "third.example");
    eventually("a change is seen", || {
        let mut client = authority.client(gateway.address(), "third.example", &[]);
        client.line().is_some()
    });
}

#[test]
fn a_connection_that_is_idle_takes_little_memory() {
    const IDLE: usize = 1000;
    let authority = authority();
    let gateway = Gateway::start(|config| {
        authority.secure("chat", config);
        config.limit("login_timeout", "10m");
    });
    let config = client_config(&authority);
    let greeted = || {
        let mut stream = connect(&config, gateway.address());
        let mut first = [0; 3];
        stream.read_exact(&mut first).expect("a welcome");
        assert_eq!(&first, b"+OK");
        stream
    };
    // What is made once is made.
    let mut idle: Vec<Stream> = (0..100).map(|_| greeted()).collect();
    let before = gateway.resident_bytes();
    idle.extend((0..IDLE).map(|_| greeted()));
    let each = gateway.resident_bytes().saturating_sub(before) / IDLE as u64;
    println!("{each} bytes for each idle connection");
    assert!(each < 6 * 1024, "{each} bytes each");
}

#[test]
fn a_web_socket_begins_by_tls() {
    let authority = authority();
    let gateway = Gateway::start(|config| {
        config
            .set("tls", "certificates", vec![authority.entry("chat")])
            .set("web", "listen", "127.0.0.1:0")
            .set("web", "tls", "required");
    });
    let (banner, _) = gateway.output();
    let line = banner.lines().find(|line| line.starts_with("  web "));
    let address = line.and_then(|line| line.split_whitespace().last()?.parse().ok());
    let mut stream = connect(&client_config(&authority), address.expect("an address"));
    let head = format!(
        "GET /ws HTTP/1.1\r\nHost: {HOST}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("write");
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).expect("an answer");
    assert_eq!(&answer, b"HTTP/1.1 101");
}

#[test]
fn clients_show_certificates_where_that_is_required() {
    let authority = authority();
    let others = Authority::new();
    authority.sign("alice", "alice");
    others.sign("mallory", "mallory");
    let ca = authority.path("ca.pem").display().to_string();
    let gateway = Gateway::start(|config| {
        authority.secure("chat", config);
        config
            .set("tls", "client_ca_file", ca)
            .set("tls", "client_certificates", "required");
    });
    let with = |authority_of: &Authority, name: &str, version: &str| {
        let certificate = authority_of.path(&format!("{name}.pem"));
        let key = authority_of.path(&format!("{name}.key"));
        let (certificate, key) = (certificate.display().to_string(), key.display().to_string());
        let options = [version, "-cert", &certificate, "-key", &key];
        authority.client(gateway.address(), HOST, &options).line()
    };
    for version in ["-tls1_2", "-tls1_3"] {
        assert!(with(&authority, "alice", version).is_some(), "{version}");
        assert_eq!(with(&others, "mallory", version), None, "{version}");
        let mut without = authority.client(gateway.address(), HOST, &[version]);
        assert_eq!(without.line(), None, "{version}");
    }
    assert_eq!(
        gateway.metric("prefaces_failed_total", &[("reason", "handshake")]),
        4.0
    );
}
