//! Everything that crosses to a core from another thread.

use std::{fmt, sync::Arc, task::Waker};

use tokio::sync::oneshot;

use crate::{base::id::IdLease, contract::backend::BackendEvent, proto::PushMessage};

/// One thing handed to a core.
#[derive(Debug)]
pub enum CoreEvent {
    /// For the core's backend.
    Backend(BackendEvent),
    /// The core makes the ids of this lease from now on.
    IdLease(IdLease),
    /// The bus brought a push; cores share one copy.
    Push(Arc<PushMessage>),
    /// A task of the core waited for something that another core had, and can go on.
    Wake(Waker),
    /// Somebody on another thread wants to know how the core is.
    Ask(oneshot::Sender<CoreSummary>),
    /// Stop accepting, tell everyone, finish what is under way.
    Drain,
}

/// What a core says of itself when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CoreSummary {
    /// Connections, those that are closing included.
    pub connections: usize,
    /// Users with a session here.
    pub users: usize,
    /// Groups with a member here.
    pub groups: usize,
    /// Commands and background tasks that wait for a service or a pause.
    pub flows: usize,
}

impl fmt::Display for CoreSummary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            connections,
            users,
            groups,
            flows,
        } = self;
        write!(
            f,
            "{connections} connections, {users} users, {groups} groups, {flows} flows under way"
        )
    }
}
