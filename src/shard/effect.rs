//! What is to be done beside answering commands.

use super::{
    resync::{ResyncPermit, ResyncTarget},
    sequencer::Fetch,
    unsettled::Settling,
};
use crate::{
    base::id::{ConnectionKey, GroupId, SessionId, Stream, UserId},
    proto::AckRange,
};

/// What the shard wants done with backends or the bus, beside answering commands.
#[derive(Debug)]
pub enum Effect {
    /// Confirm what was delivered.
    Confirm(Vec<AckRange>),
    /// A session is gone: forget its route.
    Unbind {
        /// Its user.
        user: UserId,
        /// The session.
        session_id: SessionId,
        /// The User Service is told by somebody else that the user logged out.
        is_told: bool,
    },
    /// Messages are missing.
    Fetch {
        /// Of which stream.
        stream: Stream,
        /// Which numbers.
        fetch: Fetch,
    },
    /// Pushes of it may have been lost.
    Resync {
        /// What to ask for.
        target: ResyncTarget,
        /// To be kept for as long as that takes.
        permit: ResyncPermit,
    },
    /// Users have logged in although a service was away: make up for it.
    Settle(Settling),
    /// Listen to a group that a local user has just joined.
    Subscribe(GroupId),
    /// No local user is in the group any more.
    Unsubscribe(GroupId),
    /// A session has room again for what was held back.
    CatchUp {
        /// Its connection.
        key: ConnectionKey,
        /// The session.
        session_id: SessionId,
    },
}
