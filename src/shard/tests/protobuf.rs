//! Protobuf frames on a connection: logins by header, forms side by side, and what is no envelope.

use super::{
    websocket::{frames, log_in_by, websocket},
    *,
};
use crate::{
    base::close::CloseReason,
    protocol::{
        error_code::ErrorCode,
        protobuf::tests::{Said, bare_frame, chat_frame, said},
        websocket::{Opcode, client_frame},
    },
};

fn masked(envelope: &[u8]) -> Vec<u8> {
    client_frame(Opcode::Binary, true, [7, 1, 9, 3], envelope)
}

fn say(shard: &mut Shard, key: ConnectionKey, envelope: &[u8]) -> Option<Job> {
    shard.feed(key, &masked(envelope))
}

/// What is unsent, sent: all of it envelopes.
#[track_caller]
fn heard(shard: &mut Shard, key: ConnectionKey) -> Vec<Said> {
    let frames = frames(shard, key).into_iter();
    let envelopes = frames.map(|(opcode, payload)| {
        assert_eq!(opcode, 0x82, "a binary frame");
        said(&payload)
    });
    envelopes.collect()
}

fn reply(type_name: &str, cmd_id: u32, error_code: i32) -> Said {
    Said {
        type_name: type_name.into(),
        cmd_id,
        seq: 7,
        error_code,
    }
}

fn push(cmd_id: u32) -> Said {
    Said {
        type_name: "im.push.PushRequest".into(),
        cmd_id,
        seq: 0,
        error_code: 0,
    }
}

fn pong() -> Said {
    reply("im.base.BaseResponse", 1, 0)
}

fn stored() -> Said {
    reply("im.message.SendMessageResponse", 2, 0)
}

/// A connection of the user 7, logged in by the header of a ping.
fn logged_in(shard: &mut Shard) -> ConnectionKey {
    let key = websocket(shard, "");
    let login = say(shard, key, &bare_frame(1, "a.b.c", "phone")).expect("a login");
    assert!(
        matches!(&login.commands[0].call, Call::Auth { token, .. } if token.expose() == "a.b.c")
    );
    assert!(heard(shard, key).is_empty(), "the ping waits");
    log_in_by(shard, key, &login, 7);
    assert_eq!(heard(shard, key), [pong()]);
    key
}

#[test]
fn a_token_in_a_header_logs_in_and_then_the_request_is_taken_up() {
    let mut shard = shard();
    let key = logged_in(&mut shard);
    let session = &shard.connection(key).expect("a connection").session;
    assert_eq!(session.device(), "phone");
    shard.on_push(direct(7, 1));
    assert_eq!(heard(&mut shard, key), [push(5001)]);
    // Its login stays, whatever later headers say.
    let job = say(&mut shard, key, &chat_frame("x.y.z", "hi")).expect("a send");
    assert!(matches!(&job.commands[0].call, Call::Chat { to: 42, text } if text == "hi"));
    assert!(shard.complete(&job, &answer(&job)).is_none());
    assert_eq!(heard(&mut shard, key), [stored()]);
}

#[test]
fn the_request_of_a_header_login_may_be_a_send_with_others_behind_it() {
    let mut shard = shard();
    let key = websocket(&mut shard, "");
    let stream: Vec<u8> = ["one", "two"]
        .iter()
        .flat_map(|text| masked(&chat_frame("a.b.c", text)))
        .chain(masked(&bare_frame(1, "a.b.c", "")))
        .collect();
    let login = shard.feed(key, &stream).expect("a login");
    assert!(matches!(login.commands[0].call, Call::Auth { .. }));
    let session_id = shard.next_session_id();
    assert!(shard.attach(key, 7, "somebody".into(), session_id));
    shard.set_baseline(key, Some(0));
    let replies = answer(&login);
    let sends = shard.complete(&login, &replies).expect("the sends");
    assert_eq!(sends.commands.len(), 2, "they leave together");
    assert!(shard.complete(&sends, &answer(&sends)).is_none());
    assert_eq!(heard(&mut shard, key), [stored(), stored(), pong()]);
}

#[test]
fn a_token_that_is_no_good_answers_its_request_and_the_next_one_is_read() {
    let mut shard = shard();
    for whole in [true, false] {
        let key = websocket(&mut shard, "");
        let chat = chat_frame("bad", "hi");
        let mut stream = match whole {
            true => masked(&chat),
            false => [
                client_frame(Opcode::Binary, false, [1, 2, 3, 4], &chat[..20]),
                client_frame(Opcode::Continuation, true, [5, 6, 7, 8], &chat[20..]),
            ]
            .concat(),
        };
        stream.extend(masked(&bare_frame(1, "", "")));
        let login = shard.feed(key, &stream).expect("a login");
        let refused = Reply::error(ErrorCode::AuthFailed, "the token is not valid");
        assert!(shard.complete(&login, &[refused]).is_none());
        let expected = [reply("im.message.SendMessageResponse", 2, 2), pong()];
        assert_eq!(heard(&mut shard, key), expected);
        // Alone, it leaves nothing behind.
        let login = say(&mut shard, key, &chat).expect("a login");
        let refused = Reply::error(ErrorCode::TokenExpired, "the token has expired");
        assert!(shard.complete(&login, &[refused]).is_none());
        assert_eq!(heard(&mut shard, key), expected[..1]);
    }
}

#[test]
fn a_request_in_fragments_waits_whole_for_its_login() {
    let mut shard = shard();
    let key = websocket(&mut shard, "");
    let chat = chat_frame("a.b.c", "hi");
    let begin = client_frame(Opcode::Binary, false, [1, 2, 3, 4], &chat[..20]);
    assert!(shard.feed(key, &begin).is_none());
    let end = client_frame(Opcode::Continuation, true, [5, 6, 7, 8], &chat[20..]);
    let login = shard.feed(key, &end).expect("a login");
    let session_id = shard.next_session_id();
    assert!(shard.attach(key, 7, "somebody".into(), session_id));
    shard.set_baseline(key, Some(0));
    let send = shard.complete(&login, &answer(&login)).expect("the send");
    assert!(matches!(&send.commands[0].call, Call::Chat { to: 42, text } if text == "hi"));
}

#[test]
fn without_a_token_there_is_no_command_but_what_leads_to_a_login() {
    let mut shard = shard();
    let key = websocket(&mut shard, "");
    assert!(say(&mut shard, key, &chat_frame("", "hi")).is_none());
    assert!(say(&mut shard, key, &bare_frame(1, "", "")).is_none());
    let expected = [reply("im.message.SendMessageResponse", 2, 2), pong()];
    assert_eq!(heard(&mut shard, key), expected);
}

#[test]
fn forms_may_be_mixed_and_pushes_have_that_of_the_subprotocol() {
    let mut shard = shard();
    let key = websocket(&mut shard, "Sec-WebSocket-Protocol: im.pb\r\n");
    let line = client_frame(Opcode::Text, true, [1, 2, 3, 4], b"ping hello");
    assert!(shard.feed(key, &line).is_none());
    assert_eq!(
        frames(&mut shard, key),
        [(0x81, b"+OK pong hello".to_vec())]
    );
    assert!(say(&mut shard, key, &bare_frame(1, "", "")).is_none());
    assert_eq!(heard(&mut shard, key), [pong()]);
    shard.end(key, CloseReason::Replaced);
    let [kick, close] = &frames(&mut shard, key)[..] else {
        panic!("a kick and the close");
    };
    assert_eq!((kick.0, said(&kick.1)), (0x82, push(5003)));
    assert_eq!((close.0, &close.1[..2]), (0x88, &4001u16.to_be_bytes()[..]));
}

#[test]
fn one_push_reaches_each_form_in_its_own() {
    let mut shard = shard();
    let of_envelopes = logged_in(&mut shard);
    let of_json = super::websocket::logged_in(&mut shard);
    let of_lines = websocket(&mut shard, "Sec-WebSocket-Protocol: im.line\r\n");
    let login = client_frame(Opcode::Text, true, [0; 4], b"login:somebody:secret");
    let login = shard.feed(of_lines, &login).expect("a login");
    log_in_by(&mut shard, of_lines, &login, 7);
    frames(&mut shard, of_lines);
    for seq in [1, 2] {
        shard.on_push(direct(7, seq));
        assert_eq!(heard(&mut shard, of_envelopes), [push(5001)]);
        let [(0x81, object)] = &frames(&mut shard, of_json)[..] else {
            panic!("a text");
        };
        assert!(object.starts_with(br#"{"type":"message""#), "{object:?}");
        let [(0x81, line)] = &frames(&mut shard, of_lines)[..] else {
            panic!("a text");
        };
        assert!(line.starts_with(b"MSG id="), "{line:?}");
    }
}

#[test]
fn a_refused_request_counts_among_what_was_read_before_a_failed_send() {
    let mut shard = shard();
    let key = logged_in(&mut shard);
    let send = say(&mut shard, key, &chat_frame("", "fails")).expect("a send");
    let logout = masked(&bare_frame(1002, "", ""));
    assert!(shard.feed(key, &logout).is_none());
    // Longer than all that comes later: counted as unread, it would cover that.
    let refused = chat_frame("bad", &"x".repeat(90));
    assert!(say(&mut shard, key, &refused).is_none());
    // What was read before the failure is known by its length: nothing behind it is failed.
    let failed = Reply::error(ErrorCode::Timeout, "late");
    let logout = shard.complete(&send, &[failed]).expect("a logout");
    shard.log_out_in_place(key, false);
    let login = shard
        .complete(&logout, &[Reply::LoggedOut])
        .expect("a login");
    let refused = Reply::error(ErrorCode::AuthFailed, "the token is not valid");
    assert!(shard.complete(&login, &[refused]).is_none());
    let login = say(&mut shard, key, &bare_frame(1, "a.b.c", "")).expect("a login");
    log_in_by(&mut shard, key, &login, 7);
    let send = say(&mut shard, key, &chat_frame("", "is tried")).expect("a send");
    assert!(shard.complete(&send, &answer(&send)).is_none());
    let codes: Vec<_> = heard(&mut shard, key)
        .iter()
        .map(|said| said.error_code)
        .collect();
    assert_eq!(codes, [7, 0, 2, 0, 0]);
}

#[test]
fn all_that_is_pulled_is_one_frame_however_much_it_is() {
    let mut shard = shard();
    let key = logged_in(&mut shard);
    let job = say(&mut shard, key, &bare_frame(2002, "", "")).expect("a pull");
    let long = |seq| PushMessage {
        text: "x".repeat(8_000),
        ..(*direct(7, seq)).clone()
    };
    shard.deliver_pulled(&job, &(1..=20).map(long).collect::<Vec<_>>());
    assert!(
        heard(&mut shard, key).is_empty(),
        "nothing before the reply"
    );
    let done = Reply::PullDone {
        count: 20,
        more: false,
    };
    assert!(shard.complete(&job, &[done]).is_none());
    let sent = frames(&mut shard, key);
    assert_eq!(sent.len(), 1);
    assert!(sent[0].1.len() > 160_000);
    assert_eq!(
        said(&sent[0].1),
        reply("im.message.PullMessageResponse", 2, 0)
    );
}

#[test]
fn what_is_no_envelope_is_a_bad_line_and_what_is_unsupported_is_none() {
    let mut shard = shard();
    let key = websocket(&mut shard, "");
    for _ in 0..20 {
        assert!(say(&mut shard, key, &bare_frame(9999, "", "")).is_none());
        assert_eq!(
            heard(&mut shard, key),
            [reply("im.base.BaseResponse", 2, 1)]
        );
    }
    let refused = Said {
        seq: 0,
        ..reply("im.base.BaseResponse", 2, 1)
    };
    let limit = shard.options().protocol_error_limit;
    for _ in 1..limit {
        assert!(say(&mut shard, key, b"nonsense").is_none());
        assert_eq!(heard(&mut shard, key), std::slice::from_ref(&refused));
    }
    assert!(say(&mut shard, key, b"").is_none());
    let end = frames(&mut shard, key);
    assert_eq!(said(&end[0].1), refused);
    assert_eq!(said(&end[1].1), push(5003));
    assert_eq!(&end[2].1[..2], 1008u16.to_be_bytes());
}

#[test]
fn a_frame_that_is_too_long_is_answered_in_the_form_of_pushes_before_the_close() {
    let mut shard = shard();
    let key = logged_in(&mut shard);
    assert!(say(&mut shard, key, &[0; 300]).is_none());
    let end = frames(&mut shard, key);
    assert_eq!(said(&end[0].1).error_code, 6);
    assert_eq!(&end.last().expect("a close").1[..2], 1009u16.to_be_bytes());
}
