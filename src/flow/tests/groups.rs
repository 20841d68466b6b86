//! Commands about groups, against services that know less than ours.

use super::*;
use crate::flow::commands;

/// What a command is answered by `world`.
fn answer(world: &World, key: ConnectionKey, line: &str) -> Reply {
    let mut job = world
        .core
        .shard()
        .feed(key, format!("{line}\n").as_bytes())
        .expect("a job");
    let core = Rc::clone(&world.core);
    let reply = Rc::new(RefCell::new(None));
    let kept = Rc::clone(&reply);
    let mut flow: Flow = Box::pin(async move {
        let done = commands::run(&core, &mut job).await;
        core.shard().complete(&job, &done);
        *kept.borrow_mut() = done.into_iter().next();
    });
    assert!(go_on(&mut flow));
    reply.take().expect("a reply")
}

#[test]
fn a_service_without_pages_is_paged_by_the_gateway() {
    let world = World::new(1, |request| match request {
        Request::GetGroupMembers(_) => Ok(proto::GetGroupMembersResponse {
            result: result(Code::Ok),
            member_ids: vec![9, 2, 4, 7],
            ..Default::default()
        }
        .into()),
        _ => Err(CallError::Unsupported),
    });
    let (key, _) = world.log_in(7, &[]);
    let members = |line: &str| match answer(&world, key, line) {
        Reply::Members { ids, more } => (ids, more),
        other => panic!("{other:?}"),
    };
    assert_eq!(members("group_members:1"), (vec![2, 4, 7, 9], false));
    assert_eq!(members("group_members:1:0:2"), (vec![2, 4], true));
    // The one who asks is not on this page, and a member all the same.
    assert_eq!(members("group_members:1:7:2"), (vec![9], false));

    let (stranger, _) = world.log_in(8, &[]);
    let refused = answer(&world, stranger, "group_members:1");
    assert!(matches!(refused, Reply::Error { .. }), "{refused:?}");
}

#[test]
fn a_page_of_a_service_that_has_pages_need_not_hold_the_one_who_asks() {
    let world = World::new(1, |request| match request {
        Request::GetGroupMembers(request) => Ok(proto::GetGroupMembersResponse {
            result: result(Code::Ok),
            member_ids: vec![request.after_user_id + 1, request.after_user_id + 2],
            more: true,
            asker_is_member: request.asker_id == 7,
        }
        .into()),
        _ => Err(CallError::Unsupported),
    });
    let (key, _) = world.log_in(7, &[]);
    let page = Reply::Members {
        ids: vec![11, 12],
        more: true,
    };
    assert_eq!(answer(&world, key, "group_members:1:10:2"), page);
}

#[test]
fn a_new_group_with_a_negative_number_is_a_broken_answer_and_0_is_what_mpim_says() {
    for (number, is_answer) in [(-5, false), (0, true), (5, true)] {
        let world = World::new(1, move |request| match request {
            Request::CreateGroup(_) => Ok(proto::CreateGroupResponse {
                result: result(Code::Ok),
                group_id: number,
            }
            .into()),
            _ => Err(CallError::Unsupported),
        });
        let (key, _) = world.log_in(7, &[]);
        let reply = answer(&world, key, "create_group:tea");
        if is_answer {
            assert_eq!(reply, Reply::GroupCreated(number));
        } else {
            assert!(matches!(reply, Reply::Error { .. }), "{reply:?}");
        }
    }
}
