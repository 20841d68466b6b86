//! Everything that crosses to a core from another thread.

use std::sync::Arc;

use crate::{base::id::IdLease, contract::backend::BackendNews, proto::PushMessage};

/// One thing handed to a core.
#[derive(Debug)]
pub enum CoreEvent {
    /// For the core's backend.
    Backend(BackendNews),
    /// The core makes the ids of this lease from now on.
    IdLease(IdLease),
    /// The bus brought a push; cores share one copy.
    Push(Arc<PushMessage>),
    /// Stop accepting, tell everyone, finish what is under way.
    Drain,
}
