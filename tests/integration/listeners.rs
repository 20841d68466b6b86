//! Listeners: several of them, what each carries, and the addresses that proxies name.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use serde_json::json;

use crate::common::nginx::Nginx;
use crate::common::{Client, Gateway, Received, WebSocket, assert_error, eventually};

/// What a client reads until the gateway closes.
fn answer_to(address: SocketAddr, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).expect("connect");
    stream.write_all(request).expect("write");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn failed(gateway: &Gateway, reason: &str) -> f64 {
    gateway.metric("prefaces_failed_total", &[("reason", reason)])
}

#[test]
fn a_client_of_one_listener_chats_with_a_client_of_another() {
    let gateway = Gateway::start(|config| {
        config.listener("more", &["line"]);
    });
    let mut alice = gateway.register("alice");
    let mut bob = Client::connect(gateway.listener("more"));
    assert!(bob.line().starts_with("+OK welcome"));
    let to = bob.register("bob");
    let id = alice.chat(to, "across");
    assert_eq!(bob.push().id(), id);
}

#[test]
fn where_there_is_more_than_lines_a_line_client_is_greeted_once_it_has_spoken() {
    let gateway = Gateway::start(|config| {
        config
            .cores(2)
            .listener("mixed", &["line", "http", "websocket"]);
    });
    let mixed = gateway.listener("mixed");
    let mut client = Client::connect(mixed);
    match client.receive_within(Duration::from_millis(300)) {
        Received::Nothing => {}
        other => panic!("{other:?} before the first line"),
    }
    eventually("it is counted", || gateway.metric("prefaces", &[]) == 1.0);
    client.send("ping");
    assert!(client.line().starts_with("+OK welcome"));
    assert_eq!(client.line(), "+OK pong");
    assert_eq!(gateway.metric("prefaces", &[]), 0.0);
    client.register("alice");
    // The first line may come in pieces, and be the beginning of a method.
    let mut slow = Client::connect(mixed);
    for piece in ["P", "I", "NG", "\n"] {
        slow.send_bytes(piece.as_bytes());
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(slow.line().starts_with("+OK welcome"));
    assert_eq!(slow.line(), "+OK pong");
    // And everything may come at once, with the end.
    let mut hasty = Client::connect(mixed);
    hasty.send_bytes(b"ping\nping\nquit\n");
    hasty.half_close();
    assert_eq!(hasty.lines_until_closed().len(), 4);
}

#[test]
fn a_web_listener_answers_http_and_closes_what_is_none() {
    let gateway = Gateway::start(|config| {
        config.set("web", "listen", "127.0.0.1:0");
    });
    let (banner, _) = gateway.output();
    let line = banner.lines().find(|line| line.starts_with("  web "));
    let address = line.and_then(|line| line.split_whitespace().last()?.parse().ok());
    let address: SocketAddr = address.expect("the banner says where");
    let answer = answer_to(address, b"GET /nowhere HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
    for request in [&b"login:alice:secret\n"[..], b"\x16\x03\x01\x02\x00"] {
        assert_eq!(answer_to(address, request), "");
    }
    assert_eq!(failed(&gateway, "carrier"), 2.0);
    // Nobody is left who is counted.
    eventually("all are gone", || {
        gateway.metric("connections", &[]) + gateway.metric("prefaces", &[]) == 0.0
    });
}

#[test]
fn a_default_address_that_is_taken_is_a_warning_and_one_that_was_set_an_error() {
    let other = TcpListener::bind("127.0.0.1:8000");
    let gateway = Gateway::start(|config| {
        config.set("web", "listen", "");
    });
    gateway.register("alice");
    let (_, log) = gateway.output();
    // Where another program has it already, it is taken as well.
    assert!(log.contains("cannot listen on 127.0.0.1:8000"), "{log}");
    drop(other);
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let failed = Gateway::start_and_fail(|config| {
        config.set("web", "listen", address.clone());
    });
    assert_eq!(failed.code, Some(4), "{failed:?}");
    assert!(failed.stderr.contains("web.listen"), "{failed:?}");
}

#[test]
fn the_address_that_a_proxy_names_is_the_one_that_limits_go_by() {
    let gateway = Gateway::start(|config| {
        config
            .proxied_listener("proxied", &["line"])
            .limit("connections_per_ip", 2);
    });
    let address = gateway.listener("proxied");
    let connect = |ip: &str| {
        let mut client = Client::connect(address);
        client.send_bytes(format!("PROXY TCP4 {ip} 10.0.0.1 5000 6000\r\n").as_bytes());
        client
    };
    let mut held: Vec<Client> = (0..2).map(|_| connect("192.0.2.1")).collect();
    for client in &mut held {
        assert!(client.line().starts_with("+OK welcome"));
    }
    let mut third = connect("192.0.2.1");
    assert_error(&third.line(), "TOO_MANY_CONNECTIONS");
    let mut neighbour = connect("192.0.2.2");
    assert!(neighbour.line().starts_with("+OK welcome"));
    // Who has gone makes room.
    drop(held.pop());
    eventually("there is room", || {
        connect("192.0.2.1").line().starts_with("+OK welcome")
    });
}

#[test]
fn a_proxy_header_may_come_in_pieces_and_name_nobody() {
    let gateway = Gateway::start(|config| {
        config.proxied_listener("proxied", &["line", "http"]);
    });
    let address = gateway.listener("proxied");
    let mut version_2 = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c".to_vec();
    version_2.extend([192, 0, 2, 9, 10, 0, 0, 1, 0x13, 0x88, 0x17, 0x70]);
    for header in [
        &version_2[..],
        b"PROXY TCP6 2001:db8::1 ::1 5000 6000\r\n",
        b"PROXY UNKNOWN\r\n",
        b"\r\n\r\n\0\r\nQUIT\n\x20\0\0\0",
    ] {
        let mut client = Client::connect(address);
        for byte in header.iter().chain(b"ping\n") {
            client.send_bytes(&[*byte]);
        }
        assert!(client.line().starts_with("+OK welcome"));
        assert_eq!(client.line(), "+OK pong");
    }
}

#[test]
fn who_is_no_proxy_or_does_not_speak_like_one_is_closed_and_counted() {
    let gateway = Gateway::start(|config| {
        config.proxied_listener("proxied", &["line"]);
    });
    let address = gateway.listener("proxied");
    // 127.0.0.2 is not in the list, whatever it says.
    let mut stranger = Client::connect_from(address, [127, 0, 0, 2]);
    let _ = stranger.try_send("PROXY TCP4 192.0.2.1 10.0.0.1 5000 6000\r");
    assert_eq!(stranger.lines_until_closed(), Vec::<String>::new());
    assert_eq!(failed(&gateway, "untrusted_proxy"), 1.0);
    let too_long = [&b"PROXY UNKNOWN "[..], &[b'a'; 200]].concat();
    for header in [&b"login:alice:secret\n"[..], b"PROXY TCP4 x\r\n", &too_long] {
        assert_eq!(answer_to(address, header), "");
    }
    assert_eq!(failed(&gateway, "malformed_proxy"), 3.0);
    let start = Instant::now();
    let mut silent = Client::connect(address);
    silent.send_bytes(b"PROXY TCP4 192.");
    assert_eq!(silent.lines_until_closed(), Vec::<String>::new());
    assert!(start.elapsed() >= Duration::from_millis(900));
    assert_eq!(failed(&gateway, "late_proxy"), 1.0);
}

#[test]
fn connections_that_never_begin_take_little_and_end_with_the_time_to_log_in() {
    const SILENT: usize = 2000;
    let gateway = Gateway::start(|config| {
        config
            .listener("mixed", &["line", "http"])
            .limit("login_timeout", "5s");
    });
    let address = gateway.listener("mixed");
    let before = gateway.resident_bytes();
    let silent: Vec<TcpStream> = (0..SILENT)
        .map(|_| {
            let mut stream = TcpStream::connect(address).expect("connect");
            stream.write_all(b"OPTIONS").expect("write");
            stream
        })
        .collect();
    eventually("all have come", || {
        gateway.metric("prefaces", &[]) == SILENT as f64
    });
    // 10,000 of them may take 100 MiB.
    let each = gateway.resident_bytes().saturating_sub(before) / SILENT as u64;
    assert!(each < 10_000, "{each} bytes each");
    eventually("all are closed", || {
        failed(&gateway, "late") == SILENT as f64
    });
    drop(silent);
}

#[test]
fn behind_nginx_the_gateway_sees_the_addresses_of_clients() {
    let gateway = Gateway::start(|config| {
        config
            .nobody_exempt()
            .proxied_listener("proxied", &["line"])
            .limit("connections_per_ip", 3)
            .limit("login_attempts", 2)
            .limit("login_delay", "60s")
            .set("log", "level", "debug");
    });
    let nginx = Nginx::start_with_addresses(&[gateway.listener("proxied")]);
    let connect = |source| Client::connect_from(nginx.address(), source);
    let mut guesser = connect([127, 0, 0, 7]);
    assert!(guesser.line().starts_with("+OK welcome"));
    for _ in 0..2 {
        assert_error(&guesser.ask("login:nobody:wrong-password"), "AUTH_FAILED");
    }
    // Its network waits, with any name; another network does not.
    let held = guesser.ask("login:somebody:wrong-password");
    assert!(held.starts_with("-ERR RATE_LIMITED retry_ms="), "{held}");
    let mut neighbour = connect([127, 0, 0, 8]);
    assert!(neighbour.line().starts_with("+OK welcome"));
    neighbour.register("alice");
    let more: Vec<Client> = (0..2)
        .map(|_| {
            let mut client = connect([127, 0, 0, 7]);
            assert!(client.line().starts_with("+OK welcome"));
            client
        })
        .collect();
    assert_error(&connect([127, 0, 0, 7]).line(), "TOO_MANY_CONNECTIONS");
    let local = guesser.local_address();
    drop((guesser, more));
    eventually("the log names the client", || {
        gateway.output().1.contains(&local.to_string())
    });
}

#[test]
fn behind_nginx_web_sockets_count_by_the_addresses_of_clients_whatever_those_say() {
    let gateway = Gateway::start(|config| {
        config
            .nobody_exempt()
            .set("web", "listen", "127.0.0.1:0")
            .limit("trusted_proxies", vec!["127.0.0.1"])
            .limit("connections_per_ip", 3)
            .limit("login_attempts", 2)
            .limit("login_delay", "60s")
            .set("log", "level", "debug");
    });
    let nginx = Nginx::start_with_addresses(&[gateway.web_address()]);
    let open_at = |address: SocketAddr, source: [u8; 4], claimed: &str| {
        let stream = Client::connect_from(address, source).into_stream();
        let headers = [("X-Forwarded-For", claimed)];
        WebSocket::try_open_over(stream, address, "/ws", &headers)
    };
    let open = |source| open_at(nginx.web_address(), source, "198.51.100.1");
    let mut guesser = open([127, 0, 0, 7]).expect("taken in");
    let mut guess = |name: &str| {
        let reply = guesser.request("login", json!({"user": name, "password": "wrong-password"}));
        reply["code"].as_str().expect("an error").to_owned()
    };
    for _ in 0..2 {
        assert_eq!(guess("nobody"), "AUTH_FAILED");
    }
    // Its network waits, with any name; another network does not.
    assert_eq!(guess("somebody"), "RATE_LIMITED");
    let mut neighbour = open([127, 0, 0, 8]).expect("taken in");
    neighbour.register("alice");
    let more: Vec<WebSocket> = (0..2)
        .map(|_| open([127, 0, 0, 7]).expect("taken in"))
        .collect();
    // nginx goes on with the connection, so nothing ends the answer.
    let mut refused = Client::connect_from(nginx.web_address(), [127, 0, 0, 7]).into_stream();
    refused
        .write_all(b"GET /ws HTTP/1.1\r\nHost: a\r\n\r\n")
        .expect("write");
    let mut status = [0; 12];
    refused.read_exact(&mut status).expect("an answer");
    assert_eq!(&status, b"HTTP/1.1 503");
    let refusals = gateway.metric("connections_refused_total", &[("reason", "per_ip")]);
    assert_eq!(refusals, 1.0);
    // Who is no proxy is believed nothing.
    let direct = open_at(gateway.web_address(), [127, 0, 0, 9], "198.51.100.2");
    drop((guesser, more, direct));
    eventually("the log names them", || {
        let log = gateway.output().1;
        log.contains("127.0.0.7:0") && log.contains("127.0.0.9:")
    });
    let (_, log) = gateway.output();
    assert!(!log.contains("198.51.100."), "{log}");
}

#[test]
fn a_proxys_connection_is_good_for_one_request_as_the_next_may_be_anothers() {
    let gateway = Gateway::start(|config| {
        config
            .set("web", "listen", "127.0.0.1:0")
            .limit("trusted_proxies", vec!["127.0.0.1"]);
    });
    let request = "GET /api/v1/friends HTTP/1.1\r\nHost: a\r\nX-Forwarded-For: 192.0.2.1\r\n\r\n";
    let answers = |source, wanted: &str| {
        let stream = Client::connect_from(gateway.web_address(), source).into_stream();
        (&stream).write_all(request.as_bytes()).expect("write");
        let mut answer = [0; 512];
        let count = (&stream).read(&mut answer).expect("an answer");
        let answer = String::from_utf8_lossy(&answer[..count]).into_owned();
        assert!(answer.starts_with("HTTP/1.1 401 "), "{answer}");
        assert!(answer.contains(wanted), "{answer}");
    };
    answers([127, 0, 0, 1], "\r\nConnection: close\r\n");
    answers([127, 0, 0, 2], "\r\nConnection: keep-alive\r\n");
}
