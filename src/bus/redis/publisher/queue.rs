//! What the store's thread hands to the publisher's task.
//!
//! Owns the crossing and its bound. Never blocks: what does not fit is dropped and remembered as
//! lost, and so is everything while there is no connection.

use std::{
    collections::VecDeque,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::Waker,
};

use crate::{
    contract::bus::Channel,
    metrics::{self, server::PublishDrop},
    proto::PushMessage,
};

/// The pushes of one commit.
pub(super) type Commit = Vec<(Channel, PushMessage)>;

/// Pushes that may wait for the task, by their size in memory: some seconds of a busy store. Past
/// it Redis is not keeping up, and to fetch from the store is cheaper than to push so late.
const WAITING_BYTES: usize = 64 * 1024 * 1024;

/// See the module's description.
pub(super) struct Queue {
    state: Mutex<State>,
    metrics: Arc<metrics::Server>,
}

#[derive(Default)]
struct State {
    commits: VecDeque<Commit>,
    bytes: usize,
    is_open: bool,
    has_lost: bool,
    is_finished: bool,
    /// Set while the task sleeps; taken by whoever wakes it.
    waker: Option<Waker>,
}

impl State {
    fn check(&self) {
        debug_assert!(self.is_open || self.commits.is_empty());
        debug_assert!(self.bytes <= WAITING_BYTES);
        debug_assert_eq!(self.bytes, self.commits.iter().map(size_of).sum::<usize>());
    }
}

/// What the task finds.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// Pushes were dropped since the last time.
    pub(super) has_lost: bool,
    /// Nothing is left, and nothing will follow.
    pub(super) is_finished: bool,
}

impl Queue {
    /// Closed: it drops what it is given until [`open`](Self::open).
    pub(super) fn new(metrics: Arc<metrics::Server>) -> Self {
        Self {
            state: Mutex::default(),
            metrics,
        }
    }

    /// Takes the pushes of a commit, or drops them.
    pub(super) fn add(&self, commit: Commit) {
        let waker = {
            let mut state = self.lock();
            let bytes = size_of(&commit);
            let refusal = if !state.is_open {
                Some(PublishDrop::Disconnected)
            } else if state.bytes + bytes > WAITING_BYTES {
                Some(PublishDrop::QueueFull)
            } else {
                None
            };
            if let Some(reason) = refusal {
                state.has_lost = true;
                self.metrics.push_dropped(reason, commit.len() as u64);
                return;
            }
            state.bytes += bytes;
            state.commits.push_back(commit);
            state.check();
            state.waker.take()
        };
        wake(waker);
    }

    /// From now on pushes are kept; what was lost before is forgotten, so a `CATCH_UP` must follow.
    pub(super) fn open(&self) {
        let mut state = self.lock();
        assert!(state.commits.is_empty(), "what is closed keeps nothing");
        state.is_open = true;
        state.has_lost = false;
    }

    /// From now on pushes are dropped, and so is what waits.
    pub(super) fn close(&self) {
        let mut state = self.lock();
        state.is_open = false;
        state.bytes = 0;
        let dropped: usize = state.commits.drain(..).map(|commit| commit.len()).sum();
        state.has_lost |= dropped > 0;
        self.metrics
            .push_dropped(PublishDrop::Disconnected, dropped as u64);
    }

    /// Nothing will follow.
    pub(super) fn finish(&self) {
        let waker = {
            let mut state = self.lock();
            state.is_finished = true;
            state.waker.take()
        };
        wake(waker);
    }

    /// Moves the oldest commits into the empty `into`, up to the one that makes it `bytes` or more,
    /// and has `waker` woken when further ones come.
    pub(super) fn take(&self, bytes: usize, into: &mut VecDeque<Commit>, waker: &Waker) -> Found {
        debug_assert!(into.is_empty());
        let mut state = self.lock();
        if state.bytes <= bytes {
            mem::swap(&mut state.commits, into);
            state.bytes = 0;
        } else {
            let rest = state.bytes.saturating_sub(bytes);
            while state.bytes > rest
                && let Some(commit) = state.commits.pop_front()
            {
                state.bytes -= size_of(&commit);
                into.push_back(commit);
            }
        }
        state.check();
        debug_assert!(!into.is_empty() || state.commits.is_empty() || bytes == 0);
        state.waker = Some(waker.clone());
        Found {
            has_lost: mem::take(&mut state.has_lost),
            is_finished: state.is_finished && state.commits.is_empty(),
        }
    }

    /// Whether nothing will follow; if not yet, `waker` is woken then.
    pub(super) fn is_finished(&self, waker: &Waker) -> bool {
        let mut state = self.lock();
        state.waker = Some(waker.clone());
        state.is_finished
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere cannot leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(waker: Option<Waker>) {
    if let Some(waker) = waker {
        waker.wake();
    }
}

fn size_of(commit: &Commit) -> usize {
    commit
        .iter()
        .map(|(_, push)| {
            size_of_val(push) + push.text.len() + push.device.len() + 8 * push.to_many.len()
        })
        .sum()
}
