//! Pushes over HTTP as Server-Sent Events.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};

use serde_json::{Value, json};

use crate::common::api::Api;
use crate::common::{DEADLINE, Gateway, eventually};

/// An event.
#[derive(Debug)]
struct Event {
    kind: String,
    data: Value,
    id: Option<String>,
}

/// A client that reads events.
struct Events {
    head: String,
    reader: BufReader<TcpStream>,
}

impl Events {
    /// Asks for the events of `token`, with more of a query and more headers.
    fn open(address: SocketAddr, token: &str, query: &str, headers: &str) -> Self {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream.set_read_timeout(Some(DEADLINE)).expect("a time-out");
        let request =
            format!("GET /api/v1/events?token={token}{query} HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        let mut reader = BufReader::new(stream);
        let mut head = String::new();
        while !head.ends_with("\r\n\r\n") {
            let length = reader.read_line(&mut head).expect("a head in time");
            assert!(length > 0, "the head ends: {head}");
        }
        Self { head, reader }
    }

    /// The next event, past comments; `None`: the gateway has closed.
    fn next(&mut self) -> Option<Event> {
        let (mut kind, mut data, mut id) = (String::new(), Value::Null, None);
        loop {
            let mut line = String::new();
            if self.reader.read_line(&mut line).expect("an event in time") == 0 {
                return None;
            }
            match line.trim_end_matches('\n').split_once(": ") {
                Some(("event", word)) => word.clone_into(&mut kind),
                Some(("data", json)) => data = serde_json::from_str(json).expect("JSON"),
                Some(("id", word)) => id = Some(word.to_owned()),
                _ if kind.is_empty() => {}
                _ => return Some(Event { kind, data, id }),
            }
        }
    }

    #[track_caller]
    fn message(&mut self) -> Event {
        let event = self.next().expect("an event");
        assert_eq!(event.kind, "message", "{event:?}");
        event
    }
}

#[test]
fn a_login_by_token_brings_events_and_the_last_one_confirms() {
    let gateway = Gateway::start_with_web(|_| {});
    let web = gateway.web_address();
    let mut bob = gateway.register("bob");
    let mut alice = Api::registered(web, "alice");
    let group = bob.create_group("tea");
    alice.ask("join_group", json!({"gid": group}));
    let mut events = Events::open(web, &alice.token, "&ack=manual", "");
    assert!(
        events.head.starts_with("HTTP/1.1 200 OK\r\n"),
        "{}",
        events.head
    );
    assert!(
        events
            .head
            .contains("\r\nContent-Type: text/event-stream\r\n")
    );
    eventually("she is online", || {
        bob.ask(&format!("who:{}", alice.uid))
            .contains(" online=1 ")
    });
    for text in ["one\ntwo", "three", "four"] {
        alice_hears(&mut bob, alice.uid, text);
    }
    let first = events.message();
    assert_eq!(first.id.as_deref(), Some("d:1"));
    assert_eq!(
        (&first.data["seq"], &first.data["text"]),
        (&json!(1), &json!("one\ntwo"))
    );
    assert_eq!(events.message().id.as_deref(), Some("d:2"));
    bob.ask(&format!("group_chat:{group}:to all"));
    assert_eq!(events.message().id.as_deref(), Some("d:3"));
    let of_group = events.message();
    assert_eq!(of_group.id, Some(format!("g{group}:1")));
    // What her other devices send has no number here.
    alice.ask("chat", json!({"to": bob.uid, "text": "a copy"}));
    let copy = events.message();
    assert_eq!((copy.id, &copy.data["to"]), (None, &json!(bob.uid)));
    drop(events);
    eventually("she is gone", || {
        bob.ask(&format!("who:{}", alice.uid))
            .contains(" online=0 ")
    });
    let headers = "Last-Event-ID: d:2\r\n";
    let mut events = Events::open(web, &alice.token, "&ack=manual", headers);
    let mut again = [events.message(), events.message()];
    again.sort_by_key(|event| event.id.clone());
    assert_eq!(
        again[0].id.as_deref(),
        Some("d:3"),
        "what came before is confirmed"
    );
    assert_eq!(again[1].id, Some(format!("g{group}:1")));
    assert!(again.iter().all(|event| event.data["dup"] == true));
}

fn alice_hears(bob: &mut crate::common::Client, uid: u64, text: &str) {
    let line = text.replace('\n', "\\n");
    assert!(
        bob.ask(&format!("chat:{uid}:{line}"))
            .starts_with("+OK msg_id=")
    );
}

#[test]
fn events_end_with_a_kick_and_a_bad_token_gets_none() {
    let gateway = Gateway::start_with_web(|_| {});
    let web = gateway.web_address();
    let alice = Api::registered(web, "alice");
    let mut first = Events::open(web, &alice.token, "&device=tab", "");
    let mut second = Events::open(web, &alice.token, "&device=tab", "");
    let kick = first.next().expect("a kick");
    assert_eq!(
        (kick.kind.as_str(), &kick.data["reason"]),
        ("kick", &json!("replaced"))
    );
    assert!(first.next().is_none(), "then the connection is closed");
    let mut line = gateway.login("alice");
    assert_eq!(line.ask("logout:all"), "+OK logout");
    assert_eq!(second.next().expect("a kick").data["reason"], "revoked");
    for (token, headers, status) in [
        (alice.token.as_str(), "", "401"),
        ("no.token.this", "", "401"),
        ("", "", "401"),
        (&alice.token, "Last-Event-ID: nothing\r\n", "400"),
        (&alice.token, "Last-Event-ID: d:1\r\n", "401"),
    ] {
        let refused = Events::open(web, token, "", headers);
        let answered = refused.head.split(' ').nth(1);
        assert_eq!(answered, Some(status), "{token:?} {headers:?}");
    }
}

#[test]
fn whoever_only_reads_events_stays_and_is_shown_that_the_connection_lives() {
    let gateway = Gateway::start_with_web(|config| {
        config.set("web", "ping_interval", "1s");
        config.set("web", "ping_timeout", "2s");
        config.set("gateway_service", "connection_timeout", "2s");
    });
    let mut bob = gateway.register("bob");
    let alice = Api::registered(gateway.web_address(), "alice");
    let mut events = Events::open(gateway.web_address(), &alice.token, "", "");
    let mut comments = 0;
    while comments < 5 {
        let mut line = String::new();
        assert!(events.reader.read_line(&mut line).expect("in time") > 0);
        comments += usize::from(line == ":\n");
        bob.ask("ping");
    }
    alice_hears(&mut bob, alice.uid, "still there");
    assert_eq!(events.message().data["text"], "still there");
}
