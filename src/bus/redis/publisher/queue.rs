//! What the store's thread hands to the publisher's task, and how much of it may wait.

use crate::{contract::bus::Channel, handoff::task_queue::TaskQueue, proto::PushMessage};

/// The pushes of one commit.
pub(super) type Commit = Vec<(Channel, PushMessage)>;

/// Pushes that may wait for the task, by their size in memory: some seconds of a busy store. Past
/// it Redis is not keeping up, and to fetch from the store is cheaper than to push so late.
const WAITING_BYTES: usize = 64 * 1024 * 1024;

/// Closed: without a connection nothing is kept.
pub(super) fn queue() -> TaskQueue<Commit> {
    TaskQueue::closed(WAITING_BYTES, size_of)
}

fn size_of(commit: &Commit) -> usize {
    commit
        .iter()
        .map(|(_, push)| {
            size_of_val(push) + push.text.len() + push.device.len() + 8 * push.to_many.len()
        })
        .sum()
}
