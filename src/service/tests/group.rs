//! Groups and their messages.

use super::*;
use crate::{contract::methods::method, proto::PushKind};

fn join(world: &mut World, user_id: UserId, group_id: i64) -> Code {
    let request = proto::JoinGroupRequest { user_id, group_id };
    code(&world.call::<method::JoinGroup>(request).result)
}

fn leave(world: &mut World, user_id: UserId, group_id: i64) -> Code {
    let request = proto::LeaveGroupRequest { user_id, group_id };
    code(&world.call::<method::LeaveGroup>(request).result)
}

#[test]
fn a_group_message_is_stored_once_published_once_and_waits_for_each_member() {
    let mut world = World::new();
    let (alice, bob, carol) = (world.user("alice"), world.user("bob"), world.user("carol"));
    let group = world.group(alice, &[bob, carol]);
    let mut request = world.group_draft(alice, group, "hello");
    request.session_id = 9;
    let sent = world.call::<method::SendGroup>(request);
    let pushed = world.published();
    assert_eq!(pushed.len(), 1);
    let (channel, push) = &pushed[0];
    assert_eq!(*channel, Channel::Group(group));
    assert_eq!((push.msg_id, push.group_id), (sent.msg_id, group));
    assert_eq!((push.from, push.seq, push.session_id), (alice, 1, 9));
    assert_eq!(world.count("SELECT count(*) FROM messages"), 1);
    assert_eq!(world.ack(bob, &[sent.msg_id]).acked, 1);
    assert!(world.pulled(bob).is_empty());
    assert_eq!(world.pulled(carol), [("hello".to_owned(), false)]);
}

#[test]
fn ones_own_group_message_needs_no_confirmation_even_after_a_crash() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let group = world.group(alice, &[bob]);
    world.send_group(alice, group, "mine");
    world.send_group(bob, group, "yours");
    let expected = [("yours".to_owned(), false)];
    assert_eq!(world.crashed().pulled(alice), expected);
    assert_eq!(world.pulled(alice), expected);
}

#[test]
fn only_members_write_to_a_group_read_it_or_leave_it() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let group = world.group(alice, &[]);
    assert_eq!(
        code(&world.send_group(bob, group, "x").result),
        Code::Forbidden
    );
    assert_eq!(
        code(&world.send_group(bob, 999, "x").result),
        Code::NotFound
    );
    assert_eq!(leave(&mut world, bob, group), Code::Forbidden);
    assert_eq!(leave(&mut world, bob, 999), Code::NotFound);
    assert_eq!(join(&mut world, bob, 999), Code::NotFound);
    let request = proto::PullGroupRequest {
        group_id: group,
        user_id: bob,
        ..Default::default()
    };
    let refused = world.call::<method::PullGroup>(request);
    assert_eq!(code(&refused.result), Code::Forbidden);
}

#[test]
fn a_member_sees_what_came_after_joining_and_nothing_before() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let group = world.group(alice, &[]);
    world.send_group(alice, group, "before");
    assert_eq!(join(&mut world, bob, group), Code::Ok);
    world.send_group(alice, group, "after");
    assert_eq!(join(&mut world, bob, group), Code::Ok);
    assert_eq!(world.pulled(bob), [("after".to_owned(), false)]);
    let fetched = world.call::<method::PullGroup>(proto::PullGroupRequest {
        group_id: group,
        user_id: bob,
        after_seq: 0,
        to_seq: 0,
        limit: 10,
    });
    let numbers: Vec<u64> = fetched.group_msg_list.iter().map(|m| m.seq).collect();
    assert_eq!(numbers, [2]);
    assert_eq!(leave(&mut world, bob, group), Code::Ok);
    assert!(world.pulled(bob).is_empty());
}

#[test]
fn each_change_of_membership_is_published_to_the_users_routes() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let group = world.group(alice, &[]);
    world.send_group(alice, group, "x");
    world.bind(bob, 0, 1);
    world.bind(bob, 2, 2);
    world.published();
    join(&mut world, bob, group);
    join(&mut world, bob, group);
    leave(&mut world, bob, group);
    let pushed: Vec<_> = world
        .published()
        .into_iter()
        .map(|(channel, push)| {
            assert_eq!((push.to, push.group_id, push.seq), (bob, group, 1));
            (channel, push.kind())
        })
        .collect();
    let expected = [
        (route(0), PushKind::GroupJoined),
        (route(2), PushKind::GroupJoined),
        (route(0), PushKind::GroupLeft),
        (route(2), PushKind::GroupLeft),
    ];
    assert_eq!(pushed, expected);
}

#[test]
fn lists_and_facts_of_groups_follow_the_memberships() {
    let mut world = World::new();
    let (alice, bob) = (world.user("alice"), world.user("bob"));
    let first = world.group(alice, &[bob]);
    let second = world.group(bob, &[]);
    world.send_group(alice, first, "x");
    let groups = world.call::<method::GetUserGroups>(proto::GetUserGroupsRequest { user_id: bob });
    assert_eq!(groups.group_ids, [first, second]);
    assert_eq!(groups.last_seqs, [1, 0]);
    let members = world.call::<method::GetGroupMembers>(proto::GetGroupMembersRequest {
        group_id: first,
        ..Default::default()
    });
    assert_eq!(members.member_ids, [alice, bob]);
    let info = world.call::<method::GetGroupInfo>(proto::GetGroupInfoRequest { group_id: first });
    assert_eq!(
        (info.group_name.as_str(), info.creator_id),
        ("a group", alice)
    );
    assert_eq!(info.member_count, 2);
    leave(&mut world, bob, first);
    let info = world.call::<method::GetGroupInfo>(proto::GetGroupInfoRequest { group_id: first });
    assert_eq!(info.member_count, 1);
}

#[test]
fn members_come_in_pages_and_only_to_members() {
    let mut world = World::new();
    let users: Vec<i64> = (0..5).map(|n| world.user(&format!("user{n}"))).collect();
    let stranger = world.user("stranger");
    let group = world.group(users[0], &users[1..]);
    let page = |world: &mut World, asker_id, after_user_id, limit| {
        world.call::<method::GetGroupMembers>(proto::GetGroupMembersRequest {
            group_id: group,
            after_user_id,
            limit,
            asker_id,
        })
    };
    let mut found = Vec::new();
    loop {
        let after = found.last().copied().unwrap_or(0);
        let response = page(&mut world, users[4], after, 2);
        assert!(response.asker_is_member);
        found.extend(response.member_ids);
        if !response.more {
            break;
        }
    }
    assert_eq!(found, users);
    let whole = page(&mut world, users[4], 0, 5);
    assert_eq!((whole.member_ids.len(), whole.more), (5, false));
    let refused = page(&mut world, stranger, 0, 2);
    assert_eq!(code(&refused.result), Code::Forbidden);
    assert!(refused.member_ids.is_empty());
}

#[test]
fn a_group_refuses_while_a_member_is_too_far_behind() {
    let mut world = World::with_inbox_limit(3);
    let (alice, bob, carol) = (world.user("alice"), world.user("bob"), world.user("carol"));
    let group = world.group(alice, &[bob, carol]);
    for number in 1..=3 {
        assert_eq!(
            code(&world.send_group(alice, group, "x").result),
            Code::Ok,
            "{number}"
        );
        world.ack_range(bob, group, 1, number);
    }
    for _ in 0..2 {
        assert_eq!(
            code(&world.send_group(alice, group, "x").result),
            Code::Unavailable
        );
    }
    world.ack_range(carol, group, 2, 3);
    assert_eq!(code(&world.send_group(alice, group, "x").result), Code::Ok);
    world.ack_range(bob, group, 4, 4);
    assert_eq!(code(&world.send_group(alice, group, "x").result), Code::Ok);
    assert_eq!(
        code(&world.send_group(alice, group, "x").result),
        Code::Unavailable
    );
    leave(&mut world, carol, group);
    assert_eq!(code(&world.send_group(alice, group, "x").result), Code::Ok);
}

#[test]
fn a_repeat_in_a_group_is_not_stored_again() {
    let mut world = World::new();
    let alice = world.user("alice");
    let group = world.group(alice, &[]);
    let mut request = world.group_draft(alice, group, "x");
    request.client_msg_id = "tag".to_owned();
    let first = world.call::<method::SendGroup>(request.clone());
    request.msg.as_mut().expect("a message").msg_id = world.msg_id();
    let again = world.call::<method::SendGroup>(request);
    assert_eq!((again.msg_id, again.duplicate), (first.msg_id, true));
    assert_eq!(world.count("SELECT count(*) FROM messages"), 1);
}
