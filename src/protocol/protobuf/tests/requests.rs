//! Each command in an envelope is the one of its line, and obeys the same rules.

use super::{
    super::{
        messages::{
            base::{BaseRequest, ImHeader},
            friend::{AddFriendRequest, GetFriendListRequest},
            group::{
                ApplyJoinGroupRequest, CreateGroupRequest, GetGroupListRequest,
                GetGroupMembersRequest, JoinGroupRequest, LeaveGroupRequest, QuitGroupRequest,
            },
            message::{MessageBody, MessageType, PullMessageRequest, SendMessageRequest},
            user::{
                GetUserInfoRequest, LoginRequest, LoginType, RegisterRequest, SearchUsersRequest,
            },
        },
        request,
    },
    frame, header, read,
};
use crate::protocol::{
    command::{Command, Dialect, Judge, Tag, Verb, parse_arguments, parse_line},
    error_code::ErrorCode,
    request::ReplyTo,
};

/// A header that names a receiver.
fn header_to(cmd_id: u32, to_uid: &str) -> ImHeader {
    ImHeader {
        to_uid: to_uid.into(),
        ..header(cmd_id)
    }
}

/// A request to send a text.
fn message(to: &str, text: &str, ext: &str) -> Vec<u8> {
    let body = MessageBody {
        content: text.into(),
        ext: ext.into(),
        ..MessageBody::default()
    };
    let request = SendMessageRequest {
        header: None,
        body: Some(body),
    };
    frame(&header_to(2001, to), &request)
}

fn acknowledgement(cmd_id: u32, id: &str) -> Vec<u8> {
    let payload = id.into();
    frame(&header(cmd_id), &BaseRequest { payload })
}

fn login(account: &str, phone: &str, email: &str) -> Vec<u8> {
    let request = LoginRequest {
        r#type: LoginType::LoginAccount.into(),
        account: account.into(),
        phone_number: phone.into(),
        email: email.into(),
        password: "a:b".into(),
        ..LoginRequest::default()
    };
    frame(&header(1001), &request)
}

fn registration(account: &str, phone: &str, password: &str) -> Vec<u8> {
    let request = RegisterRequest {
        account: account.into(),
        phone_number: phone.into(),
        password: password.into(),
        nickname: "not the name".into(),
        ..RegisterRequest::default()
    };
    frame(&header(1003), &request)
}

fn profile(uid: &str, account: &str) -> Vec<u8> {
    let request = GetUserInfoRequest {
        uid: uid.into(),
        account: account.into(),
        ..GetUserInfoRequest::default()
    };
    frame(&header(1004), &request)
}

fn search(keyword: &str) -> Vec<u8> {
    let request = SearchUsersRequest {
        keyword: keyword.into(),
        ..SearchUsersRequest::default()
    };
    frame(&header(3006), &request)
}

fn pull(limit: i32) -> Vec<u8> {
    let request = PullMessageRequest {
        limit,
        ..PullMessageRequest::default()
    };
    frame(&header(2002), &request)
}

fn new_friend(to_uid: &str) -> Vec<u8> {
    let request = AddFriendRequest {
        to_uid: to_uid.into(),
        ..AddFriendRequest::default()
    };
    frame(&header(3001), &request)
}

fn new_group(name: &str) -> Vec<u8> {
    let request = CreateGroupRequest {
        name: name.into(),
        ..CreateGroupRequest::default()
    };
    frame(&header(4001), &request)
}

fn members(group_id: &str, group_record_id: u64) -> Vec<u8> {
    let request = GetGroupMembersRequest {
        group_id: group_id.into(),
        group_record_id,
        ..GetGroupMembersRequest::default()
    };
    frame(&header(4009), &request)
}

fn join(group_id: u64) -> Vec<u8> {
    let header = header(4007);
    frame(
        &header,
        &JoinGroupRequest {
            header: None,
            group_id,
        },
    )
}

fn apply(group_id: &str) -> Vec<u8> {
    let request = ApplyJoinGroupRequest {
        group_id: group_id.into(),
        ..ApplyJoinGroupRequest::default()
    };
    frame(&header(4007), &request)
}

/// Commands as a line and as a frame.
fn both_forms() -> Vec<(&'static str, Vec<u8>)> {
    [of_messages(), of_accounts(), of_people()].concat()
}

fn of_messages() -> Vec<(&'static str, Vec<u8>)> {
    let group = r#"{"conversation_type":"group","more":[1]}"#;
    let direct = r#"{"conversation_type":"direct"}"#;
    vec![
        ("chat:42:hi", message("42", "hi", "")),
        (r"chat:42:a\nb", message("42", "a\nb", direct)),
        ("chat:42:hi", message("42", "hi", "no JSON")),
        ("group_chat:7:hi", message("g7", "hi", "")),
        ("group_chat:7:hi", message("g7", "hi", direct)),
        ("group_chat:7:hi", message("7", "hi", group)),
        ("pull", pull(0)),
        ("pull:5", pull(5)),
        (
            "ack:9007199254740993",
            acknowledgement(2005, "9007199254740993"),
        ),
        ("ack:2", acknowledgement(2006, "2")),
    ]
}

fn of_accounts() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("ping", frame(&header(1), &BaseRequest::default())),
        ("ping", frame(&header(1), &PullMessageRequest::default())),
        ("refresh", frame(&header(4), &BaseRequest::default())),
        ("login:alice:a:b", login("alice", "", "")),
        ("login:alice:a:b", login("alice", "+491", "a@example.org")),
        ("login:+491:a:b", login("", "+491", "a@example.org")),
        ("login:a@example.org:a:b", login("", "", "a@example.org")),
        ("logout", frame(&header(1002), &BaseRequest::default())),
        (
            "register:alice:wonderland",
            registration("alice", "+491", "wonderland"),
        ),
        (
            "register:+491:wonderland",
            registration("", "+491", "wonderland"),
        ),
        ("profile:2", profile("2", "3")),
        ("profile:3", profile("", "3")),
        ("search:ali", search("ali")),
    ]
}

fn of_people() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("add_friend:2", new_friend("2")),
        (
            "remove_friend:2",
            frame(&header_to(3002, "2"), &BaseRequest::default()),
        ),
        (
            "friends",
            frame(&header(3003), &GetFriendListRequest::default()),
        ),
        ("create_group:tea time", new_group("tea time")),
        (
            "groups",
            frame(&header(4003), &GetGroupListRequest::default()),
        ),
        ("join_group:7", join(7)),
        ("join_group:7", apply("7")),
        (
            "leave_group:7",
            frame(
                &header(4008),
                &LeaveGroupRequest {
                    header: None,
                    group_id: 7,
                },
            ),
        ),
        (
            "leave_group:7",
            frame(
                &header(4008),
                &QuitGroupRequest {
                    header: None,
                    group_id: "7".into(),
                },
            ),
        ),
        ("group_members:7", members("7", 9)),
        ("group_members:9", members("", 9)),
    ]
}

/// Compares a frame's command with a line's.
#[track_caller]
fn assert_same(line: &str, frame: &[u8]) -> Verb {
    let request = read(frame);
    let by_frame = request.command(Judge::Gateway);
    let parsed = parse_line(line.as_bytes()).expect("a line");
    let by_line = parse_arguments(&parsed, Dialect::Colon);
    match (by_line, by_frame) {
        (Ok(Command::Ack { ids: one }), Ok(Command::Ack { ids: other })) => {
            assert!(one.iter().eq(other.iter()), "{line}");
        }
        (by_line, by_frame) => assert_eq!(by_frame, by_line, "{line}"),
    }
    assert_eq!(request.verb(), parsed.verb, "{line}");
    request.verb()
}

#[test]
fn each_command_is_the_same_in_both_forms() {
    let seen: Vec<Verb> = both_forms()
        .iter()
        .map(|(line, frame)| assert_same(line, frame))
        .collect();
    let absent = Verb::ALL.into_iter().filter(|verb| !seen.contains(verb));
    let absent: Vec<_> = absent
        .map(Verb::name)
        .filter(|name| *name != "panic")
        .collect();
    // The table has no number for these: the token of a header is what `auth` is here.
    assert_eq!(
        absent,
        ["auth", "password", "set", "who", "whoami", "help", "quit"]
    );
}

#[test]
fn arguments_obey_the_rules_of_lines() {
    for (line, frame) in [
        ("chat:0:hi", message("0", "hi", "")),
        ("chat:bob:hi", message("bob", "hi", "")),
        ("chat:42: ", message("42", " ", "")),
        ("group_chat:tea:hi", message("gtea", "hi", "")),
        ("pull:1001", pull(1001)),
        ("pull:0", pull(-1)),
        ("ack:0", acknowledgement(2005, "0")),
        ("ack:-5", acknowledgement(2006, "-5")),
        (
            "ack:9223372036854775808",
            acknowledgement(2005, "9223372036854775808"),
        ),
        ("register:alice:short", registration("alice", "", "short")),
        (
            "register:a,b:wonderland",
            registration("a,b", "", "wonderland"),
        ),
        ("profile:bob", profile("", "bob")),
        ("search:a b", search("a b")),
        ("add_friend:bob", new_friend("bob")),
        ("create_group:a:b", new_group("a:b")),
        ("join_group:0", join(0)),
        ("join_group:9223372036854775808", join(1 << 63)),
        ("join_group:tea", apply("tea")),
        ("group_members:0", members("", 0)),
    ] {
        assert_same(line, &frame);
    }
}

#[test]
fn what_a_line_could_not_say_is_a_bad_argument() {
    let of_type = |kind: MessageType| {
        let body = MessageBody {
            r#type: kind.into(),
            content: "hi".into(),
            ..MessageBody::default()
        };
        let request = SendMessageRequest {
            header: None,
            body: Some(body),
        };
        frame(&header_to(2001, "42"), &request)
    };
    for frame in [
        message("", "hi", ""),
        message("42", "", ""),
        message("42", "a\0b", ""),
        frame(&header_to(2001, "42"), &SendMessageRequest::default()),
        frame(
            &header(2005),
            &BaseRequest {
                payload: vec![0xff],
            },
        ),
        frame(&header(3002), &BaseRequest::default()),
        login("", "", ""),
        frame(
            &header(1001),
            &LoginRequest {
                account: "alice".into(),
                ..LoginRequest::default()
            },
        ),
        registration("alice", "", ""),
        profile("", ""),
        search(""),
        new_group(""),
        apply(""),
        of_type(MessageType::System),
        of_type(MessageType::Recall),
        // Of another type than its command takes.
        frame(&header_to(2001, "42"), &PullMessageRequest::default()),
        frame(&header(4008), &JoinGroupRequest::default()),
    ] {
        assert!(read(&frame).command(Judge::Gateway).is_err(), "{frame:?}");
    }
    for kind in [MessageType::Image, MessageType::Custom] {
        assert!(read(&of_type(kind)).command(Judge::Gateway).is_ok());
    }
}

#[test]
fn a_number_that_is_no_command_here_is_unsupported_and_answered_with_its_seq() {
    let numbers = [0, 2, 3, 5, 1000, 1005, 2003, 2004, 2007, 3004, 4000, 4002];
    for cmd_id in
        numbers
            .into_iter()
            .chain([4004, 4005, 4006, 4010, 4011, 4012, 5001, 9999, u32::MAX])
    {
        let frame = frame(&header(cmd_id), &BaseRequest::default());
        let bad = request::read(&frame).expect_err("no command");
        assert_eq!(bad.code, ErrorCode::Unsupported, "{cmd_id}");
        let Some(ReplyTo::Protobuf(answer)) = bad.to else {
            panic!("{cmd_id}: not answered in its form");
        };
        assert!(format!("{answer:?}").contains("seq: 7"), "{answer:?}");
    }
}

/// The mark of a message with these in its header.
fn tag(seq: u32, timestamp: u64, device_id: &str) -> Option<Tag> {
    let header = ImHeader {
        seq,
        timestamp,
        device_id: device_id.into(),
        ..header_to(2001, "42")
    };
    read(&frame(&header, &SendMessageRequest::default())).tag()
}

#[test]
fn a_message_is_known_again_by_seq_timestamp_and_device_together() {
    let mark = tag(1, 2, "phone").expect("a tag");
    assert_eq!(tag(1, 2, "phone"), Some(mark));
    for other in [
        tag(2, 2, "phone"),
        tag(1, 3, "phone"),
        tag(1, 2, "phone2"),
        tag(1, 2, ""),
    ] {
        assert_ne!(other.expect("a tag"), mark);
    }
    assert_eq!(tag(1, 0, "phone"), None);
    let ping = ImHeader {
        timestamp: 5,
        ..header(1)
    };
    assert_eq!(read(&frame(&ping, &BaseRequest::default())).tag(), None);
}

#[test]
fn a_device_is_called_by_its_id_or_by_the_hash_of_one_that_is_no_name() {
    let named = |device_id: &str| {
        let header = ImHeader {
            device_id: device_id.into(),
            ..header(1)
        };
        let request = read(&frame(&header, &BaseRequest::default()));
        request.device().map(|name| name.into_owned())
    };
    assert_eq!(named(""), None);
    assert_eq!(named("phone"), Some("phone".into()));
    let of_browser = named("web:2f1c9d34-0d3c-4b0e-8f7e-5d1c2b3a4f50").expect("a name");
    assert!(of_browser.starts_with("id-") && of_browser.len() <= 16);
    assert_ne!(
        named("web:2f1c9d34-0d3c-4b0e-8f7e-5d1c2b3a4f51"),
        Some(of_browser)
    );
}

#[test]
fn a_token_logs_in_but_where_the_request_says_who_it_is() {
    let ping = read(&frame(&header(1), &BaseRequest::default()));
    assert_eq!(ping.token().map(|token| *token.expose()), Some("a.b.c"));
    assert!(read(&login("alice", "", "")).token().is_none());
    assert!(read(&registration("alice", "", "x")).token().is_none());
    let anonymous = ImHeader {
        token: String::new(),
        ..header(1)
    };
    assert!(
        read(&frame(&anonymous, &BaseRequest::default()))
            .token()
            .is_none()
    );
}

#[test]
fn nothing_secret_is_shown() {
    let shown = format!("{:?}", read(&login("alice", "", "")));
    assert_eq!(shown, "ProtobufRequest { seq: 7, verb: Login, .. }");
    let answer = read(&login("alice", "", "")).answer();
    assert!(!format!("{answer:?}").contains("a.b.c"), "{answer:?}");
}
