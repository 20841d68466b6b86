//! Protobuf frames: conversations between clients of all three forms, logins by header, repeats,
//! confirmations, and every command of the table.

use serde_json::{Value, json};

use crate::common::client::password_of;
use crate::common::protobuf::{Envelope, Fields};
use crate::common::websocket::TEXT;
use crate::common::{Client, Gateway, ProtobufClient, WebSocket, eventually};

fn nothing() -> Fields {
    Fields::default()
}

/// A client with a new account logged in on it.
fn registered(gateway: &Gateway, name: &str) -> ProtobufClient {
    let mut client = ProtobufClient::connect(gateway);
    client.register(name);
    client
}

/// A line client, one of JSON and one of protobuf frames, each with an account.
fn one_of_each_form(gateway: &Gateway) -> (Client, WebSocket, ProtobufClient) {
    let alice = gateway.register("alice");
    let mut bob = WebSocket::connect(gateway.web_address());
    bob.register("bob");
    (alice, bob, registered(gateway, "carol"))
}

/// The JSON in which a pushed message says its conversation.
fn conversation(push: &Envelope) -> Value {
    let extension = push.body.get(2).get_text(5);
    serde_json::from_str(&extension).expect("JSON")
}

/// The numbers of what a client pulls, and whether there is more.
fn pull(client: &mut ProtobufClient, limit: u64) -> (Vec<Fields>, bool) {
    let request = nothing().number(4, limit);
    let answer = "message.PullMessageResponse";
    let reply = client.ask(2002, "message.PullMessageRequest", request, answer);
    let more = reply.base().get_text(3) == "more=1";
    (reply.body.get_all(2), more)
}

#[test]
fn clients_of_three_forms_are_in_one_conversation() {
    let gateway = Gateway::start_with_web(|config| {
        config.cores(2);
    });
    let (mut alice, mut bob, mut carol) = one_of_each_form(&gateway);
    let text = "two\nlines, a \\n, {braces} and \u{1f389}";
    let id = alice.chat(carol.uid, r"two\nlines, a \\n, {braces} and 🎉");
    let push = carol.push();
    assert_eq!(
        (push.cmd_id(), push.type_name.as_str()),
        (5001, "im.push.PushRequest")
    );
    assert_eq!(push.message(), (alice.uid, text.to_owned(), id));
    let said = json!({"sender_uid": alice.uid.to_string(), "conversation_type": "direct",
        "conversation_id": alice.uid.to_string()});
    assert_eq!(conversation(&push), said);
    let stored = carol.say(&bob.uid.to_string(), text);
    assert_eq!(stored.get_text(3), text);
    assert_eq!(stored.get_text(8), carol.uid.to_string());
    assert!(stored.get_number(10) > 1_700_000_000_000, "{stored:?}");
    let data = bob.push()["data"].take();
    assert_eq!(
        (&data["id"], &data["text"]),
        (&json!(stored.get_text(1)), &json!(text))
    );
    assert_eq!(data["from"], carol.uid);
    let id = bob.ask("chat", json!({"to": carol.uid, "text": "and back"}));
    let (_, _, pushed) = carol.push().message();
    assert_eq!(id["msg_id"], pushed.to_string());
    let id = carol.chat(&alice.uid.to_string(), "a\r\nb\tc");
    let push = alice.push();
    assert_eq!((push.id(), push.text()), (id, "a\\r\\nb\tc"));
    carol.assert_no_push();
    // All were confirmed by their arrival.
    for name in ["alice", "bob", "carol"] {
        eventually("nothing is left in the inbox", || {
            gateway.login_on(name, "other").pull("pull").0.is_empty()
        });
    }
}

#[test]
fn a_group_has_members_of_three_forms() {
    let gateway = Gateway::start_with_web(|config| {
        config.cores(2);
    });
    let (mut alice, mut bob, mut carol) = one_of_each_form(&gateway);
    let request = nothing().text(2, "tea party");
    let answer = "group.CreateGroupResponse";
    let reply = carol.ask(4001, "group.CreateGroupRequest", request, answer);
    let group = reply.body.get_number(3);
    assert_eq!(reply.body.get(2).get_text(1), group.to_string());
    assert_eq!(reply.body.get(2).get_text(2), "tea party");
    assert!(
        alice
            .ask(&format!("join_group:{group}"))
            .starts_with("+OK joined")
    );
    bob.ask("join_group", json!({"gid": group}));
    let id = alice.group_chat(group, "hello");
    let push = carol.push();
    assert_eq!(push.message(), (alice.uid, "hello".into(), id));
    let said = json!({"sender_uid": alice.uid.to_string(), "conversation_type": "group",
        "conversation_id": group.to_string()});
    assert_eq!(conversation(&push), said);
    assert_eq!(bob.push()["data"]["id"], id.to_string());
    // By the number's letter, and by what stands beside the message.
    let id = carol.chat(&format!("g{group}"), "by its letter");
    assert_eq!(alice.push().id(), id);
    assert_eq!(bob.push()["data"]["group"], group);
    let body = nothing()
        .text(3, "by its kind")
        .text(7, r#"{"conversation_type":"group"}"#);
    let request = nothing().message(2, &body);
    let to = group.to_string();
    let reply = carol.request((2001, &to), "message.SendMessageRequest", request);
    assert_eq!(reply.base().get_number(1), 0, "{reply:?}");
    assert_eq!(alice.push().text(), "by its kind");
}

#[test]
fn a_group_is_listed_left_and_joined_again() {
    let gateway = Gateway::start_with_web(|_| {});
    let mut alice = gateway.register("alice");
    let group = alice.create_group("tea");
    let to = group.to_string();
    let mut carol = registered(&gateway, "carol");
    let request = nothing().text(2, &to);
    let answer = "group.ApplyJoinGroupResponse";
    carol.ask(4007, "group.ApplyJoinGroupRequest", request, answer);
    let request = nothing().text(2, &to);
    let answer = "group.GetGroupMembersResponse";
    let reply = carol.ask(4009, "group.GetGroupMembersRequest", request, answer);
    let members: Vec<_> = reply
        .body
        .get_all(2)
        .iter()
        .map(|member| member.get_text(1))
        .collect();
    assert_eq!(members, [alice.uid, carol.uid].map(|uid| uid.to_string()));
    let answer = "group.GetGroupListResponse";
    let reply = carol.ask(4003, "group.GetGroupListRequest", nothing(), answer);
    assert_eq!(reply.body.get(2).get_number(8), group);
    let request = nothing().text(2, &to);
    carol.ask(
        4008,
        "group.QuitGroupRequest",
        request,
        "group.QuitGroupResponse",
    );
    alice.group_chat(group, "without carol");
    carol.assert_no_push();
    let request = nothing().number(2, group);
    carol.ask(
        4007,
        "group.JoinGroupRequest",
        request,
        "group.GroupActionResponse",
    );
    let id = alice.group_chat(group, "with carol");
    assert_eq!(carol.push().message().2, id);
}

#[test]
fn a_frame_that_is_sent_again_stores_its_message_once() {
    let gateway = Gateway::start_with_web(|_| {});
    let mut alice = gateway.register("alice");
    let mut bob = registered(&gateway, "bob").with_header("phone", "");
    let to = alice.uid.to_string();
    let message = |text: &str| nothing().message(2, &nothing().text(3, text));
    let kind = "message.SendMessageRequest";
    let mut request = bob.envelope((2001, &to), kind, message("once"));
    request.header = request.header.number(6, 1_760_000_000_000);
    bob.send(&request);
    let first = bob.reply();
    assert_eq!(first.base().get_text(3), "");
    bob.send(&request);
    let again = bob.reply();
    assert_eq!(again.base().get_text(3), "dup=1");
    assert_eq!(again.body.get(2).get_text(1), first.body.get(2).get_text(1));
    // On another connection, logged in by the token, as a client does that lost the reply.
    let mut other = ProtobufClient::connect(&gateway);
    request.header = request.header.text(7, &bob.token);
    other.send(&request);
    assert_eq!(other.reply().base().get_text(3), "dup=1");
    assert_eq!(alice.push().text(), "once");
    alice.assert_no_push();
    // Another text with the same mark is none of it.
    request.body = message("twice");
    other.send(&request);
    let base = other.reply().base();
    assert_eq!(base.get_number(1), 6);
    assert!(base.get_text(2).starts_with("BAD_ARGUMENT "), "{base:?}");
    // Without a time in its header every message is one of its own.
    let ids = [bob.chat(&to, "again"), bob.chat(&to, "again")];
    assert_ne!(ids[0], ids[1]);
    assert_eq!(
        alice
            .pushes(2)
            .iter()
            .map(|push| push.id())
            .collect::<Vec<_>>(),
        ids
    );
}

#[test]
fn a_token_in_the_header_logs_in_and_a_device_has_one_connection() {
    let gateway = Gateway::start_with_web(|_| {});
    let mut alice = gateway.register("alice");
    let bob = registered(&gateway, "bob");
    let (token, to) = (bob.token.clone(), alice.uid.to_string());
    let device = "web-2f1c9d34-0d3c-4b0e-8f7e";
    let mut first = ProtobufClient::connect(&gateway).with_header(device, &token);
    // The first thing it says is a message.
    let id = first.chat(&to, "hello");
    assert_eq!(alice.push().id(), id);
    let mut second = ProtobufClient::connect(&gateway).with_header(device, &token);
    second.assert_no_push();
    first.assert_kicked("replaced", 4001);
    let mut third = ProtobufClient::connect(&gateway).with_header("desk", &token);
    third.assert_no_push();
    second.assert_no_push();
    let id = alice.chat(bob.uid, "to all of them");
    for client in [&mut second, &mut third] {
        assert_eq!(client.push().message().2, id);
    }
    // What one device sends the others get too, as a copy.
    let id = third.chat(&to, "from the desk");
    let copy = second.push();
    assert_eq!(copy.message(), (bob.uid, "from the desk".into(), id));
    assert_eq!(copy.header.get_text(5), to);
    assert_eq!(conversation(&copy)["conversation_id"], to.as_str());
    let (output, log) = gateway.output();
    assert!(!output.contains(&token) && !log.contains(&token));
}

#[test]
fn a_bad_token_in_the_header_is_answered_and_the_connection_lives() {
    let gateway = Gateway::start_with_web(|_| {});
    registered(&gateway, "bob");
    let mut client = ProtobufClient::connect(&gateway).with_header("phone", "a.b.c");
    let (code, words) = client.refused(3003, "friend_.GetFriendListRequest", nothing());
    assert_eq!((code, words.split(' ').next()), (2, Some("AUTH_FAILED")));
    let mut client = client.with_header("phone", "");
    let (code, words) = client.refused(3003, "friend_.GetFriendListRequest", nothing());
    assert_eq!((code, words.split(' ').next()), (2, Some("NOT_LOGGED_IN")));
    client.login("bob");
    client.assert_no_push();
}

#[test]
fn what_is_not_confirmed_by_hand_comes_again_at_the_next_login() {
    let gateway = Gateway::start_with_web(|_| {});
    let mut alice = gateway.register("alice");
    let bob = registered(&gateway, "bob");
    let (token, uid) = (bob.token.clone(), bob.uid);
    drop(bob);
    let target = format!("/ws?token={token}&device=tab&ack=manual");
    let mut bob = ProtobufClient::open(&gateway, &target);
    let ids: Vec<u64> = (1..=4)
        .map(|number| alice.chat(uid, &format!("message {number}")))
        .collect();
    for id in &ids {
        let push = bob.push();
        assert_eq!((push.cmd_id(), push.message().2), (5001, *id));
    }
    drop(bob);
    let mut bob = ProtobufClient::open(&gateway, &target);
    for id in &ids {
        let push = bob.push();
        assert_eq!((push.cmd_id(), push.message().2), (5005, *id));
    }
    let (messages, more) = pull(&mut bob, 3);
    let pulled: Vec<u64> = messages
        .iter()
        .map(|message| message.get_text(1).parse().expect("a number"))
        .collect();
    assert_eq!((&pulled[..], more), (&ids[..3], true));
    assert_eq!(messages[0].get_text(8), alice.uid.to_string());
    assert_eq!(messages[0].get_text(9), uid.to_string());
    for (id, cmd_id) in ids.iter().zip([2005, 2006].into_iter().cycle()) {
        let request = nothing().text(1, &id.to_string());
        bob.ask(cmd_id, "base.BaseRequest", request, "base.BaseResponse");
    }
    assert_eq!(pull(&mut bob, 0), (Vec::new(), false));
}

#[test]
fn much_that_was_pulled_is_one_frame() {
    let gateway = Gateway::start_with_web(|_| {});
    let mut alice = gateway.register("alice");
    let (uid, token) = {
        let bob = registered(&gateway, "bob");
        (bob.uid, bob.token.clone())
    };
    // What is handed out while he is still known to be here comes as a push at his login.
    eventually("bob is gone", || {
        alice.ask(&format!("who:{uid}")).contains(" online=0 ")
    });
    let text = "x".repeat(5_000);
    let ids: Vec<String> = (0..60)
        .map(|_| alice.chat(uid, &text).to_string())
        .collect();
    let mut bob = ProtobufClient::connect(&gateway).with_header("tab", &token);
    let (messages, more) = pull(&mut bob, 0);
    let pulled: Vec<_> = messages.iter().map(|message| message.get_text(1)).collect();
    assert_eq!((pulled, more), (ids, false));
    eventually("its arrival confirmed it", || {
        gateway.login_on("bob", "other").pull("pull").0.is_empty()
    });
}

#[test]
fn accounts_and_tokens() {
    let gateway = Gateway::start_with_web(|_| {});
    let mut client = ProtobufClient::connect(&gateway);
    let password = password_of("a@example.org");
    let request = nothing().text(4, "a@example.org").text(5, &password);
    let answer = "user.RegisterResponse";
    let reply = client.ask(1003, "user.RegisterRequest", request.clone(), answer);
    let uid = reply.body.get(2).get_text(1);
    assert_eq!(reply.body.get(2).get_text(2), "a@example.org");
    let token = reply.token();
    let (code, words) = client.refused(1003, "user.RegisterRequest", request.clone());
    assert_eq!(
        (code, words.split(' ').next()),
        (1, Some("ALREADY_LOGGED_IN"))
    );
    let mut other = ProtobufClient::connect(&gateway);
    let (code, words) = other.refused(1003, "user.RegisterRequest", request);
    assert_eq!((code, words.split(' ').next()), (5, Some("USER_EXISTS")));
    let request = nothing()
        .text(5, "a@example.org")
        .text(6, "another password");
    let (code, words) = other.refused(1001, "user.LoginRequest", request);
    assert_eq!((code, words.split(' ').next()), (2, Some("AUTH_FAILED")));
    // A fresh token is in the payload, and logs in.
    let mut client = ProtobufClient::connect(&gateway).with_header("tab", &token);
    let reply = client.ask(4, "base.BaseRequest", nothing(), "base.BaseResponse");
    assert_eq!(reply.token(), token);
    let fresh = reply.body.get_text(3);
    let mut renewed = ProtobufClient::connect(&gateway).with_header("desk", &fresh);
    let request = nothing().text(3, &uid);
    let answer = "user.GetUserInfoResponse";
    let reply = renewed.ask(1004, "user.GetUserInfoRequest", request, answer);
    assert_eq!(reply.body.get(2).get_text(2), "a@example.org");
    renewed.ask(1002, "base.BaseRequest", nothing(), "base.BaseResponse");
    let (code, words) = renewed.refused(1, "base.BaseRequest", nothing());
    assert_eq!((code, words.split(' ').next()), (2, Some("AUTH_FAILED")));
    client.assert_kicked("revoked", 4007);
}

#[test]
fn friends_are_found_added_and_seen() {
    let gateway = Gateway::start_with_web(|_| {});
    let mut alice = registered(&gateway, "alice");
    let mut bob = gateway.register("bob");
    let request = nothing().text(2, "bo");
    let answer = "user.SearchUsersResponse";
    let reply = alice.ask(3006, "user.SearchUsersRequest", request, answer);
    let uid = reply.body.get(2).get_text(1);
    assert_eq!(uid, bob.uid.to_string());
    let request = nothing().text(2, &uid).text(3, "please");
    let answer = "friend_.AddFriendResponse";
    let reply = alice.ask(3001, "friend_.AddFriendRequest", request, answer);
    let made = reply.body.get(2);
    assert_eq!((made.get_text(3), made.get_number(5)), (uid.clone(), 1));
    let answer = "friend_.GetFriendListResponse";
    let friends = |alice: &mut ProtobufClient| {
        let reply = alice.ask(3003, "friend_.GetFriendListRequest", nothing(), answer);
        let friends = reply.body.get_all(2);
        friends
            .iter()
            .map(|friend| friend.get_text(1))
            .collect::<Vec<_>>()
    };
    assert_eq!(friends(&mut alice), std::slice::from_ref(&uid));
    bob.ask(&format!("add_friend:{}", alice.uid));
    bob.ask("quit");
    let _bob = gateway.login("bob");
    let notice = alice.push();
    assert_eq!(
        (notice.cmd_id(), notice.body.get(2).get_number(2)),
        (5003, 1)
    );
    let said: Value = serde_json::from_str(&notice.body.get(2).get_text(3)).expect("JSON");
    let expected = json!({"kind": "friend_online", "uid": bob.uid, "name": "bob"});
    assert_eq!(said, expected);
    let reply = alice.request((3002, &uid), "base.BaseRequest", nothing());
    assert_eq!(
        (reply.type_name.as_str(), reply.base().get_number(1)),
        ("im.base.BaseResponse", 0)
    );
    assert_eq!(friends(&mut alice), Vec::<String>::new());
}

#[test]
fn texts_and_bytes_are_mixed_on_one_connection() {
    let gateway = Gateway::start_with_web(|_| {});
    let mut alice = gateway.register("alice");
    let mut bob = WebSocket::connect(gateway.web_address());
    bob.register("bob");
    let mut carol = registered(&gateway, "carol");
    // Carol's first frame was bytes, and Bob's a text: that is the form of their pushes.
    carol.socket.send_frame(TEXT, b"@t whoami");
    let whoami = format!("@t +OK uid={} name=carol ", carol.uid);
    let line = carol.socket.text();
    assert!(line.starts_with(&whoami), "{line}");
    let data = carol.socket.ask("whoami", json!({}));
    assert_eq!(data["name"], "carol");
    let id = alice.chat(carol.uid, "hello");
    assert_eq!(carol.push().message().2, id);
    let mut bytes = ProtobufClient::connect(&gateway);
    let ping = bytes.envelope((1, ""), "base.BaseRequest", nothing());
    bob.send_frame(0x82, &ping.bytes());
    match bob.frame() {
        Some(crate::common::websocket::Frame::Binary(reply)) => {
            assert_eq!(Envelope::read(&reply).cmd_id(), 1);
        }
        other => panic!("{other:?}"),
    }
    alice.chat(bob.uid, "hello");
    assert_eq!(bob.push()["data"]["text"], "hello");
}
