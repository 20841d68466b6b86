//! What lines mean, and that none of them can do harm.

use super::*;
use proptest::prelude::*;

/// The command in `line`, spoken on a fresh connection.
fn command(line: &str) -> Result<Command<'_>, Cow<'static, str>> {
    let line = parse_line(line.as_bytes()).expect("a known command");
    parse_arguments(&line, line.dialect.unwrap_or_default()).map_err(|BadArgument(words)| words)
}

fn bad_line(line: &[u8]) -> (Option<Tag>, ErrorCode) {
    let bad = parse_line(line).expect_err("a bad line");
    (bad.tag, bad.code)
}

fn chat(to: UserId, text: &str) -> Result<Command<'_>, Cow<'static, str>> {
    Ok(Command::Chat {
        to,
        text: Cow::Borrowed(text),
    })
}

fn ids(line: &str) -> Vec<MessageId> {
    match command(line) {
        Ok(Command::Ack { ids }) => ids.iter().collect(),
        other => panic!("not an ack: {other:?}"),
    }
}

#[test]
fn the_last_argument_takes_the_rest_colons_and_all() {
    assert_eq!(command("chat:42:see http://x"), chat(42, "see http://x"));
    assert_eq!(command("CHAT:42: hi "), chat(42, " hi "));
    assert_eq!(
        command("login:alice:a:b c"),
        Ok(Command::Login {
            user: "alice",
            password: Secret::new("a:b c")
        })
    );
}

#[test]
fn in_the_space_dialect_spaces_separate() {
    assert_eq!(command("SEND 42 see you: soon"), chat(42, "see you: soon"));
    assert_eq!(command("send   42  two spaces"), chat(42, " two spaces"));
    assert_eq!(command("chat 42 hi"), chat(42, "hi"));
    assert_eq!(
        command("REGISTER alice pass word"),
        Ok(Command::Register {
            user: "alice",
            password: Secret::new("pass word")
        })
    );
    assert_eq!(command("JOINGROUP  7 "), Ok(Command::JoinGroup(7)));
    assert_eq!(command("PULL "), Ok(Command::Pull { limit: 100 }));
    assert_eq!(command("GETFRIENDS"), Ok(Command::Friends));
    assert_eq!(
        command("SET ACK MANUAL"),
        Ok(Command::SetAck(AckMode::Manual))
    );
    assert_eq!(
        command("CREATEGROUP team all of us"),
        Ok(Command::CreateGroup {
            name: "team",
            description: "all of us"
        })
    );
    assert_eq!(
        command("CREATEGROUP team"),
        Ok(Command::CreateGroup {
            name: "team",
            description: ""
        })
    );
}

#[test]
fn the_separator_after_the_command_word_decides_the_dialect() {
    for (line, dialect) in [
        ("chat:42 43:x", Some(Dialect::Colon)),
        ("chat 42:x", Some(Dialect::Space)),
        ("pull", None),
        ("pull:", Some(Dialect::Colon)),
        // Blanks at the end of a line separate nothing.
        ("pull ", None),
        ("pull \t ", None),
    ] {
        assert_eq!(
            parse_line(line.as_bytes()).expect("a command").dialect,
            dialect,
            "{line}"
        );
    }
    // A bare word is answered in the dialect it is a word of, or else in what the connection
    // speaks.
    for speaks in [Dialect::Colon, Dialect::Space] {
        for (line, answer) in [
            ("pull", speaks),
            ("LOGOUT", speaks),
            ("GETFRIENDS", Dialect::Space),
            ("friends", Dialect::Colon),
            ("pull:7", Dialect::Colon),
            ("ping hello", Dialect::Space),
        ] {
            let line = parse_line(line.as_bytes()).expect("a command");
            assert_eq!(line.answer_dialect(speaks), answer, "{line:?}");
        }
    }
    // Only what MPIM's clients say tells what a connection speaks.
    for (line, speaks) in [
        ("SEND 1 hi", Dialect::Space),
        ("LOGIN a b", Dialect::Space),
        ("ping hello", Dialect::Colon),
        ("help set", Dialect::Colon),
        ("pull", Dialect::Colon),
    ] {
        let line = parse_line(line.as_bytes()).expect("a command");
        assert_eq!(line.spoken_dialect(Dialect::Colon), speaks, "{line:?}");
    }
    let line = parse_line(b"chat:1:hi").expect("a command");
    assert_eq!(line.spoken_dialect(Dialect::Space), Dialect::Colon);
    let bare = parse_line(b"pull").expect("a command");
    for dialect in [Dialect::Colon, Dialect::Space] {
        assert_eq!(
            parse_arguments(&bare, dialect),
            Ok(Command::Pull { limit: 100 })
        );
    }
}

#[test]
fn every_command_of_the_contract_is_understood() {
    for (line, expected) in [
        (
            "auth:a.b.c",
            Command::Auth {
                token: Secret::new("a.b.c"),
                user: None,
            },
        ),
        ("refresh", Command::Refresh),
        ("logout", Command::Logout),
        ("logout:all", Command::LogoutAll),
        (
            "password:a: b c",
            Command::Password {
                new: Secret::new("a: b c"),
            },
        ),
        (
            "group_chat:7:hi",
            Command::GroupChat {
                group: 7,
                text: "hi".into(),
            },
        ),
        ("pull:1000", Command::Pull { limit: 1000 }),
        ("ping", Command::Ping { text: None }),
        ("ping:", Command::Ping { text: None }),
        (
            "ping:a:b c",
            Command::Ping {
                text: Some("a:b c"),
            },
        ),
        ("set:ack:auto", Command::SetAck(AckMode::Auto)),
        ("set:device:Phone-2", Command::SetDevice("Phone-2")),
        ("add_friend:2", Command::AddFriend(2)),
        ("remove_friend:2", Command::RemoveFriend(2)),
        ("friends", Command::Friends),
        (
            "create_group:my team",
            Command::CreateGroup {
                name: "my team",
                description: "",
            },
        ),
        ("join_group:7", Command::JoinGroup(7)),
        ("leave_group:7", Command::LeaveGroup(7)),
        ("groups", Command::Groups),
        ("group_members:7", members(7, 0, 1000)),
        ("group_members:7:", members(7, 0, 1000)),
        ("group_members:7:12", members(7, 12, 1000)),
        ("group_members:7:12:50", members(7, 12, 50)),
        ("group_members:7::50", members(7, 0, 50)),
        ("group_members:7:0:1", members(7, 0, 1)),
        ("group_members 7 12 50", members(7, 12, 50)),
        ("who:2", Command::Who(2)),
        ("profile:2", Command::Profile(2)),
        ("search:ali", Command::Search { prefix: "ali" }),
        ("whoami", Command::WhoAmI),
        ("help", Command::Help(None)),
        ("help:SEND", Command::Help(Some(Verb::Chat))),
        ("quit", Command::Quit),
    ] {
        assert_eq!(command(line), Ok(expected), "{line}");
    }
}

#[test]
fn blanks_around_a_command_mean_nothing_but_in_a_text() {
    assert_eq!(command("  chat:42: hi "), chat(42, " hi "));
    assert_eq!(command("\tchat:42 : hi "), chat(42, " hi "));
    assert_eq!(command("@t  chat:42:hi"), chat(42, "hi"));
    assert_eq!(
        parse_line(b" @t  ping").expect("a command").tag,
        Tag::new(b"t")
    );
    for (line, expected) in [
        ("whoami  ", Command::WhoAmI),
        (" friends\t", Command::Friends),
        ("pull:7 ", Command::Pull { limit: 7 }),
        ("who:2 ", Command::Who(2)),
        ("set:device :phone ", Command::SetDevice("phone")),
        ("help:send ", Command::Help(Some(Verb::Chat))),
        ("search:ali ", Command::Search { prefix: "ali" }),
        (
            "create_group:my team ",
            Command::CreateGroup {
                name: "my team",
                description: "",
            },
        ),
        (
            // A password is a text.
            "login:alice : secret ",
            Command::Login {
                user: "alice",
                password: Secret::new(" secret "),
            },
        ),
    ] {
        assert_eq!(command(line), Ok(expected), "{line:?}");
    }
    assert_eq!(ids("ack:3 :1 "), [3, 1]);
}

#[test]
fn a_name_where_a_number_belongs_is_answered_with_the_way_to_the_number() {
    for (line, hint) in [
        ("chat:bob:hi", "search:bob"),
        ("SEND bob hi", "search:bob"),
        ("who:alice", "search:alice"),
        ("add_friend:élise", "search:élise"),
        ("join_group:tea", "groups"),
        ("group_chat:tea:hi", "groups"),
    ] {
        let words = command(line).expect_err("not a number");
        assert!(words.contains(hint), "{line}: {words}");
    }
    for line in [
        "chat:-1:hi",
        "who:9223372036854775808",
        "chat:4x:hi",
        "ack:x",
    ] {
        let words = command(line).expect_err("not a number");
        assert!(words.contains("decimal number"), "{line}: {words}");
    }
}

#[test]
fn a_mistyped_command_is_told_the_nearest_one() {
    let words = |line: &[u8]| parse_line(line).expect_err("no command").words;
    assert!(words(b"caht:42:hi").contains("did you mean chat?"));
    assert_eq!(words(b"dance"), "no such command, try help");
    let words = command("help:regster").expect_err("no command");
    assert!(words.contains("register"), "{words}");
}

#[test]
fn an_ack_names_one_or_more_messages() {
    assert_eq!(ids("ack:1"), [1]);
    assert_eq!(ids("ack:3:1:9223372036854775807"), [3, 1, i64::MAX]);
    assert_eq!(ids("ack 3  1 "), [3, 1]);
    for bad in [
        "ack", "ack:", "ack:1:", "ack::1", "ack:0", "ack:-1", "ack:1 2", "ack 1:2", "ack:x",
        "ack: 1",
    ] {
        assert!(command(bad).is_err(), "{bad}");
    }
}

#[test]
fn arguments_that_cannot_be_meant_are_refused() {
    for bad in [
        "chat",
        "chat:",
        "chat:42",
        "chat:42:",
        "chat:42:  ",
        r"chat:42:\n\r",
        "chat::hi",
        "chat:0:hi",
        "chat:-1:hi",
        "chat:+1:hi",
        "chat:9223372036854775808:hi",
        "chat: 42:hi",
        "chat:4 2:hi",
        "SEND",
        "SEND 42",
        "SEND 42 ",
        "register:alice",
        "register:alice:12345",
        "register::123456",
        "register:al ice:123456",
        "register:al,ice:123456",
        "register:al\tice:123456",
        "REGISTER al:ice 123456",
        "login:alice:",
        "auth",
        "auth:",
        "refresh:x",
        "logout:x",
        "pull:0",
        "pull:1001",
        "pull:x",
        "pull:1:2",
        "set",
        "set:ack",
        "set:ack:never",
        "set:device:",
        "set:device:my phone",
        "set:colour:red",
        "add_friend",
        "add_friend:x",
        "friends:1",
        "create_group",
        "create_group: ",
        "create_group:a:b",
        "create_group:a\tb",
        "join_group:",
        "who:",
        "who:1:2",
        "search:",
        "search:a b",
        "help:nope",
        "quit:now",
    ] {
        assert!(command(bad).is_err(), "{bad}");
    }
}

#[test]
fn passwords_have_their_bounds() {
    let password = |bytes: usize| "p".repeat(bytes);
    for (bytes, register, login) in [
        (1, false, true),
        (5, false, true),
        (6, true, true),
        (128, true, true),
        (129, false, false),
    ] {
        let password = password(bytes);
        assert_eq!(
            command(&format!("register:alice:{password}")).is_ok(),
            register,
            "{bytes}"
        );
        assert_eq!(
            command(&format!("login:alice:{password}")).is_ok(),
            login,
            "{bytes}"
        );
    }
}

#[test]
fn line_breaks_in_texts_are_decoded() {
    assert_eq!(command(r"chat:42:a\nb\\n"), chat(42, "a\nb\\n"));
    assert_eq!(command(r"chat:42:C:\dir"), chat(42, r"C:\dir"));
}

#[test]
fn a_tag_comes_back_even_with_an_error() {
    let tag = Tag::new(b"m-1_A");
    assert_eq!(
        parse_line(b"@m-1_A chat:42:hi").expect("a command").tag,
        tag
    );
    assert_eq!(bad_line(b"@m-1_A nope:1"), (tag, ErrorCode::UnknownCommand));
    assert_eq!(
        bad_line(b"@m-1_A chat:42:\xff"),
        (tag, ErrorCode::BadRequest)
    );
    assert_eq!(bad_line(b"@m-1_A "), (tag, ErrorCode::BadRequest));
    assert_eq!(bad_line(b"@m-1_A \t "), (tag, ErrorCode::BadRequest));
    let longest = [b"@".as_slice(), &[b't'; 32], b" ping"].concat();
    assert!(parse_line(&longest).expect("a command").tag.is_some());
    let too_long = [b"@".as_slice(), &[b't'; 33], b" ping"].concat();
    for bad in [
        b"@".as_slice(),
        b"@ ping",
        b"@a",
        b"@a.b ping",
        b"@a:ping",
        b"@\xff ping",
        &too_long,
    ] {
        assert_eq!(bad_line(bad), (None, ErrorCode::BadRequest), "{bad:?}");
    }
}

#[test]
fn lines_that_are_no_text_are_refused() {
    for bad in [
        b"".as_slice(),
        b":x",
        b" :x",
        b"chat:42:\0",
        b"chat:42:\x1b[1m",
        b"chat:42:\x7f",
        b"ping\r",
        b"chat:42:\xff\xfe",
        "chat:42:\u{85}".as_bytes(),
        b"\x16\x03\x01\x02\x00\x01\x00",
    ] {
        assert_eq!(bad_line(bad), (None, ErrorCode::BadRequest), "{bad:?}");
    }
    for unknown in [
        "nope",
        "nope:1",
        " x",
        "chat\t42 hi",
        "GET / HTTP/1.1",
        "Host: x",
        "ｃhat:42:hi",
        "chat2:1:x",
    ] {
        assert_eq!(
            bad_line(unknown.as_bytes()),
            (None, ErrorCode::UnknownCommand),
            "{unknown}"
        );
    }
    assert_eq!(command("chat:42:a\tb"), chat(42, "a\tb"));
}

#[test]
fn nothing_formats_a_password_or_a_token() {
    for line in [
        "login:alice:hunter2-x",
        "register:alice:hunter2-x",
        "auth:hunter2-x",
        "@t LOGIN alice hunter2-x",
    ] {
        let parsed = parse_line(line.as_bytes()).expect("a command");
        let shown = format!("{parsed:?} {:?}", command(line).expect("a command"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}

/// Lines near the grammar: a command word, separators, and arguments of all kinds.
fn line() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        prop::sample::select(Verb::ALL.to_vec()).prop_map(|verb| verb.name().as_bytes().to_vec()),
        prop::sample::select(vec![
            ":", " ", "@", "@t ", "42", "0", "-", "ack", "device", r"\n", r"\", "alice", "\t"
        ])
        .prop_map(|piece| piece.as_bytes().to_vec()),
        prop::collection::vec(any::<u8>(), 0..4),
    ];
    prop::collection::vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #[test]
    fn no_line_panics_and_what_is_understood_is_within_its_bounds(
        line in line(), space in any::<bool>(),
    ) {
        match parse_line(&line) {
            Err(bad) => prop_assert!(
                matches!(bad.code, ErrorCode::BadRequest | ErrorCode::UnknownCommand)
            ),
            Ok(parsed) => {
                let bare = if space { Dialect::Space } else { Dialect::Colon };
                match parse_arguments(&parsed, parsed.dialect.unwrap_or(bare)) {
                    Err(BadArgument(words)) => prop_assert!(!words.is_empty()),
                    Ok(
                        Command::Chat { to: number, text }
                        | Command::GroupChat { group: number, text },
                    ) => {
                        prop_assert!(number > 0);
                        prop_assert!(!text.trim().is_empty());
                        prop_assert!(text.len() <= line.len());
                    }
                    Ok(Command::Pull { limit }) => {
                        prop_assert!((1..=PULL_LIMIT_MAX).contains(&limit));
                    }
                    Ok(Command::Ack { ids }) => {
                        prop_assert!(ids.iter().count() >= 1);
                        prop_assert!(ids.iter().count() <= line.len() / 2);
                    }
                    Ok(_) => {}
                }
            }
        }
    }

    #[test]
    fn a_text_sent_is_the_text_understood(text in "[a-z\\\\nr\n\r\t :]{0,20}[a-z]", to in 1i64.., tagged in any::<bool>()) {
        for separator in [":", " "] {
            let mut line = format!("{}chat{separator}{to}{separator}", if tagged { "@t " } else { "" }).into_bytes();
            crate::protocol::escape::escape_into(&text, &mut line);
            let parsed = parse_line(&line).expect("a command");
            let command = parse_arguments(&parsed, parsed.dialect.expect("a separator"));
            prop_assert_eq!(command, Ok(Command::Chat { to, text: Cow::Borrowed(text.as_str()) }));
            prop_assert_eq!(parsed.tag.is_some(), tagged);
        }
    }
}

fn members(group: GroupId, after: UserId, limit: u32) -> Command<'static> {
    Command::GroupMembers {
        group,
        after,
        limit,
    }
}

#[test]
fn a_page_of_members_begins_at_a_number_and_has_a_limit() {
    for bad in [
        "group_members",
        "group_members:",
        "group_members::5",
        "group_members:x",
        "group_members:7:x",
        "group_members:7:-1",
        "group_members:7:1:0",
        "group_members:7:1:1001",
        "group_members:7:1:2:3",
    ] {
        let line = parse_line(bad.as_bytes()).unwrap();
        assert!(parse_arguments(&line, Dialect::Colon).is_err(), "{bad}");
    }
}

#[test]
fn where_the_user_service_judges_passwords_have_any_length_and_names_colons_between_spaces() {
    let parse = |line: &str, judge| {
        let line = parse_line(line.as_bytes()).expect("a command");
        parse_arguments_for(&line, line.dialect.expect("a separator"), judge).is_ok()
    };
    let long = format!("LOGIN alice {}", "x".repeat(300));
    let long_name = format!("LOGIN {} password", "x".repeat(65));
    for (line, by_gateway, by_service) in [
        ("REGISTER alice 123", false, true),
        ("register:alice:123", false, true),
        ("LOGIN alice 123", true, true),
        (long.as_str(), false, true),
        ("REGISTER a:b,c password", false, true),
        ("LOGIN a:b,c password", false, true),
        ("register:a,c:password", false, false),
        ("REGISTER  alice password", true, true),
        ("REGISTER a\u{3000}b password", false, false),
        (long_name.as_str(), false, false),
        ("REGISTER alice", false, false),
        ("REGISTER alice ", false, false),
    ] {
        assert_eq!(parse(line, Judge::Gateway), by_gateway, "{line}");
        assert_eq!(parse(line, Judge::UserService), by_service, "{line}");
    }
}
