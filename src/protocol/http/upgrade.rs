//! The WebSocket handshake (RFC 6455, section 4): from a request's head to a conversation, or to
//! the status that refuses it.
//!
//! Owns who may begin one: on which paths, from which origins; and what a client can say with it:
//! the form of pushes, its token, its device, who confirms.

use base64::{Engine, engine::general_purpose::STANDARD};
use sha1::{Digest, Sha1};

use super::{head::Head, response::Status};
use crate::{
    base::secret::Secret,
    protocol::{codec::Form, command::AckMode, rules},
};

/// What the standard has servers append to a key.
const KEY_SUFFIX: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
const KEY_BYTES: usize = 16;
const VERSION: &str = "13";

/// Who may begin a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct WebRules {
    /// Where, beside `/ws`.
    pub paths: Vec<String>,
    /// The origins whose pages may; empty: those of the host that is asked.
    pub allowed_origins: Vec<String>,
    /// Whether the chat page is there.
    pub has_page: bool,
}

/// A handshake that is as it should be.
#[derive(Debug)]
pub struct Handshake {
    accept_key: String,
    /// The subprotocol, which says the form of pushes.
    protocol: Option<Form>,
    /// The token to log in with.
    pub token: Option<Secret<String>>,
    /// The device's name.
    pub device: Option<String>,
    /// Who confirms deliveries.
    pub ack_mode: AckMode,
}

/// What `head` asks for: a handshake.
///
/// # Errors
/// The status that refuses it, and why.
pub fn handshake(head: &Head<'_>, rules: &WebRules) -> Result<Handshake, (Status, &'static str)> {
    if head.path != "/ws" && !rules.paths.iter().any(|path| path == head.path) {
        return Err((Status::NotFound, "there is nothing here"));
    }
    if head.method != "GET" {
        return Err((Status::MethodNotAllowed, "a WebSocket begins with GET"));
    }
    let asks = |name: &str, word: &str| head.list(name).any(|item| item.eq_ignore_ascii_case(word));
    if !asks("upgrade", "websocket") || !asks("connection", "upgrade") {
        return Err((Status::UpgradeRequired, "this is a WebSocket's place"));
    }
    if head.one("sec-websocket-version") != Some(VERSION) {
        return Err((Status::UpgradeRequired, "version 13 is spoken here"));
    }
    let bad = |words| (Status::BadRequest, words);
    let host = head
        .one("host")
        .ok_or(bad("a request names its host, once"))?;
    let key = head.one("sec-websocket-key").unwrap_or_default();
    let is_key = STANDARD.decode(key).is_ok_and(|key| key.len() == KEY_BYTES);
    if !is_key || head.body_bytes > 0 {
        return Err(bad(
            "Sec-WebSocket-Key is 16 bytes in base64, and there is no body",
        ));
    }
    if !is_origin_allowed(head, host, rules) {
        return Err((Status::Forbidden, "pages of this origin may not connect"));
    }
    let (device, ack_mode) = settings(head).map_err(bad)?;
    Ok(Handshake {
        accept_key: accept_key(key),
        protocol: head.list("sec-websocket-protocol").find_map(form_of),
        token: token(head).map(Secret::new),
        device,
        ack_mode,
    })
}

fn form_of(protocol: &str) -> Option<Form> {
    match protocol {
        "im.json" => Some(Form::Json),
        "im.line" => Some(Form::Line),
        "im.pb" => Some(Form::Protobuf),
        _ => None,
    }
}

/// The device, and who confirms, by the query.
pub(super) fn settings(head: &Head<'_>) -> Result<(Option<String>, AckMode), &'static str> {
    let device = head.parameter("device");
    if let Some(device) = &device {
        rules::device_name(device)
            .map_err(|_| "a device name is 1 to 16 letters, digits, _ or -")?;
    }
    let ack_mode = match head.parameter("ack") {
        None => AckMode::Auto,
        Some(word) => AckMode::of(&word).map_err(|_| "ack is auto or manual")?,
    };
    Ok((device, ack_mode))
}

/// A browser can send no header of its own, so a token may stand in three places.
pub(super) fn token(head: &Head<'_>) -> Option<String> {
    let of_protocol = || {
        let mut protocols = head.list("sec-websocket-protocol");
        protocols.find_map(|protocol| protocol.strip_prefix("bearer."))
    };
    let header = head.bearer().or_else(of_protocol).map(str::to_owned);
    header.or_else(|| head.parameter("token").filter(|token| !token.is_empty()))
}

/// The origin that `head` names, if its pages may read what is answered here.
pub fn allowed_origin<'a>(head: &Head<'a>, rules: &WebRules) -> Option<&'a str> {
    let (origin, host) = (head.one("origin")?, head.one("host")?);
    is_origin_allowed(head, host, rules).then_some(origin)
}

fn is_origin_allowed(head: &Head<'_>, host: &str, rules: &WebRules) -> bool {
    let Some(origin) = head.list("origin").next() else {
        return true;
    };
    if !rules.allowed_origins.is_empty() {
        let allowed = rules.allowed_origins.iter();
        return allowed
            .into_iter()
            .any(|allowed| allowed.eq_ignore_ascii_case(origin));
    }
    let authority = origin.split_once("://").map(|(_, authority)| authority);
    authority.is_some_and(|authority| authority.eq_ignore_ascii_case(host))
}

fn accept_key(key: &str) -> String {
    let mut digest = Sha1::new();
    digest.update(key.as_bytes());
    digest.update(KEY_SUFFIX);
    STANDARD.encode(digest.finalize())
}

impl Handshake {
    /// The form of pushes, where the client has said it.
    pub fn form(&self) -> Option<Form> {
        self.protocol
    }

    /// The answer; WebSocket frames follow it.
    pub fn answer(&self) -> String {
        let protocol = match self.protocol {
            Some(Form::Json) => "Sec-WebSocket-Protocol: im.json\r\n",
            Some(Form::Line) => "Sec-WebSocket-Protocol: im.line\r\n",
            Some(Form::Protobuf) => "Sec-WebSocket-Protocol: im.pb\r\n",
            None => "",
        };
        format!(
            "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             Sec-WebSocket-Accept: {}\r\n{protocol}\r\n",
            self.accept_key
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protocol::http::head::read_head;

    /// The handshake of a browser, with some of its headers others or, where empty, left out.
    fn asked(target: &str, changed: &[(&str, &str)]) -> Result<Handshake, Status> {
        asked_by("GET", target, changed, &WebRules::default())
    }

    fn asked_by(
        method: &str,
        target: &str,
        changed: &[(&str, &str)],
        rules: &WebRules,
    ) -> Result<Handshake, Status> {
        let mut headers = vec![
            ("Host", "chat.example:8000"),
            ("Connection", "keep-alive, Upgrade"),
            ("Upgrade", "websocket"),
            ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
            ("Origin", "https://chat.example:8000"),
        ];
        for (name, value) in changed {
            headers.retain(|(other, _)| other != name);
            if !value.is_empty() {
                headers.push((name, value));
            }
        }
        let mut text = format!("{method} {target} HTTP/1.1\r\n");
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        text += "\r\n";
        let (head, _) = read_head(text.as_bytes()).expect("good").expect("whole");
        handshake(&head, rules).map_err(|(status, _)| status)
    }

    #[test]
    fn the_answer_is_that_of_the_standards_example() {
        let answer = asked("/ws", &[]).expect("good").answer();
        assert!(answer.starts_with("HTTP/1.1 101 "));
        assert!(answer.contains("\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n"));
        assert!(answer.ends_with("\r\n\r\n"));
        assert!(!answer.contains("Protocol:"));
    }

    #[test]
    fn a_client_says_form_token_device_and_who_confirms() {
        let one = asked(
            "/ws?device=tab-1&ack=manual",
            &[(
                "Sec-WebSocket-Protocol",
                "bearer.a.b.c, other, im.line, im.json",
            )],
        )
        .expect("good");
        assert_eq!(one.form(), Some(Form::Line));
        assert_eq!(
            one.token.as_ref().map(|token| token.expose().as_str()),
            Some("a.b.c")
        );
        assert_eq!(
            (one.device.as_deref(), one.ack_mode),
            (Some("tab-1"), AckMode::Manual)
        );
        let text = one.answer();
        assert!(text.contains("Sec-WebSocket-Protocol: im.line\r\n"));
        assert!(!text.contains("a.b.c"), "a token is never echoed");
        let by_header = asked("/ws?token=q", &[("Authorization", "bearer h")]).expect("good");
        assert_eq!(by_header.token.expect("a token").expose(), "h");
        let by_query = asked("/ws?token=x.y%2Dz", &[]).expect("good");
        assert_eq!(by_query.token.expect("a token").expose(), "x.y-z");
    }

    #[test]
    fn what_is_no_handshake_is_refused_with_its_status() {
        for (target, changed, status) in [
            ("/", &[][..], Status::NotFound),
            ("/ws/", &[], Status::NotFound),
            ("/ws/../ws", &[], Status::NotFound),
            ("/%77s", &[], Status::NotFound),
            ("/ws", &[("Upgrade", "h2c")], Status::UpgradeRequired),
            ("/ws", &[("Upgrade", "")], Status::UpgradeRequired),
            ("/ws", &[("Connection", "close")], Status::UpgradeRequired),
            (
                "/ws",
                &[("Sec-WebSocket-Version", "8")],
                Status::UpgradeRequired,
            ),
            (
                "/ws",
                &[("Sec-WebSocket-Version", "")],
                Status::UpgradeRequired,
            ),
            (
                "/ws",
                &[("Sec-WebSocket-Key", "c2hvcnQ=")],
                Status::BadRequest,
            ),
            ("/ws", &[("Sec-WebSocket-Key", "")], Status::BadRequest),
            ("/ws", &[("Content-Length", "5")], Status::BadRequest),
            ("/ws", &[("Host", "")], Status::BadRequest),
            ("/ws?device=my%20phone", &[], Status::BadRequest),
            ("/ws?ack=maybe", &[], Status::BadRequest),
            (
                "/ws",
                &[("Origin", "https://evil.example")],
                Status::Forbidden,
            ),
            ("/ws", &[("Origin", "null")], Status::Forbidden),
            (
                "/ws",
                &[("Origin", "https://chat.example")],
                Status::Forbidden,
            ),
        ] {
            let refused = asked(target, changed).expect_err(target);
            assert_eq!(refused, status, "{target} {changed:?}");
        }
        let post = asked_by("POST", "/ws", &[], &WebRules::default());
        assert_eq!(post.expect_err("POST"), Status::MethodNotAllowed);
    }

    #[test]
    fn other_paths_and_origins_are_those_that_were_named() {
        let rules = WebRules {
            paths: vec!["/chat".into()],
            allowed_origins: vec!["https://app.example".into()],
            has_page: false,
        };
        let origin = |origin| asked_by("GET", "/chat", &[("Origin", origin)], &rules);
        assert!(origin("https://app.example").is_ok());
        assert!(origin("").is_ok(), "programs send none");
        assert_eq!(
            origin("https://chat.example:8000").expect_err("not named"),
            Status::Forbidden
        );
    }
}
