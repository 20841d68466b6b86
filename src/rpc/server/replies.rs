//! How answers come from the store's thread to the task of a connection.
//!
//! Owns the crossing. Never blocks but for a swap of two vectors: the store's thread adds what one
//! commit brought and wakes the task once. Bounded by the calls the connection may have under way.

use std::{
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use crate::{contract::methods::Response, service::ReplySink};

/// An answer and the number of its call.
pub(super) type Answered = (u64, Response);

/// The answers that one connection has not taken yet.
#[derive(Default)]
pub(super) struct Replies(Mutex<State>);

#[derive(Default)]
struct State {
    ready: Vec<Answered>,
    /// Set while the task sleeps; taken by whoever wakes it.
    waker: Option<Waker>,
}

impl Replies {
    /// Moves all answers into the empty vector `into`, and has `waker` woken when there are more.
    pub(super) fn take(&self, into: &mut Vec<Answered>, waker: &Waker) {
        debug_assert!(into.is_empty());
        let mut state = self.lock();
        mem::swap(&mut state.ready, into);
        match &mut state.waker {
            Some(known) => known.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot leave a vector half changed.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl ReplySink for Replies {
    fn complete(&self, mut replies: Vec<Answered>) {
        let waker = {
            let mut state = self.lock();
            if state.ready.is_empty() {
                mem::swap(&mut state.ready, &mut replies);
            } else {
                state.ready.append(&mut replies);
            }
            state.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}
