//! The push bus: how what was stored for a user reaches the core that holds the user's connection.
//!
//! Owns the names of its two ends. A push is a hint; the store is the truth.

use crate::{
    base::id::{GroupId, RouteId},
    proto::PushMessage,
};

/// Where a push is published.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Channel {
    /// One core of one gateway.
    Route(RouteId),
    /// Every core with a member of the group.
    Group(GroupId),
    /// Every core.
    Broadcast,
}

/// The services' end of the bus.
pub trait Publisher: Send + Sync {
    /// Hands over all pushes of one commit, in order. Never blocks and never fails: what cannot be
    /// handed over is lost, counted, and found again by its `seq`.
    fn publish(&self, batch: Vec<(Channel, PushMessage)>);

    /// The replies of that commit have been handed out as well: whoever sleeps over its pushes may
    /// be woken, if it has not been.
    fn wake_listeners(&self) {}
}

/// A core's end of the bus: which group channels it listens to. Its route and the broadcast channel
/// it always does.
pub trait PushSource {
    /// Listens to the channel of `group`; when this returns, what is published from now on arrives.
    fn subscribe(&self, group: GroupId) -> impl Future<Output = ()>;
    /// Stops listening to the channel of `group`.
    fn unsubscribe(&self, group: GroupId);
    /// Tells the time in ms.
    fn advance(&self, now_ms: u64);
}
