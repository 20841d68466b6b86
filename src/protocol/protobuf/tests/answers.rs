//! What a client reads of replies and pushes.

use prost::{Message, Name};

use super::{
    super::{
        messages::{
            base::{BaseRequest, BaseResponse, ImHeader},
            friend::{
                AddFriendRequest, AddFriendResponse, FriendInfo, GetFriendListRequest,
                GetFriendListResponse,
            },
            group::{
                ApplyJoinGroupRequest, ApplyJoinGroupResponse, CreateGroupRequest,
                CreateGroupResponse, GetGroupListRequest, GetGroupListResponse,
                GetGroupMembersRequest, GetGroupMembersResponse, GroupActionResponse,
                JoinGroupRequest, LeaveGroupRequest, QuitGroupRequest, QuitGroupResponse,
            },
            message::{
                MessageBody, PullMessageRequest, PullMessageResponse, SendMessageRequest,
                SendMessageResponse,
            },
            push::{PushMessageBody, PushRequest, PushType},
            user::{
                GetUserInfoRequest, GetUserInfoResponse, LoginRequest, LoginResponse,
                RegisterRequest, RegisterResponse, SearchUsersRequest, SearchUsersResponse,
            },
        },
        push, reply, request,
    },
    frame, header, read, success, written,
};
use crate::{
    base::{id::made_ms, secret::Secret},
    protocol::{
        codec::{Codec, Form},
        error_code::ErrorCode,
        push::Push,
        reply::Reply,
        request::ReplyTo,
        websocket::written_length,
    },
};

/// The reply to a request with this number and body, which is an `M`.
#[track_caller]
fn answered<M: Name + Default>(cmd_id: u32, body: &impl Name, reply: &Reply) -> (ImHeader, M) {
    let header = ImHeader {
        to_uid: "42".into(),
        ..header(cmd_id)
    };
    let mut out = Vec::new();
    reply::write(reply, &read(&frame(&header, body)).answer(), &mut out);
    written(&out)
}

/// The body of that reply.
#[track_caller]
fn body<M: Name + Default>(cmd_id: u32, request: &impl Name, reply: &Reply) -> M {
    answered(cmd_id, request, reply).1
}

fn nothing() -> BaseRequest {
    BaseRequest::default()
}

#[test]
fn a_reply_has_the_seq_and_the_token_of_its_request_and_goes_the_other_way() {
    let request = SendMessageRequest::default();
    let reply = Reply::Stored {
        group: false,
        message_id: 5,
        duplicate: false,
    };
    let (header, _) = answered::<SendMessageResponse>(2001, &request, &reply);
    let expected = ImHeader {
        version: "1.0".into(),
        seq: 7,
        cmd_id: 2,
        from_uid: "42".into(),
        to_uid: "1".into(),
        token: "a.b.c".into(),
        ..ImHeader::default()
    };
    assert_eq!(header, expected);
    let (header, body) = answered::<BaseResponse>(1, &nothing(), &Reply::Pong(None));
    assert_eq!(
        (header.cmd_id, header.seq, body),
        (1, 7, BaseResponse::default())
    );
}

#[test]
fn logins_answer_with_the_token_they_made_and_refresh_brings_one_in_its_payload() {
    let request = LoginRequest {
        account: "alice".into(),
        ..LoginRequest::default()
    };
    let reply = Reply::LoggedIn {
        uid: 9,
        session: 3,
        token: Some(Secret::new("new".into())),
        replaced: true,
    };
    let (header, response) = answered::<LoginResponse>(1001, &request, &reply);
    assert_eq!(header.token, "new");
    let user = response.user.expect("who it is");
    assert_eq!((user.uid.as_str(), user.account.as_str()), ("9", "alice"));
    assert_eq!(response.base.expect("a base").payload, b"replaced=1");
    let request = RegisterRequest {
        email: "a@example.org".into(),
        ..Default::default()
    };
    let (header, response) = answered::<RegisterResponse>(1003, &request, &reply);
    let user = response.user.expect("who it is");
    assert_eq!(
        (header.token.as_str(), user.account.as_str()),
        ("new", "a@example.org")
    );
    let reply = Reply::Token(Secret::new("fresh".into()));
    let (header, base) = answered::<BaseResponse>(4, &nothing(), &reply);
    assert_eq!(
        (header.token.as_str(), &base.payload[..]),
        ("a.b.c", &b"fresh"[..])
    );
}

#[test]
fn a_stored_message_comes_back_with_its_number_and_its_time() {
    let message = MessageBody {
        content: "hi".into(),
        r#type: 1,
        ext: r#"{"a":1}"#.into(),
        sender_uid: "666".into(),
        ..MessageBody::default()
    };
    let request = SendMessageRequest {
        header: None,
        body: Some(message.clone()),
    };
    let id = 1_573_609_626_040_012_800;
    let reply = Reply::Stored {
        group: false,
        message_id: id,
        duplicate: true,
    };
    let response: SendMessageResponse = body(2001, &request, &reply);
    let expected = MessageBody {
        message_id: id.to_string(),
        sender_uid: "1".into(),
        receiver_uid: "42".into(),
        create_time: made_ms(id),
        ..message
    };
    assert_eq!(response.message, Some(expected));
    assert_eq!(response.base.expect("a base").payload, b"dup=1");
}

#[test]
fn replies_about_users_and_friends() {
    let reply = Reply::Profile {
        uid: 2,
        name: "bob".into(),
    };
    let request = GetUserInfoRequest::default();
    let response: GetUserInfoResponse = body(1004, &request, &reply);
    let user = response.user.expect("a user");
    assert_eq!(
        (&user.uid[..], &user.account[..], &user.nickname[..]),
        ("2", "bob", "bob")
    );
    let reply = Reply::Users(vec![(2, "bob".into()), (3, "bo".into())]);
    let request = SearchUsersRequest::default();
    let response: SearchUsersResponse = body(3006, &request, &reply);
    let users: Vec<_> = response.users.iter().map(|user| &user.uid[..]).collect();
    assert_eq!(users, ["2", "3"]);
    let request = AddFriendRequest {
        to_uid: "5".into(),
        message: "please".into(),
        ..AddFriendRequest::default()
    };
    let response: AddFriendResponse = body(3001, &request, &Reply::FriendAdded);
    let made = response.request.expect("a request");
    assert_eq!(
        (&made.from_uid[..], &made.to_uid[..], made.status),
        ("1", "5", 1)
    );
    assert_eq!(
        body::<BaseResponse>(3002, &nothing(), &Reply::FriendRemoved),
        nothing_said()
    );
    let request = GetFriendListRequest::default();
    let response: GetFriendListResponse = body(3003, &request, &Reply::Friends(vec![2, 3]));
    let friend = |uid: &str| FriendInfo {
        uid: uid.into(),
        status: 1,
        ..FriendInfo::default()
    };
    assert_eq!(response.friends, [friend("2"), friend("3")]);
    assert_eq!(response.base, success());
}

fn nothing_said() -> BaseResponse {
    BaseResponse::default()
}

#[test]
fn replies_about_groups() {
    let request = CreateGroupRequest {
        name: "tea".into(),
        ..CreateGroupRequest::default()
    };
    let response: CreateGroupResponse = body(4001, &request, &Reply::GroupCreated(7));
    let group = response.group.expect("a group");
    assert_eq!(
        (&group.group_id[..], &group.name[..], response.group_id),
        ("7", "tea", 7)
    );
    let request = GetGroupListRequest::default();
    let response: GetGroupListResponse = body(4003, &request, &Reply::Groups(vec![7, 9]));
    let groups: Vec<_> = response
        .groups
        .iter()
        .map(|group| &group.group_id[..])
        .collect();
    assert_eq!(groups, ["7", "9"]);
    let request = GetGroupMembersRequest::default();
    let reply = Reply::Members {
        ids: vec![1, 2],
        more: true,
    };
    let response: GetGroupMembersResponse = body(4009, &request, &reply);
    let members: Vec<_> = response
        .members
        .iter()
        .map(|member| &member.uid[..])
        .collect();
    assert_eq!(members, ["1", "2"]);
    assert_eq!(response.base.expect("a base").payload, b"more=1");
    let (joined, left) = (Reply::Joined(7), Reply::Left(7));
    let response: GroupActionResponse = body(4007, &JoinGroupRequest::default(), &joined);
    assert_eq!(response.base, success());
    let response: ApplyJoinGroupResponse = body(4007, &ApplyJoinGroupRequest::default(), &joined);
    assert_eq!(response.base, success());
    let response: GroupActionResponse = body(4008, &LeaveGroupRequest::default(), &left);
    assert_eq!(response.base, success());
    let response: QuitGroupResponse = body(4008, &QuitGroupRequest::default(), &left);
    assert_eq!(response.base, success());
}

#[test]
fn every_error_has_its_number_and_begins_with_its_word() {
    for code in ErrorCode::ALL {
        let number = match code.word() {
            "NOT_LOGGED_IN" | "AUTH_FAILED" | "TOKEN_EXPIRED" => 2,
            "NOT_FOUND" => 3,
            "FORBIDDEN" => 4,
            "USER_EXISTS" => 5,
            "BAD_ARGUMENT" | "LINE_TOO_LONG" => 6,
            "TIMEOUT" => 7,
            "BAD_REQUEST" | "UNKNOWN_COMMAND" | "UNSUPPORTED" | "ALREADY_LOGGED_IN" => 1,
            _ => 500,
        };
        let base: BaseResponse = body(1, &nothing(), &Reply::error(code, "words"));
        assert_eq!(base.error_code, number, "{code:?}");
        assert_eq!(base.error_message, format!("{} words", code.word()));
    }
    let reply = Reply::Error {
        code: ErrorCode::RateLimited,
        retry_ms: Some(5),
        words: "slower".into(),
    };
    let response: SendMessageResponse = body(2001, &SendMessageRequest::default(), &reply);
    let base = response.base.expect("a base");
    assert_eq!(base.error_message, "RATE_LIMITED retry_ms=5 slower");
    assert_eq!(response.message, None);
}

#[test]
fn what_is_unsupported_is_answered_with_the_response_of_its_command() {
    for (cmd_id, name) in [
        (0, "im.base.BaseResponse"),
        (2004, "im.base.BaseResponse"),
        (2007, "im.message.PullMessageResponse"),
        (4002, "im.group.GetGroupInfoResponse"),
        (4005, "im.group.InviteMemberResponse"),
        (4006, "im.group.KickMemberResponse"),
        (4010, "im.group.GetGroupMessagesResponse"),
        (4011, "im.group.TransferGroupOwnerResponse"),
    ] {
        let bad = request::read(&frame(&header(cmd_id), &nothing())).expect_err("unsupported");
        let Some(ReplyTo::Protobuf(answer)) = bad.to else {
            panic!("{cmd_id}: not answered in its form");
        };
        let mut out = Vec::new();
        reply::write(&Reply::error(bad.code, bad.words), &answer, &mut out);
        let envelope = super::envelope::read(&out).expect("an envelope");
        assert_eq!(envelope.type_name, name);
        assert_eq!((envelope.header.seq, envelope.header.cmd_id), (7, 2));
        // All responses have their base in the same place.
        let response = GroupActionResponse::decode(envelope.body);
        let base = match name {
            "im.base.BaseResponse" => BaseResponse::decode(envelope.body).expect("a base"),
            _ => response.expect("a response").base.expect("a base"),
        };
        assert_eq!(base.error_code, 1, "{name}");
    }
}

fn direct(to: Option<i64>) -> Push<'static> {
    Push::Message {
        id: 5,
        seq: Some(9),
        from: 2,
        to,
        ts_ms: 1_760_000_000_000,
        duplicate: false,
        text: "a\nb",
    }
}

fn of_group(duplicate: bool) -> Push<'static> {
    Push::GroupMessage {
        id: 6,
        group: 7,
        seq: Some(1),
        from: 2,
        ts_ms: 4,
        duplicate,
        text: "hi",
    }
}

#[track_caller]
fn pushed(push: &Push<'_>) -> (ImHeader, PushMessageBody) {
    let mut out = Vec::new();
    push::write(push, &mut out);
    let (header, request) = written::<PushRequest>(&out);
    (header, request.body.expect("a body"))
}

#[test]
fn a_pushed_message_says_who_sent_it_in_which_conversation() {
    let (header, body) = pushed(&direct(None));
    let expected = ImHeader {
        version: "1.0".into(),
        cmd_id: 5001,
        from_uid: "2".into(),
        timestamp: 1_760_000_000_000,
        ..ImHeader::default()
    };
    assert_eq!(header, expected);
    assert_eq!(
        (&body.push_id[..], &body.related_message_id[..]),
        ("5", "5")
    );
    assert_eq!(
        (body.r#type(), &body.content[..]),
        (PushType::PushMessage, "a\nb")
    );
    let said = r#"{"sender_uid":"2","conversation_type":"direct","conversation_id":"2"}"#;
    assert_eq!(body.ext, said);
    let (header, body) = pushed(&direct(Some(3)));
    let said = r#"{"sender_uid":"2","conversation_type":"direct","conversation_id":"3"}"#;
    assert_eq!((&header.to_uid[..], &body.ext[..]), ("3", said));
    let (header, body) = pushed(&of_group(false));
    let said = r#"{"sender_uid":"2","conversation_type":"group","conversation_id":"7"}"#;
    assert_eq!((header.cmd_id, &body.ext[..]), (5001, said));
    let (header, body) = pushed(&of_group(true));
    assert_eq!((header.cmd_id, &body.ext[..]), (5005, said));
}

#[test]
fn notices_and_kicks_are_told_in_json() {
    for (push, content) in [
        (
            Push::Notice {
                kind: "broadcast",
                text: "tea \"now\"",
            },
            r#"{"kind":"broadcast","text":"tea \"now\""}"#,
        ),
        (
            Push::Friend {
                online: true,
                uid: 2,
                name: "bob",
            },
            r#"{"kind":"friend_online","uid":2,"name":"bob"}"#,
        ),
        (
            Push::Kick { reason: "replaced" },
            r#"{"reason":"replaced"}"#,
        ),
    ] {
        let (header, body) = pushed(&push);
        assert_eq!(header.cmd_id, 5003);
        assert_eq!(body.r#type(), PushType::PushNotification);
        assert_eq!(body.content, content);
    }
}

#[test]
fn a_frame_is_whole_whatever_its_last_byte_is() {
    let of = |id| Push::Message {
        id,
        seq: None,
        from: 2,
        to: None,
        ts_ms: 4,
        duplicate: false,
        text: "hi",
    };
    // In lines a line feed at the end is no part of a frame.
    let ends_with_lf = |id: &i64| {
        let mut envelope = Vec::new();
        push::write(&of(*id), &mut envelope);
        envelope.ends_with(b"\n")
    };
    let id = (1..).find(ends_with_lf).expect("one in 256");
    let mut envelope = Vec::new();
    push::write(&of(id), &mut envelope);
    let mut out = Vec::new();
    Codec::WebSocket(Form::Protobuf).write_push(&of(id), &mut out);
    assert_eq!(written_length(&out), Some(out.len()));
    assert!(out[0] == 0x82 && out.ends_with(&envelope));
}

#[test]
fn all_that_was_pulled_is_one_response() {
    let mut messages = Vec::new();
    for push in [direct(None), direct(Some(3)), of_group(true)] {
        reply::write_message(&push, 8, &mut messages);
    }
    let answer = read(&frame(&header(2002), &PullMessageRequest::default())).answer();
    let reply = Reply::PullDone {
        count: 3,
        more: true,
    };
    let mut out = Vec::new();
    reply::write_pulled(&messages, &reply, &answer, &mut out);
    let (header, response) = written::<PullMessageResponse>(&out);
    assert_eq!((header.seq, header.cmd_id), (7, 2));
    assert_eq!(response.base.expect("a base").payload, b"more=1");
    let read: Vec<_> = response
        .messages
        .iter()
        .map(|message| {
            (
                &message.message_id[..],
                &message.receiver_uid[..],
                &message.content[..],
            )
        })
        .collect();
    assert_eq!(
        read,
        [("5", "8", "a\nb"), ("5", "3", "a\nb"), ("6", "g7", "hi")]
    );
    assert_eq!(response.messages[0].create_time, 1_760_000_000_000);
}
