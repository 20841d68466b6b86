//! Turns to change the one route that a Presence such as MPIM's keeps for a user, over all cores of
//! the gateway.
//!
//! Owns the locks. Whoever takes a route away looks first whose it is; between the two nobody else
//! of this gateway binds that user. Flows wait, cores do not. Where Presence tells routes apart by
//! their sessions, no turn is taken.

use async_lock::{Mutex, MutexGuard};

use crate::base::id::UserId;

/// Users share turns, so that there are as many as this and no more.
const TURNS: usize = 256;

/// The turns; none where none is needed.
#[derive(Debug)]
pub(super) struct RouteTurns {
    turns: Vec<Mutex<()>>,
}

impl RouteTurns {
    /// `needed`: routes are taken away by binding an empty one.
    pub fn new(needed: bool) -> Self {
        let turns = if needed { TURNS } else { 0 };
        Self {
            turns: (0..turns).map(|_| Mutex::default()).collect(),
        }
    }

    /// Waits for the turn of `user`, which lasts until it is dropped.
    pub async fn take(&self, user: UserId) -> Option<MutexGuard<'_, ()>> {
        let turn = self.turns.get(user as usize % self.turns.len().max(1))?;
        Some(turn.lock().await)
    }
}
