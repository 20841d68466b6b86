//! What must hold of any bytes: the bodies of the fuzz targets, which `tests/fuzz_corpus.rs` runs
//! as ordinary tests too.
//!
//! Each takes the fuzzer's bytes and panics where a promise of the protocol is broken.

mod envelope;
mod shard;
mod web;

pub use envelope::envelope;
pub use shard::shard;
pub use web::{head, websocket};

use std::net::SocketAddr;

use im_gateway::{
    base::{id::RouteId, receive_buffer::ReceiveBuffer},
    bus::redis::subscriber::{BusEvent, Subscriber},
    contract::{
        endpoints::{parse_method_node, parse_record},
        methods::Service,
    },
    limits::Exempt,
    protocol::{
        command::{Command, Dialect, PULL_LIMIT_MAX, Tag, parse_arguments, parse_line},
        error_code::ErrorCode,
        escape::{escape_into, unescape},
        line::{Split, split_line},
        push::Push,
        reply::Reply,
    },
    rpc::wire::mprpc::{self, FramingError},
    worker::preface::{Expected, Preface, Security, Step, proxy::HEADER_MAX_BYTES},
};

/// Any stream gives the same lines whether it comes whole, byte by byte, or in pieces, and no line
/// is over the cap.
///
/// The first byte chooses the cap and the second the size of the pieces.
pub fn line(data: &[u8]) {
    let [cap, piece, stream @ ..] = data else {
        return;
    };
    let max_line_bytes = usize::from(*cap) + 1;
    let whole = lines_of(stream, stream.len().max(1), max_line_bytes);
    assert_eq!(whole, lines_of(stream, 1, max_line_bytes));
    assert_eq!(
        whole,
        lines_of(stream, usize::from(*piece) + 1, max_line_bytes)
    );
    for line in whole.0 {
        assert!(line.len() < max_line_bytes, "a line is over the cap");
        assert!(!line.contains(&b'\n'), "two lines in one");
    }
}

/// The lines of `stream` that comes in pieces of `piece` bytes, and whether it ended in a line too
/// long.
fn lines_of(stream: &[u8], piece: usize, max_line_bytes: usize) -> (Vec<Vec<u8>>, bool) {
    let (mut lines, mut buffer) = (Vec::new(), Vec::new());
    for arrived in stream.chunks(piece) {
        buffer.extend_from_slice(arrived);
        let mut taken = 0;
        loop {
            match split_line(&buffer[taken..], max_line_bytes) {
                Split::Line { text, consumed } => {
                    lines.push(text.to_vec());
                    taken += consumed;
                }
                Split::Incomplete => break,
                Split::TooLong => return (lines, true),
            }
        }
        buffer.drain(..taken);
    }
    (lines, false)
}

/// Any line is a command or an error; what is understood is within its bounds; errors are written
/// as one line.
pub fn command(data: &[u8]) {
    let line = match parse_line(data) {
        Ok(line) => line,
        Err(bad) => {
            assert!(matches!(
                bad.code,
                ErrorCode::BadRequest | ErrorCode::UnknownCommand
            ));
            return reply(&Reply::error(bad.code, bad.words), bad.tag.as_ref());
        }
    };
    let dialects = match line.dialect {
        Some(own) => vec![own],
        None => vec![Dialect::Colon, Dialect::Space],
    };
    for dialect in dialects {
        match parse_arguments(&line, dialect) {
            Err(bad) => reply(
                &Reply::error(ErrorCode::BadArgument, bad.0),
                line.tag.as_ref(),
            ),
            Ok(command) => understood(&command, data.len()),
        }
    }
}

fn understood(command: &Command<'_>, line_bytes: usize) {
    match command {
        Command::Register { user, password } => {
            assert!(is_user_name(user) && (6..=128).contains(&password.expose().len()));
        }
        Command::Login { user, password } => {
            assert!(is_user_name(user) && (1..=128).contains(&password.expose().len()));
        }
        Command::Chat { to: number, text }
        | Command::GroupChat {
            group: number,
            text,
        } => {
            assert!(*number > 0 && text.len() <= line_bytes && !text.trim().is_empty());
            let mut wire = Vec::new();
            escape_into(text, &mut wire);
            let wire = String::from_utf8(wire).expect("text stays text");
            assert_eq!(unescape(&wire), *text);
        }
        Command::Pull { limit } => assert!((1..=PULL_LIMIT_MAX).contains(limit)),
        Command::Ack { ids } => {
            assert!((1..line_bytes).contains(&ids.iter().count()));
            assert!(ids.iter().all(|id| id > 0));
        }
        Command::Ping { text: Some(text) } => reply(&Reply::Pong(Some((*text).to_owned())), None),
        Command::SetDevice(name) => assert!((1..=16).contains(&name.len()) && name.is_ascii()),
        Command::AddFriend(number)
        | Command::RemoveFriend(number)
        | Command::JoinGroup(number)
        | Command::LeaveGroup(number)
        | Command::GroupMembers { group: number, .. }
        | Command::Who(number)
        | Command::Profile(number) => assert!(*number > 0),
        Command::CreateGroup { name, .. } => {
            assert!((1..=64).contains(&name.len()) && !name.contains(':'))
        }
        Command::Search { prefix } => assert!(is_user_name(prefix)),
        _ => {}
    }
}

fn is_user_name(name: &str) -> bool {
    (1..=64).contains(&name.len())
        && !name.contains(|c: char| c.is_whitespace() || c.is_control() || ":,".contains(c))
}

fn reply(reply: &Reply, tag: Option<&Tag>) {
    for dialect in [Dialect::Colon, Dialect::Space] {
        let mut out = Vec::new();
        reply.write(tag, dialect, &mut out);
        one_line(&out);
    }
}

/// Any text of a push is one line, whose fields and text a reader finds as they were given.
///
/// The first byte chooses the kind; the rest, made text, is what a backend might have given.
pub fn push(data: &[u8]) {
    let [choice, text @ ..] = data else {
        return;
    };
    let text = String::from_utf8_lossy(text);
    let text = text.as_ref();
    let mut out = Vec::new();
    if choice % 4 == 3 {
        Push::Kick { reason: text }.write(&mut out);
        assert_eq!(one_line(&out).split_whitespace().next(), Some("KICK"));
        return;
    }
    let (push, head) = push_with_text(*choice, text);
    push.write(&mut out);
    let (read_head, read_text) = one_line(&out).split_once(" text=").expect("a text");
    assert_eq!(read_head, head);
    let replaced = |c: char| {
        if c.is_control() && !"\n\r\t".contains(c) {
            '\u{FFFD}'
        } else {
            c
        }
    };
    assert_eq!(
        unescape(read_text),
        text.chars().map(replaced).collect::<String>()
    );
}

/// The push that `choice` says, and what its line must say before the text.
fn push_with_text(choice: u8, text: &str) -> (Push<'_>, String) {
    let (seq, seq_field) = match choice & 4 {
        0 => (None, ""),
        _ => (Some(7), " seq=7"),
    };
    let (to, to_field) = match choice & 16 {
        0 => (None, ""),
        _ => (Some(3), " to=3"),
    };
    let (duplicate, duplicate_field) = match choice & 8 {
        0 => (false, ""),
        _ => (true, " dup=1"),
    };
    match choice % 4 {
        0 => (
            Push::Message {
                id: 1,
                seq,
                from: 2,
                to,
                ts_ms: 4,
                duplicate,
                text,
            },
            format!("MSG id=1{seq_field} from=2{to_field} ts=4{duplicate_field}"),
        ),
        1 => (
            Push::GroupMessage {
                id: 1,
                group: 5,
                seq,
                from: 2,
                ts_ms: 4,
                duplicate,
                text,
            },
            format!("GMSG id=1 group=5{seq_field} from=2 ts=4{duplicate_field}"),
        ),
        _ => (
            Push::Notice {
                kind: "broadcast",
                text,
            },
            "NOTICE kind=broadcast".to_owned(),
        ),
    }
}

/// The line in `out`, which must be exactly one, and text without control characters.
fn one_line(out: &[u8]) -> &str {
    let line = std::str::from_utf8(out).expect("what is written is text");
    let line = line.strip_suffix('\n').expect("a line ends by LF");
    assert!(
        !line.contains(|c: char| c.is_control() && c != '\t'),
        "a control character reached the wire"
    );
    line
}

/// Messages of a frame, at most, where frames are fuzzed.
const BODY_MAX_BYTES: usize = 256;

/// Any stream of calls and replies is the same frames whether it comes whole, byte by byte, or in
/// pieces, and no frame is longer than it may be. The first byte chooses the size of the pieces.
pub fn mprpc(data: &[u8]) {
    let [piece, stream @ ..] = data else {
        return;
    };
    let calls = |bytes: &[u8]| {
        let call = mprpc::read_call(bytes, BODY_MAX_BYTES)?;
        Ok(call.map(|(frame, taken)| ((frame.header.call_id, frame.args.to_vec()), taken)))
    };
    let classic = |bytes: &[u8]| {
        let reply = mprpc::read_classic_reply(bytes, BODY_MAX_BYTES)?;
        Ok(reply.map(|(body, taken)| ((0, body.to_vec()), taken)))
    };
    let with_ids = |bytes: &[u8]| {
        let reply = mprpc::read_reply(bytes, BODY_MAX_BYTES)?;
        Ok(reply.map(|(frame, taken)| ((frame.header.call_id, frame.body.to_vec()), taken)))
    };
    for read in [&calls as &Reader<'_>, &classic, &with_ids] {
        let whole = frames_of(stream, stream.len().max(1), read);
        assert_eq!(whole, frames_of(stream, 1, read));
        assert_eq!(whole, frames_of(stream, usize::from(*piece) + 1, read));
        assert!(whole.0.iter().all(|(_, body)| body.len() <= BODY_MAX_BYTES));
    }
}

/// A frame's id and message.
type Frame = (u64, Vec<u8>);
type Reader<'a> = dyn Fn(&[u8]) -> Result<Option<(Frame, usize)>, FramingError> + 'a;

/// The frames of `stream` that comes in pieces of `piece` bytes, and whether it ended in what is no
/// frame.
fn frames_of(stream: &[u8], piece: usize, read: &Reader<'_>) -> (Vec<Frame>, bool) {
    let (mut frames, mut unfinished) = (Vec::new(), ReceiveBuffer::default());
    for arrived in stream.chunks(piece) {
        let fed = unfinished.feed(arrived, |bytes| {
            let frame = read(bytes)?;
            Ok::<_, FramingError>(frame.map(|(frame, taken)| {
                frames.push(frame);
                taken
            }))
        });
        if fed.is_err() {
            return (frames, true);
        }
    }
    (frames, false)
}

/// Whatever Redis sends brings the same events however it is cut. Of what is not its protocol, what
/// came before is heard; where it comes in single bytes the parser may find out later. The first
/// byte chooses the size of the pieces.
pub fn bus(data: &[u8]) {
    let [piece, stream @ ..] = data else {
        return;
    };
    let (whole, is_given_up) = events_of(stream, stream.len().max(1));
    let (cut, is_cut_given_up) = events_of(stream, usize::from(*piece) + 1);
    assert!(cut.starts_with(&whole));
    if !is_given_up {
        assert_eq!((cut, is_cut_given_up), (whole, false));
    }
}

/// What a new connection that brings `stream` in pieces of `piece` bytes leads to, and whether it
/// was given up.
fn events_of(stream: &[u8], piece: usize) -> (Vec<BusEvent>, bool) {
    let subscriber = Subscriber::new(RouteId::new("gw-1", 0), None);
    subscriber.connected(None);
    let mut events = Vec::new();
    for arrived in stream.chunks(piece) {
        let received = subscriber.received(arrived, |event| events.push(event));
        if received.is_err() {
            return (events, true);
        }
    }
    (events, false)
}

/// Any data of a node is an instance with an address one can connect to, or an error of one short
/// line.
pub fn record(data: &[u8]) {
    let outcomes = [
        parse_record(Service::User, data).map(|instance| instance.address),
        parse_method_node(data),
    ];
    for outcome in outcomes {
        match outcome {
            Ok(address) => assert!(address.port() != 0 && !address.ip().is_unspecified()),
            Err(error) => assert!(error.to_string().len() < 1024),
        }
    }
}

/// Whatever a connection begins with is the same whether it comes whole, byte by byte, or in
/// pieces, and is known before more is kept than a proxy's header has, or the head of a request
/// that may be forwarded. The first byte chooses what the listener expects and whether it is a
/// trusted proxy that comes, the second the size of the pieces.
pub fn preface(data: &[u8]) {
    let [choice, piece, stream @ ..] = data else {
        return;
    };
    let lines = choice & 2 == 0;
    let expected = Expected {
        proxy: choice & 1 == 1,
        tls: match choice >> 3 & 3 {
            1 => Security::Optional,
            2 => Security::Required,
            _ => Security::Off,
        },
        lines,
        http: !lines || choice & 4 == 0,
    };
    let is_forwarded = choice & 32 != 0;
    let preface_in = |piece| preface_of(expected, is_forwarded, stream, piece);
    let whole = preface_in(stream.len().max(1));
    assert_eq!(whole, preface_in(1));
    assert_eq!(whole, preface_in(usize::from(*piece) + 1));
}

/// The longest head of a request.
const HTTP_HEAD_BYTES: usize = 8 * 1024;

/// What is done at last about `stream` that comes in pieces of `piece` bytes, for whom it is, and
/// how many bytes of it were taken away.
fn preface_of(
    expected: Expected,
    is_forwarded: bool,
    stream: &[u8],
    piece: usize,
) -> (Step, Option<SocketAddr>, usize) {
    let (mut preface, mut client) = (Preface::new(expected), None);
    let trusted = Exempt::new(vec!["10.0.0.0/8".parse().expect("a network")]);
    let mut bound = HEADER_MAX_BYTES;
    if is_forwarded {
        preface.may_be_forwarded();
        bound = HTTP_HEAD_BYTES;
    }
    let (mut come, mut taken) = (0, 0);
    loop {
        match preface.step(&stream[taken..come], &trusted) {
            Step::Wait => {
                assert!(come - taken < bound, "it is known by then");
                if come == stream.len() {
                    return (Step::Wait, client, taken);
                }
                come = stream.len().min(come + piece);
            }
            Step::Proxied {
                length,
                client: named,
            } => {
                assert!(!preface.awaits_proxy(), "there is one header");
                assert!(length > 0 || is_forwarded, "nobody is believed unasked");
                (taken, client) = (taken + length, named);
            }
            // What its handshake takes is not the preface's to say: a byte here.
            Step::Secure => {
                taken += 1;
                assert_eq!(preface.step(&stream[taken..come], &trusted), Step::Wait);
                preface.secured();
            }
            end => return (end, client, taken),
        }
    }
}
