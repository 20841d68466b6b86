//! Lines out of bytes: splits, lengths, half-close, and bytes that are no lines at all.

use std::io::Write;
use std::time::Duration;

use crate::common::{Client, DEADLINE, Gateway, Received, assert_error, random::Random};

/// Asserts that a connection made before and one made now are both served.
fn assert_unharmed(gateway: &Gateway, witness: &mut Client) {
    assert_eq!(witness.ask("ping:witness"), "+OK pong witness");
    assert_eq!(gateway.client().ask("ping:new"), "+OK pong new");
}

#[test]
fn one_byte_at_a_time_means_the_same() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let text = "héllo: wörld 😀";
    let stream = format!("@t chat:{}:{text}\r\n\nping\n", alice.uid);
    for byte in stream.bytes() {
        alice.send_bytes(&[byte]);
    }
    let reply = alice.reply();
    assert!(reply.starts_with("@t +OK msg_id="), "{reply}");
    assert_eq!(alice.reply(), "+OK pong");
    assert_eq!(alice.push().text(), text);
}

#[test]
fn many_lines_in_one_packet_get_all_replies_in_order() {
    let gateway = Gateway::start(|_| {});
    let mut client = gateway.client();
    let lines: String = (0..5000).map(|n| format!("ping:{n}\n")).collect();
    let mut writer = client.writer();
    let sender = std::thread::spawn(move || writer.write_all(lines.as_bytes()));
    for n in 0..5000 {
        assert_eq!(client.reply(), format!("+OK pong {n}"));
    }
    sender.join().expect("the sender").expect("all is sent");
}

#[test]
fn any_split_of_the_stream_means_the_same() {
    let gateway = Gateway::start(|_| {});
    let seed = Random::seed();
    println!("seed {seed}");
    let mut random = Random::new(seed);
    let stream = "ping:ä€😀\r\n\r\n@x ping y\nnonsense\n\nPING:\\n\n@b! ping\nping:end\n";
    let expected = [
        "+OK pong ä€😀",
        "@x +OK pong y",
        "-ERR UNKNOWN_COMMAND",
        "+OK pong \\n",
        "-ERR BAD_REQUEST",
        "+OK pong end",
    ];
    for _ in 0..40 {
        let mut client = gateway.client();
        let mut rest = stream.as_bytes();
        while !rest.is_empty() {
            let length = (1 + random.below(9) as usize).min(rest.len());
            client.send_bytes(&rest[..length]);
            rest = &rest[length..];
        }
        for start in expected {
            let reply = client.reply();
            assert!(reply.starts_with(start), "seed {seed}: {reply} for {start}");
        }
    }
}

#[test]
fn a_carriage_return_before_the_line_feed_is_dropped() {
    let gateway = Gateway::start(|_| {});
    let mut client = gateway.client();
    client.send_bytes(b"ping:a\r\nping:b\n\r\n\nping:c\r\n");
    for letter in ["a", "b", "c"] {
        assert_eq!(client.reply(), format!("+OK pong {letter}"));
    }
}

#[test]
fn half_close_is_honoured_with_all_replies() {
    let gateway = Gateway::start(|_| {});
    gateway.register("bob");
    let mut client = gateway.client();
    client
        .send_bytes(b"register:alice:password1\nchat:1:hello\nwhoami\nping:1\nping:2\nunfinished");
    client.half_close();
    assert!(client.reply().starts_with("+OK uid="));
    assert!(client.reply().starts_with("+OK msg_id="));
    assert!(client.reply().contains("name=alice"));
    assert_eq!(client.reply(), "+OK pong 1");
    assert_eq!(client.reply(), "+OK pong 2");
    assert_eq!(client.lines_until_closed(), Vec::<String>::new());
}

#[test]
fn half_close_right_after_connecting_ends_the_connection() {
    let gateway = Gateway::start(|_| {});
    let mut client = gateway.client();
    client.half_close();
    assert_eq!(client.lines_until_closed(), Vec::<String>::new());
}

#[test]
fn a_line_before_log_in_holds_512_bytes_with_its_end() {
    let gateway = Gateway::start(|_| {});
    let mut client = gateway.client();
    let fits = "x".repeat(512 - "ping:\n".len());
    assert_eq!(
        client.ask(&format!("ping:{fits}")),
        format!("+OK pong {fits}")
    );
    client.send(&format!("ping:{fits}x"));
    assert_error(&client.reply(), "LINE_TOO_LONG");
    client.assert_kicked("protocol");
}

#[test]
fn a_line_after_log_in_holds_8192_bytes_with_its_end() {
    let gateway = Gateway::start(|_| {});
    let mut alice = gateway.register("alice");
    let start = format!("chat:{}:", alice.uid);
    let fits = "y".repeat(8192 - start.len() - 1);
    alice.chat(alice.uid, &fits);
    assert_eq!(alice.push().text(), fits);
    alice.send(&format!("{start}{fits}y"));
    assert_error(&alice.reply(), "LINE_TOO_LONG");
    alice.assert_kicked("protocol");
}

#[test]
fn the_line_lengths_are_configurable() {
    let gateway = Gateway::start(|config| {
        config
            .limit("login_line_bytes", 100)
            .limit("max_line_bytes", 200);
    });
    let mut client = gateway.client();
    client.send(&"x".repeat(100));
    assert_error(&client.reply(), "LINE_TOO_LONG");
    client.assert_kicked("protocol");
    let mut alice = gateway.register("alice");
    assert!(
        alice
            .ask(&format!("ping:{}", "x".repeat(194)))
            .starts_with("+OK pong")
    );
    alice.send(&"x".repeat(200));
    assert_error(&alice.reply(), "LINE_TOO_LONG");
    alice.assert_kicked("protocol");
}

#[test]
fn replies_to_what_came_before_a_line_too_long_are_still_given() {
    let gateway = Gateway::start(|_| {});
    let mut client = gateway.client();
    client.send(&format!("ping:1\nping:2\n{}\nping:3", "x".repeat(600)));
    assert_eq!(client.reply(), "+OK pong 1");
    assert_eq!(client.reply(), "+OK pong 2");
    assert_error(&client.reply(), "LINE_TOO_LONG");
    client.assert_kicked("protocol");
}

#[test]
fn a_mebibyte_without_a_line_end_is_cut_off() {
    let gateway = Gateway::start(|_| {});
    let mut witness = gateway.client();
    for log_in in [false, true] {
        let mut client = gateway.client();
        if log_in {
            client.register("alice");
        }
        let mut writer = client.writer();
        let sender = std::thread::spawn(move || {
            // The gateway closes while this is under way; that is the point.
            let _ = writer.write_all(&vec![b'x'; 1 << 20]);
        });
        assert_error(&client.reply(), "LINE_TOO_LONG");
        client.assert_kicked("protocol");
        sender.join().expect("the sender");
    }
    assert_unharmed(&gateway, &mut witness);
}

#[test]
fn invalid_utf8_and_control_characters_drop_the_line_only() {
    let gateway = Gateway::start(|_| {});
    let mut client = gateway.client();
    for line in [
        &b"ping:\xff\xfe\n"[..],
        b"ping:\xc3\n",
        b"ping:\xed\xa0\x80\n",
        b"ping:\0\n",
        b"\0\n",
        b"ping:\x1b[31m\n",
        b"pi\x08ng\n",
    ] {
        client.send_bytes(line);
        assert_error(&client.reply(), "BAD_REQUEST");
    }
    assert_eq!(client.ask("ping:a\tb"), "+OK pong a\tb");
}

#[test]
fn after_protocol_error_limit_bad_lines_the_connection_ends() {
    let gateway = Gateway::start(|config| {
        config.limit("protocol_error_limit", 3);
    });
    let mut client = gateway.client();
    client.send_bytes(b"nonsense\nping\nping:\xff\n:x\nping:never\n");
    assert_error(&client.reply(), "UNKNOWN_COMMAND");
    assert_eq!(client.reply(), "+OK pong");
    assert_error(&client.reply(), "BAD_REQUEST");
    assert_error(&client.reply(), "BAD_REQUEST");
    client.assert_kicked("protocol");
}

#[test]
fn the_last_two_bad_lines_before_the_end_are_announced() {
    let gateway = Gateway::start(|_| {});
    let mut client = gateway.client();
    let mut replies: Vec<String> = (0..9).map(|_| client.ask("nonsense")).collect();
    let warned = replies.split_off(7);
    assert!(
        replies.iter().all(|reply| !reply.contains("more bad line")),
        "{replies:?}"
    );
    assert!(
        warned[0].contains("2 more bad lines end this connection"),
        "{warned:?}"
    );
    assert!(
        warned[1].contains("1 more bad line ends this connection"),
        "{warned:?}"
    );
    assert_error(&client.ask("nonsense"), "UNKNOWN_COMMAND");
    client.assert_kicked("protocol");
}

#[test]
fn wrong_arguments_are_no_bad_lines() {
    let gateway = Gateway::start(|config| {
        config.limit("protocol_error_limit", 3);
    });
    let mut alice = gateway.register("alice");
    for _ in 0..10 {
        assert_error(&alice.ask("chat:x:y"), "BAD_ARGUMENT");
        assert_error(&alice.ask("chat:999999:y"), "NOT_FOUND");
        assert_error(&alice.ask("login:a:b"), "ALREADY_LOGGED_IN");
    }
    assert_eq!(alice.ask("ping"), "+OK pong");
}

/// What other programs would say to this port by mistake, and what nobody would.
fn strangers() -> Vec<(&'static str, Vec<u8>)> {
    let mut client_hello = vec![
        0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03,
    ];
    client_hello.extend((0..501).map(|n| (n * 37 % 251) as u8));
    let mut random = Random::new(7);
    let garbage: Vec<u8> = (0..20_000).map(|_| random.next() as u8).collect();
    vec![
        (
            "an HTTP request",
            b"GET / HTTP/1.1\r\nHost: localhost\r\nAccept: */*\r\n\r\n".to_vec(),
        ),
        (
            "an HTTP/2 preface",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        ),
        ("a TLS hello", client_hello),
        ("binary garbage", garbage),
        ("only NUL", vec![0; 4096]),
        ("only line feeds", vec![b'\n'; 50_000]),
        ("only carriage returns", vec![b'\r'; 4096]),
        ("SSH", b"SSH-2.0-OpenSSH_9.9\r\n".to_vec()),
        ("RESP", b"*1\r\n$4\r\nPING\r\n".to_vec()),
        ("half a character", "ping:é".as_bytes()[..6].to_vec()),
    ]
}

#[test]
fn strangers_get_errors_or_a_close_and_harm_nobody() {
    let gateway = Gateway::start_on_two_cores();
    let mut witness = gateway.register("witness");
    for (what, bytes) in strangers() {
        let mut client = gateway.client();
        let mut writer = client.writer();
        let sender = std::thread::spawn(move || {
            let _ = writer.write_all(&bytes);
            let _ = writer.shutdown(std::net::Shutdown::Write);
        });
        let replies = client.lines_until_closed();
        sender.join().expect("the sender");
        for reply in replies {
            assert!(
                // "PING" is a command in anybody's protocol.
                reply.starts_with("-ERR ")
                    || reply == "KICK reason=protocol"
                    || what == "RESP" && reply == "+OK pong",
                "{what}: {reply}"
            );
        }
        assert_unharmed(&gateway, &mut witness);
    }
}

#[test]
fn strangers_fill_no_log() {
    let gateway = Gateway::start(|_| {});
    let lines_before = gateway.output().1.lines().count();
    let strangers = strangers();
    for (_, bytes) in &strangers {
        let mut client = gateway.client();
        let mut writer = client.writer();
        let _ = writer.write_all(bytes);
        let _ = writer.shutdown(std::net::Shutdown::Write);
        client.lines_until_closed();
    }
    let stderr = gateway.output().1;
    let lines = stderr.lines().count() - lines_before;
    assert!(lines <= strangers.len(), "{lines} lines of log:\n{stderr}");
    assert!(
        !stderr.contains(|c: char| c.is_control() && c != '\n' && c != '\t'),
        "control characters in the log"
    );
}

#[test]
fn a_dribbling_connection_does_not_hold_up_another() {
    let gateway = Gateway::start(|_| {});
    let mut slow = gateway.client();
    let mut fast = gateway.client();
    for byte in b"ping:slow" {
        slow.send_bytes(&[*byte]);
        assert_eq!(fast.ask("ping:fast"), "+OK pong fast");
    }
    assert_eq!(
        slow.receive_within(Duration::from_millis(20)),
        Received::Nothing
    );
    slow.send_bytes(b"\n");
    assert_eq!(
        slow.receive_within(DEADLINE),
        Received::Line("+OK pong slow".to_string())
    );
}

#[test]
fn a_reset_in_the_middle_of_a_command_harms_nobody() {
    let gateway = Gateway::start_on_two_cores();
    let mut witness = gateway.register("witness");
    for n in 0..50 {
        let mut client = gateway.client();
        client.send_bytes(
            format!("register:reset{n}:password1\nchat:{}:x\npi", witness.uid).as_bytes(),
        );
        // Closing with unread replies makes the kernel send a reset.
        drop(client);
    }
    assert_unharmed(&gateway, &mut witness);
}

#[test]
fn a_flood_of_nonsense_does_not_fill_the_log() {
    let gateway = Gateway::start(|_| {});
    for _ in 0..200 {
        let mut client = gateway.connect();
        client.send_bytes(&[b'x'; 600]);
        client.assert_kicked("protocol");
    }
    let (_, log) = gateway.output();
    let lines = log.matches("connection closed reason=protocol").count();
    // The first of them are told one by one, the others only counted.
    assert!((50..150).contains(&lines), "{lines} lines");
    assert_eq!(
        gateway.metric("connections_closed_total", &[("reason", "protocol")]),
        200.0
    );
}
