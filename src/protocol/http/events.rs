//! Server-Sent Events: pushes over HTTP, and nothing the other way.
//!
//! Owns what a client asks for them by, and how a push is an event. An event's `id` names a stream
//! and a number; a client that comes back says the last one it has, which confirms that stream up
//! to it.

use super::{
    head::Head,
    response::Status,
    upgrade::{WebRules, allowed_origin, settings, token},
};
use crate::{
    base::{id::GroupId, secret::Secret},
    protocol::{
        command::AckMode,
        json,
        push::Push,
        rules::{Numbered, positive},
    },
};

/// What the command is called under `/api/v1/`.
pub const NAME: &str = "events";

/// Where an event ends.
const END: &[u8] = b"\n\n";

/// Who wants pushes.
#[derive(Debug)]
pub struct Subscription {
    /// The token to log in with.
    pub token: Secret<String>,
    /// The device's name.
    pub device: Option<String>,
    /// Who confirms deliveries.
    pub ack_mode: AckMode,
    /// The last event that the client has.
    pub last_event: Option<LastEvent>,
    /// What the client is answered; events follow it.
    pub answer: String,
}

/// The last event that a client has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastEvent {
    /// The group whose message it is; 0: a direct one.
    pub group: GroupId,
    /// Its number.
    pub seq: u64,
}

/// What `head` asks for.
///
/// # Errors
/// The status that refuses it, and why.
pub fn subscription(
    head: &Head<'_>,
    rules: &WebRules,
) -> Result<Subscription, (Status, &'static str)> {
    if head.method != "GET" || head.body_bytes > 0 {
        return Err((
            Status::MethodNotAllowed,
            "events are asked for with GET, without a body",
        ));
    }
    let (device, ack_mode) = settings(head).map_err(|words| (Status::BadRequest, words))?;
    let token = token(head).ok_or((Status::Unauthorized, "say who asks, with a token"))?;
    let last_event = match head.one("last-event-id") {
        None | Some("") => None,
        Some(id) => Some(last_event(id).ok_or((
            Status::BadRequest,
            "Last-Event-ID is the id of an event that came from here",
        ))?),
    };
    let origin = allowed_origin(head, rules).map_or_else(String::new, |origin| {
        format!("Access-Control-Allow-Origin: {origin}\r\nVary: Origin\r\n")
    });
    Ok(Subscription {
        token: Secret::new(token),
        device,
        ack_mode,
        last_event,
        // The comment brings the head through proxies that wait for more.
        answer: format!(
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-store\r\n\
             X-Accel-Buffering: no\r\nX-Content-Type-Options: nosniff\r\n{origin}\
             Connection: close\r\n\r\n:\n\n"
        ),
    })
}

fn last_event(id: &str) -> Option<LastEvent> {
    let (stream, seq) = id.split_once(':')?;
    let group = match stream.strip_prefix('g') {
        Some(group) => Numbered::Group.parse(group).ok()?,
        None if stream == "d" => 0,
        None => return None,
    };
    let seq = u64::try_from(positive(seq)?).ok()?;
    Some(LastEvent { group, seq })
}

/// Appends `push` as an event. A copy has no `id`: it is in nobody's inbox.
pub(in crate::protocol) fn write(push: &Push<'_>, out: &mut Vec<u8>) {
    let (kind, id) = match *push {
        Push::Message { seq, to: None, .. } => ("message", seq.map(|seq| format!("d:{seq}"))),
        Push::Message { .. } => ("message", None),
        Push::GroupMessage { group, seq, .. } => {
            ("message", seq.map(|seq| format!("g{group}:{seq}")))
        }
        Push::Notice { .. } | Push::Friend { .. } => ("notice", None),
        Push::Kick { .. } => ("kick", None),
    };
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(kind.as_bytes());
    out.extend_from_slice(b"\ndata: ");
    // JSON holds no line ends.
    json::push::write_data(push, out);
    if let Some(id) = id {
        out.extend_from_slice(b"\nid: ");
        out.extend_from_slice(id.as_bytes());
    }
    out.extend_from_slice(END);
}

/// Appends what shows that the connection lives: a comment.
pub(in crate::protocol) fn write_ping(out: &mut Vec<u8>) {
    out.push(b':');
    out.extend_from_slice(END);
}

/// The last end of an event in `bytes`.
pub(in crate::protocol) fn last_end(bytes: &[u8]) -> Option<usize> {
    memchr::memmem::rfind(bytes, END).map(|begin| begin + END.len())
}

/// The first end of an event in `bytes` that is not before `sent`.
pub(in crate::protocol) fn first_end(bytes: &[u8], sent: usize) -> Option<usize> {
    let from = sent.saturating_sub(END.len());
    let begin = memchr::memmem::find(&bytes[from..], END)?;
    Some(from + begin + END.len())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http::head::read_head;

    fn asked(target: &str, headers: &str) -> Result<Subscription, Status> {
        let text = format!("GET {target} HTTP/1.1\r\nHost: a\r\n{headers}\r\n");
        let (head, _) = read_head(text.as_bytes()).expect("good").expect("whole");
        subscription(&head, &WebRules::default()).map_err(|(status, _)| status)
    }

    #[test]
    fn a_client_says_who_it_is_and_what_it_has() {
        let one = asked("/api/v1/events?token=a.b&device=tab&ack=manual", "").expect("good");
        assert_eq!(one.token.expose(), "a.b");
        assert_eq!(one.device.as_deref(), Some("tab"));
        assert_eq!((one.ack_mode, one.last_event), (AckMode::Manual, None));
        for (id, expected) in [
            ("d:9", Ok(Some(LastEvent { group: 0, seq: 9 }))),
            ("g7:12", Ok(Some(LastEvent { group: 7, seq: 12 }))),
            ("", Ok(None)),
            ("d:0", Err(Status::BadRequest)),
            ("d:-1", Err(Status::BadRequest)),
            ("g0:1", Err(Status::BadRequest)),
            ("x:1", Err(Status::BadRequest)),
            ("9", Err(Status::BadRequest)),
            ("d:99999999999999999999", Err(Status::BadRequest)),
        ] {
            let headers = format!("Authorization: Bearer a\r\nLast-Event-ID: {id}\r\n");
            let found = asked("/api/v1/events", &headers).map(|one| one.last_event);
            assert_eq!(found, expected, "{id:?}");
        }
        assert_eq!(
            asked("/api/v1/events", "").err(),
            Some(Status::Unauthorized)
        );
        let bad = asked("/api/v1/events?token=a&ack=perhaps", "");
        assert_eq!(bad.err(), Some(Status::BadRequest));
    }

    #[test]
    fn a_push_is_an_event_of_one_line_of_data() {
        let message = |to, text| Push::Message {
            id: 731,
            seq: Some(9),
            from: 42,
            to,
            ts_ms: 5,
            duplicate: false,
            text,
        };
        let written = |push: &Push<'_>| {
            let mut out = Vec::new();
            write(push, &mut out);
            String::from_utf8(out).expect("text")
        };
        let data = r#"{"id":"731","seq":9,"from":42,"ts":5,"text":"a\n\nb\r"}"#;
        let expected = format!("event: message\ndata: {data}\nid: d:9\n\n");
        assert_eq!(written(&message(None, "a\n\nb\r")), expected);
        assert!(!written(&message(Some(57), "hi")).contains("\nid: "));
        let kick = written(&Push::Kick { reason: "replaced" });
        assert_eq!(kick, "event: kick\ndata: {\"reason\":\"replaced\"}\n\n");
    }

    #[test]
    fn ends_are_found_from_every_place() {
        let bytes = b":\n\nevent: a\ndata: {}\n\n:\n\n";
        let ends = [3, 22, 25];
        for sent in 0..=bytes.len() {
            let last = ends.iter().rfind(|end| **end <= sent).copied();
            assert_eq!(last_end(&bytes[..sent]), last, "{sent}");
            if sent > 0 {
                let first = ends.iter().find(|end| **end >= sent).copied();
                assert_eq!(first_end(bytes, sent), first, "{sent}");
            }
        }
    }
}
