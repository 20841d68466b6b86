//! Groups: who is in them. A membership is the member's cursor in the group's stream, so it starts
//! and ends at a number.
//!
//! Invariants: the creator is a member; both a group's members and a user's groups are bounded;
//! each change of membership is published to the user's routes, so that the cores that hold its
//! connections listen to the group, or stop to.

use super::{
    engine::{Engine, ok},
    store::{Failure, Storage, StreamId, storage::GroupFacts},
};
use crate::{
    base::{
        id::{GroupId, UserId},
        names::hides_nothing,
    },
    proto::{self, Code, PushKind, PushMessage},
};

/// Longest name and description, in bytes.
const NAME_BYTES: usize = 128;
const DESCRIPTION_BYTES: usize = 1024;
/// Most members of a group, and of one answer about them.
const MEMBERS_LIMIT: u32 = 10_000;
/// Most groups of a user: each is a cursor to open at every login.
const GROUPS_LIMIT: usize = 500;

const NO_SUCH_USER: Failure = Failure::Refused(Code::NotFound, "no such user");
const NO_SUCH_GROUP: Failure = Failure::Refused(Code::NotFound, "no such group");
const NOT_A_MEMBER: Failure = Failure::Refused(Code::Forbidden, "not a member");

impl<S: Storage> Engine<S> {
    pub(super) fn create_group(
        &mut self,
        request: &proto::CreateGroupRequest,
    ) -> Result<proto::CreateGroupResponse, Failure> {
        let name = request.group_name.as_str();
        let is_plain = !name.trim().is_empty() && !name.chars().any(char::is_control);
        if !is_plain || name.len() > NAME_BYTES || request.description.len() > DESCRIPTION_BYTES {
            return Err(Failure::Refused(
                Code::Invalid,
                "a group name is 1 to 128 bytes without control characters",
            ));
        }
        if !hides_nothing(name) {
            return Err(Failure::Refused(
                Code::Invalid,
                "a group name holds no invisible or direction-changing characters",
            ));
        }
        if !self.load_inbox(request.creator_id)? {
            return Err(NO_SUCH_USER);
        }
        self.check_group_count(request.creator_id)?;
        let group_id = self.insert_group(request)?;
        self.publish_membership(PushKind::GroupJoined, request.creator_id, group_id)?;
        Ok(proto::CreateGroupResponse {
            result: ok(),
            group_id,
        })
    }

    fn insert_group(&mut self, request: &proto::CreateGroupRequest) -> Result<GroupId, Failure> {
        let facts = GroupFacts {
            name: request.group_name.clone(),
            description: request.description.clone(),
            creator: request.creator_id,
        };
        let now_ms = self.unix_ms;
        let group_id = self.store.write()?.insert_group(&facts, now_ms)?;
        self.load_group(group_id)?;
        let is_bound = self.is_bound(request.creator_id)?;
        self.store
            .insert_member(group_id, request.creator_id, is_bound)?;
        Ok(group_id)
    }

    fn check_group_count(&self, user: UserId) -> Result<(), Failure> {
        if self.store.read().group_streams(user)?.len() >= GROUPS_LIMIT {
            return Err(Failure::Refused(
                Code::Invalid,
                "a user can be in 500 groups",
            ));
        }
        Ok(())
    }

    fn publish_membership(
        &mut self,
        kind: PushKind,
        user: UserId,
        group_id: GroupId,
    ) -> Result<(), Failure> {
        let push = PushMessage {
            to: user,
            group_id,
            kind: kind.into(),
            seq: self.store.last_seq(StreamId::group(group_id)),
            ..Default::default()
        };
        self.push_to(user, push)
    }

    pub(super) fn join_group(
        &mut self,
        request: &proto::JoinGroupRequest,
    ) -> Result<proto::JoinGroupResponse, Failure> {
        let (user, group_id) = (request.user_id, request.group_id);
        if !self.load_inbox(user)? {
            return Err(NO_SUCH_USER);
        }
        if !self.load_group(group_id)? {
            return Err(NO_SUCH_GROUP);
        }
        let stream = StreamId::group(group_id);
        if self.store.load_member(stream, user)?.is_none() {
            self.check_group_count(user)?;
            if self.store.member_count(group_id)? >= MEMBERS_LIMIT {
                return Err(Failure::Refused(Code::Invalid, "the group is full"));
            }
            let is_bound = self.is_bound(user)?;
            self.store.insert_member(group_id, user, is_bound)?;
            self.publish_membership(PushKind::GroupJoined, user, group_id)?;
        }
        Ok(proto::JoinGroupResponse { result: ok() })
    }

    pub(super) fn leave_group(
        &mut self,
        request: &proto::LeaveGroupRequest,
    ) -> Result<proto::LeaveGroupResponse, Failure> {
        let (user, group_id) = (request.user_id, request.group_id);
        if !self.load_group(group_id)? {
            return Err(NO_SUCH_GROUP);
        }
        if self
            .store
            .load_member(StreamId::group(group_id), user)?
            .is_none()
        {
            return Err(NOT_A_MEMBER);
        }
        self.store.delete_member(group_id, user)?;
        self.publish_membership(PushKind::GroupLeft, user, group_id)?;
        Ok(proto::LeaveGroupResponse { result: ok() })
    }

    pub(super) fn get_group_members(
        &mut self,
        request: &proto::GetGroupMembersRequest,
    ) -> Result<proto::GetGroupMembersResponse, Failure> {
        if !self.load_group(request.group_id)? {
            return Err(NO_SUCH_GROUP);
        }
        let stream = StreamId::group(request.group_id);
        let asker_is_member = match request.asker_id {
            0 => false,
            asker => self.store.load_member(stream, asker)?.is_some(),
        };
        if request.asker_id != 0 && !asker_is_member {
            return Err(NOT_A_MEMBER);
        }
        let limit = match request.limit {
            0 => MEMBERS_LIMIT,
            limit => limit.min(MEMBERS_LIMIT),
        } as usize;
        let rows = self.store.read();
        let mut member_ids = rows.readers(stream, request.after_user_id, limit + 1)?;
        let more = member_ids.len() > limit;
        member_ids.truncate(limit);
        Ok(proto::GetGroupMembersResponse {
            result: ok(),
            member_ids,
            more,
            asker_is_member,
        })
    }

    pub(super) fn get_user_groups(
        &mut self,
        request: &proto::GetUserGroupsRequest,
    ) -> Result<proto::GetUserGroupsResponse, Failure> {
        let mut response = proto::GetUserGroupsResponse {
            result: ok(),
            ..Default::default()
        };
        for stream in self.store.read().group_streams(request.user_id)? {
            if let Some(group_id) = stream.group_id()
                && self.load_group(group_id)?
            {
                let cursor = self.store.load_member(stream, request.user_id)?;
                let Some(since) = cursor.map(|cursor| cursor.since) else {
                    continue;
                };
                response.group_ids.push(group_id);
                response.last_seqs.push(self.store.last_seq(stream));
                response.since_seqs.push(since);
            }
        }
        Ok(response)
    }

    pub(super) fn get_group_info(
        &mut self,
        request: &proto::GetGroupInfoRequest,
    ) -> Result<proto::GetGroupInfoResponse, Failure> {
        if !self.load_group(request.group_id)? {
            return Err(NO_SUCH_GROUP);
        }
        let member_count = self.store.member_count(request.group_id)?;
        let facts = self.store.read().group_facts(request.group_id)?;
        let facts = facts.ok_or(NO_SUCH_GROUP)?;
        Ok(proto::GetGroupInfoResponse {
            result: ok(),
            group_name: facts.name,
            description: facts.description,
            creator_id: facts.creator,
            member_count,
        })
    }
}
