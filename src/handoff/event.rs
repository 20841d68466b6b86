//! Everything that crosses to a core from another thread.

use std::sync::Arc;

use crate::{backend::Response, proto::PushMessage};

/// One thing handed to a core.
#[derive(Debug)]
pub enum CoreEvent {
    /// A service answered the call that this core numbered `call_id`.
    Reply {
        /// The number the core gave the call.
        call_id: u64,
        /// The answer.
        response: Response,
    },
    /// The bus brought a push; cores share one copy.
    Push(Arc<PushMessage>),
    /// Stop accepting, tell everyone, finish what is under way.
    Drain,
}
