//! Locks to change the one route that a Presence such as MPIM's keeps for a user, over all cores of
//! the gateway.
//!
//! Owns the locks. Whoever takes a route away looks first whose it is; between the two nobody else
//! of this gateway binds that user. Flows wait, cores do not. Where Presence tells routes apart by
//! their sessions, there are no locks.

use async_lock::{Mutex, MutexGuard};

use crate::base::id::UserId;

/// Users share locks, so that there are as many as this and no more.
const LOCKS: usize = 256;

/// The locks; none where none is needed.
#[derive(Debug)]
pub(super) struct RouteLocks {
    locks: Vec<Mutex<()>>,
}

impl RouteLocks {
    /// `needed`: routes are taken away by binding an empty one.
    pub fn new(needed: bool) -> Self {
        let locks = if needed { LOCKS } else { 0 };
        Self {
            locks: (0..locks).map(|_| Mutex::default()).collect(),
        }
    }

    /// Waits for the lock of `user`, which is held until it is dropped.
    pub async fn take(&self, user: UserId) -> Option<MutexGuard<'_, ()>> {
        let lock = self.locks.get(user as usize % self.locks.len().max(1))?;
        Some(lock.lock().await)
    }
}
