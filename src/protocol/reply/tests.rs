//! That replies read exactly as the contract says, whatever names and words they carry.

use super::*;
use proptest::prelude::*;

fn line(reply: &Reply, dialect: Dialect) -> String {
    let mut out = Vec::new();
    reply.write(None, dialect, &mut out);
    String::from_utf8(out).expect("a reply is text")
}

fn secret(text: &str) -> Secret<String> {
    Secret::new(text.to_owned())
}

const FORM_OF_CHAT: &str = "+OK form=chat:uid:text example=chat:42:hello \
    text=sends a message to a user; search:name finds the number";

/// That replies read so in the one dialect, and so in the other.
fn assert_forms<const N: usize>(forms: [(Reply, &str, &str); N]) {
    for (reply, colon, space) in forms {
        assert_eq!(line(&reply, Dialect::Colon), format!("{colon}\n"));
        assert_eq!(line(&reply, Dialect::Space), format!("{space}\n"));
    }
}

/// The same in both dialects.
fn assert_form(reply: Reply, form: &str) {
    assert_forms([(reply, form, form)]);
}

#[test]
fn replies_to_a_login_have_the_form_of_the_contract() {
    let logged_in = |token: Option<&str>, replaced| Reply::LoggedIn {
        uid: 42,
        session: 7,
        token: token.map(secret),
        replaced,
    };
    assert_forms([
        (
            logged_in(Some("a.b"), false),
            "+OK uid=42 session=7 token=a.b",
            "+OK uid=42",
        ),
        (
            logged_in(Some("a.b"), true),
            "+OK uid=42 session=7 token=a.b replaced=1",
            "+OK uid=42",
        ),
        (Reply::LoggedOut, "+OK logout", "+OK logout success"),
    ]);
    assert_form(logged_in(None, true), "+OK uid=42 session=7 replaced=1");
    assert_form(logged_in(None, false), "+OK uid=42 session=7");
    assert_form(Reply::Token(secret("a.b")), "+OK token=a.b");
    assert_form(Reply::PasswordChanged, "+OK password changed");
}

#[test]
fn replies_about_messages_have_the_form_of_the_contract() {
    let stored = |group, duplicate| Reply::Stored {
        group,
        message_id: 9,
        duplicate,
    };
    let pulled = |count, more| Reply::PullDone { count, more };
    assert_forms([
        (stored(true, false), "+OK msg_id=9", "+OK group_msg_id=9"),
        (
            pulled(3, false),
            "+OK pull_done count=3 more=0",
            "+OK pull_done",
        ),
        (
            pulled(100, true),
            "+OK pull_done count=100 more=1",
            "+OK pull_done",
        ),
    ]);
    assert_form(stored(false, false), "+OK msg_id=9");
    assert_form(stored(false, true), "+OK msg_id=9 dup=1");
    assert_form(Reply::Acked(2), "+OK acked=2");
    assert_form(Reply::AckMode(AckMode::Manual), "+OK ack=manual");
}

#[test]
fn replies_about_friends_and_groups_have_the_form_of_the_contract() {
    let members = |more| Reply::Members {
        ids: vec![1, 2],
        more,
    };
    assert_forms([
        (Reply::FriendAdded, "+OK", "+OK friend added"),
        (
            Reply::Friends(vec![1, 2, 3]),
            "+OK friends=1,2,3",
            "+OK friends: 1,2,3",
        ),
        (Reply::Friends(vec![]), "+OK friends=", "+OK friends: "),
        (
            Reply::Joined(7),
            "+OK joined group_id=7",
            "+OK joined group",
        ),
    ]);
    assert_form(Reply::FriendRemoved, "+OK");
    assert_form(Reply::GroupCreated(7), "+OK group_id=7");
    assert_form(Reply::Left(7), "+OK left group_id=7");
    assert_form(Reply::Groups(vec![7, 9]), "+OK groups=7,9");
    assert_form(members(false), "+OK members=1,2");
    assert_form(members(true), "+OK members=1,2 more=1");
}

#[test]
fn replies_about_users_have_the_form_of_the_contract() {
    let presence = |devices: &[&str]| Reply::Presence {
        uid: 42,
        online: !devices.is_empty(),
        devices: devices.iter().map(|device| (*device).to_owned()).collect(),
    };
    assert_form(
        presence(&["phone", "cli"]),
        "+OK uid=42 online=1 devices=phone,cli",
    );
    assert_form(presence(&[]), "+OK uid=42 online=0 devices=");
    let profile = Reply::Profile {
        uid: 42,
        name: "alice".into(),
    };
    assert_form(profile, "+OK uid=42 name=alice");
    let users = Reply::Users(vec![(42, "alice".into()), (57, "alina".into())]);
    assert_form(users, "+OK users=42:alice,57:alina");
    let who_am_i = Reply::WhoAmI {
        uid: 42,
        name: "alice".into(),
        device: "cli".into(),
        ack_mode: AckMode::Auto,
    };
    assert_form(who_am_i, "+OK uid=42 name=alice device=cli ack=auto");
}

#[test]
fn replies_about_the_connection_have_the_form_of_the_contract() {
    let welcome = format!(
        "+OK welcome to im-gateway/{}, try help",
        env!("CARGO_PKG_VERSION")
    );
    assert_form(Reply::Welcome, &welcome);
    assert_form(Reply::Pong(None), "+OK pong");
    assert_form(Reply::Pong(Some("a:b c".into())), "+OK pong a:b c");
    assert_form(Reply::Device("phone".into()), "+OK device=phone");
    assert_form(Reply::Form(Verb::Chat), FORM_OF_CHAT);
    assert_form(Reply::Bye, "+OK bye");
    assert_form(
        Reply::error(ErrorCode::NotFound, "no such user"),
        "-ERR NOT_FOUND no such user",
    );
    let limited = Reply::Error {
        code: ErrorCode::RateLimited,
        retry_ms: Some(1500),
        words: "too many attempts".into(),
    };
    assert_form(limited, "-ERR RATE_LIMITED retry_ms=1500 too many attempts");
}

#[test]
fn a_tag_stands_before_its_reply() {
    let tag = Tag::new(b"m1").expect("a tag");
    let mut out = Vec::new();
    Reply::Pong(None).write(Some(&tag), Dialect::Colon, &mut out);
    Reply::error(ErrorCode::NotFound, "").write(Some(&tag), Dialect::Colon, &mut out);
    assert_eq!(out, b"@m1 +OK pong\n@m1 -ERR NOT_FOUND\n");
}

#[test]
fn help_lists_every_command_once_beside_those_of_its_family() {
    let help = line(&Reply::Commands, Dialect::Colon);
    let families: Vec<Vec<_>> = help
        .trim_end()
        .strip_prefix("+OK commands=")
        .and_then(|rest| rest.strip_suffix(" example=help:chat"))
        .expect("a list, and how to ask for more")
        .split(';')
        .map(|family| family.split(',').filter_map(Verb::lookup).collect())
        .collect();
    assert_eq!(families.concat().len(), Verb::COUNT);
    for (verbs, family) in families.iter().zip(Family::ALL) {
        assert!(!verbs.is_empty());
        for verb in verbs {
            assert_eq!(verb.family(), family, "{verb:?}");
        }
    }
    assert_eq!(families.len(), Family::ALL.len());
}

#[test]
fn no_reply_formats_a_token() {
    let reply = Reply::LoggedIn {
        uid: 1,
        session: 1,
        token: Some(secret("hunter2")),
        replaced: false,
    };
    assert!(!format!("{reply:?} {:?}", Reply::Token(secret("hunter2"))).contains("hunter2"));
}

proptest! {
    #[test]
    fn names_and_words_of_others_never_forge_a_line_or_a_field(
        text in prop_oneof![any::<String>(), Just("x\n+OK uid=1 name=y, 7:z online=1".to_owned())],
    ) {
        let devices = vec![text.clone(), "cli".to_owned()];
        let replies = [
            Reply::Pong(Some(text.clone())),
            Reply::Device(text.clone()),
            Reply::Token(secret(&text)),
            Reply::Presence { uid: 1, online: true, devices },
            Reply::Profile { uid: 1, name: text.clone() },
            Reply::Users(vec![(1, text.clone()), (2, "bob".to_owned())]),
            Reply::WhoAmI {
                uid: 1, name: text.clone(), device: text.clone(), ack_mode: AckMode::Auto,
            },
            Reply::error(ErrorCode::Internal, text),
        ];
        let spaces = [None, Some(1), Some(1), Some(3), None, Some(1), Some(4), None];
        for (reply, spaces) in replies.iter().zip(spaces) {
            let line = line(reply, Dialect::Colon);
            let body = line.strip_suffix('\n').expect("a line ends by LF");
            prop_assert!(!body.contains(|c: char| c.is_control() && c != '\t'), "{:?}", body);
            if let Some(spaces) = spaces {
                prop_assert_eq!(body.matches(char::is_whitespace).count(), spaces, "{:?}", body);
            }
        }
        prop_assert_eq!(line(&replies[5], Dialect::Colon).matches([',', ':']).count(), 3);
        prop_assert_eq!(line(&replies[3], Dialect::Colon).matches(',').count(), 1);
    }
}
