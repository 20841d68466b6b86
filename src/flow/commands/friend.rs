//! `add_friend`, `remove_friend`, `friends`.

use super::{Failure, check_numbers};
use crate::{
    base::id::UserId,
    contract::{backend::Backend, bus::PushSource, methods::method},
    flow::core::Core,
    proto::{AddFriendRequest, GetFriendsRequest, RemoveFriendRequest},
    protocol::{error_code::ErrorCode, reply::Reply},
    session::job::Job,
};

pub(super) async fn add<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    friend: UserId,
) -> Result<Reply, Failure> {
    if friend == job.user() {
        return Err(Failure::Refused(
            ErrorCode::BadArgument,
            "you cannot be on your own friend list",
        ));
    }
    core.ask::<method::AddFriend>(AddFriendRequest {
        user_id: job.user(),
        friend_id: friend,
        message: String::new(),
    })
    .await
    .map_err(|failure| failure.or_refused("your friend list is full"))?;
    Ok(Reply::FriendAdded)
}

pub(super) async fn remove<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
    friend: UserId,
) -> Result<Reply, Failure> {
    core.ask::<method::RemoveFriend>(RemoveFriendRequest {
        user_id: job.user(),
        friend_id: friend,
    })
    .await?;
    Ok(Reply::FriendRemoved)
}

pub(super) async fn list<B: Backend, P: PushSource>(
    core: &Core<B, P>,
    job: &Job,
) -> Result<Reply, Failure> {
    let response = core
        .ask::<method::GetFriends>(GetFriendsRequest {
            user_id: job.user(),
            only_friend_id: 0,
        })
        .await?;
    check_numbers(response.friend_ids.iter().copied())?;
    Ok(Reply::Friends(response.friend_ids))
}
