//! `create_group`, `join_group`, `leave_group`, `groups`, `group_members`.
//!
//! Joining and leaving reach the shard as pushes that the Group Service sends to all of the user's
//! cores; the core that asked applies them at once as well, so that they hold when the reply is
//! written.

use super::{Failure, check_numbers, with_numbers};
use crate::{
    base::id::{GroupId, UserId},
    contract::{backend::Backend, bus::PushSource, methods::method},
    flow::core::Core,
    proto::{
        Code, CreateGroupRequest, GetGroupMembersRequest, GetUserGroupsRequest,
        GetUserGroupsResponse, JoinGroupRequest, LeaveGroupRequest,
    },
    protocol::{error_code::ErrorCode, reply::Reply},
    session::job::Job,
    shard::Standing,
};

pub(super) async fn create<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    name: &str,
    description: &str,
) -> Result<Reply, Failure> {
    let response = core
        .ask::<method::CreateGroup>(CreateGroupRequest {
            creator_id: job.user(),
            group_name: name.to_owned(),
            description: description.to_owned(),
        })
        .await
        .map_err(|failure| {
            failure.or_refused("the name is refused, or you are in too many groups")
        })?;
    if response.group_id < 0 {
        // No service numbers so: the answer is a broken one.
        return Err(Failure::Backend(Code::Internal));
    }
    // 0, which MPIM's service gives, is its answer all the same: the group is there, and the client
    // hears what it would hear of the service itself.
    if let [group] = with_numbers(core, vec![response.group_id], |id| *id)[..] {
        take_up(core, job, group).await;
    }
    Ok(Reply::GroupCreated(response.group_id))
}

pub(super) async fn join<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    group: GroupId,
) -> Result<Reply, Failure> {
    core.ask::<method::JoinGroup>(JoinGroupRequest {
        user_id: job.user(),
        group_id: group,
    })
    .await
    .map_err(|failure| failure.or_refused("the group is full, or you are in too many groups"))?;
    take_up(core, job, group).await;
    Ok(Reply::Joined(group))
}

/// The groups of an answer, each with what the service says of the membership.
pub(in crate::flow) fn with_standings<B, P>(
    core: &Core<B, P>,
    groups: &GetUserGroupsResponse,
) -> Vec<(GroupId, Standing)> {
    let ids = groups.group_ids.iter().enumerate();
    let groups = ids.map(|(index, group)| {
        let standing = Standing {
            last_seq: groups.last_seqs.get(index).copied(),
            since: groups.since_seqs.get(index).copied(),
        };
        (*group, standing)
    });
    with_numbers(core, groups.collect(), |(group, _)| *group)
}

/// Listens to a group the user has just joined, and settles from which number on this session is
/// pushed its messages.
async fn take_up<B: Backend, P: PushSource>(core: &Core<B, P>, job: &Job, group: GroupId) {
    if job.is_without_connection() {
        // Sessions of the user hear of it over the bus.
        return;
    }
    core.shard().forget_membership_news(job.key, group);
    let new = core.shard().hold_group(group);
    if new {
        core.bus.subscribe(group).await;
    }
    let request = GetUserGroupsRequest {
        user_id: job.user(),
    };
    let groups = core.ask::<method::GetUserGroups>(request).await;
    let groups = groups.map_or_else(|_| Vec::new(), |groups| with_standings(core, &groups));
    let mut shard = core.shard();
    if let Some((_, standing)) = groups.iter().find(|(other, _)| *other == group) {
        shard.let_in(job.key, group, *standing);
    }
    shard.release_group(group);
}

pub(super) async fn leave<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    group: GroupId,
) -> Result<Reply, Failure> {
    core.ask::<method::LeaveGroup>(LeaveGroupRequest {
        user_id: job.user(),
        group_id: group,
    })
    .await?;
    core.shard().leave(job.key, job.user(), group);
    Ok(Reply::Left(group))
}

pub(super) async fn list<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
) -> Result<Reply, Failure> {
    of_user(core, job.user()).await.map(Reply::Groups)
}

/// The groups of `user`.
pub(super) async fn of_user<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    user: UserId,
) -> Result<Vec<GroupId>, Failure> {
    let request = GetUserGroupsRequest { user_id: user };
    let response = core.ask::<method::GetUserGroups>(request).await?;
    Ok(with_numbers(core, response.group_ids, |id| *id))
}

/// The page of members behind `after`, of at most `limit`.
pub(super) async fn members<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    group: GroupId,
    (after, limit): (UserId, u32),
) -> Result<Reply, Failure> {
    let request = GetGroupMembersRequest {
        group_id: group,
        after_user_id: after,
        limit,
        asker_id: job.user(),
    };
    let response = match core.ask::<method::GetGroupMembers>(request).await {
        Err(Failure::Backend(Code::NotFound)) => {
            return Err(Failure::Refused(
                ErrorCode::NotFound,
                "there is no such group",
            ));
        }
        response => response?,
    };
    if !response.asker_is_member && !response.member_ids.contains(&job.user()) {
        return Err(Failure::Backend(Code::Forbidden));
    }
    // A service without pages answers with all members, in any order.
    check_numbers(response.member_ids.iter().copied())?;
    let mut ids = response.member_ids;
    ids.retain(|member| *member > after);
    ids.sort_unstable();
    ids.dedup();
    let too_many = ids.len() > limit as usize;
    ids.truncate(limit as usize);
    Ok(Reply::Members {
        ids,
        more: response.more || too_many,
    })
}
