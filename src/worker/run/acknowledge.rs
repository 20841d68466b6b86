//! Asking the kernel what peers have acknowledged, and gathering what that confirms for the store.

use super::Worker;
use crate::{
    base::{close::CloseReason, id::ConnectionKey},
    contract::{backend::Backend, bus::PushSource},
};

/// How long confirmations are gathered for the store, and peers given to acknowledge what they were
/// sent.
const GATHERING_US: u64 = 10_000;

impl<B: Backend + 'static, P: PushSource + 'static> Worker<B, P> {
    /// Asks those whose turn it is, and hands the confirmations out when they have been gathered
    /// for a while; says whether there was anything to do.
    pub(super) fn gather(&mut self) -> bool {
        let now_us = self.core.shard().now().monotonic_us;
        let is_due = self
            .gathering_until_us
            .take_if(|until_us| *until_us <= now_us)
            .is_some();
        let mut keys = std::mem::take(&mut self.keys);
        self.core.shard().take_questions(is_due, &mut keys);
        let worked = is_due || !keys.is_empty();
        for key in keys.drain(..) {
            self.guarded(Some(key), |worker| {
                worker.ask(key);
                worker.drop_if_settled(key);
            });
        }
        self.keys = keys;
        if is_due {
            self.core.shard().flush_acks();
        }
        worked
    }

    /// Begins to gather confirmations if there is something to gather.
    pub(super) fn begin_gathering(&mut self) {
        if self.gathering_until_us.is_none() && self.core.shard().has_to_gather() {
            let now_us = self.core.shard().now().monotonic_us;
            self.gathering_until_us = Some(now_us + GATHERING_US);
        }
    }

    /// Asks what the peer has acknowledged, where there is something to ask about.
    pub(super) fn ask(&mut self, key: ConnectionKey) {
        let mut shard = self.core.shard();
        if shard.awaits(key)
            && let Some(Some(client)) = self.clients.get(key.slot as usize)
            && client.key == key
            && let Some(outstanding) = client.unacknowledged()
        {
            shard.acknowledged(key, outstanding);
        }
    }

    /// Lets go of a connection that is closed on both sides, once nothing of it is waited for.
    pub(super) fn drop_if_settled(&mut self, key: ConnectionKey) {
        let is_closed = self.client_mut(key).is_some_and(|client| client.closed);
        if is_closed && !self.core.shard().awaits(key) {
            self.drop_client(key, CloseReason::ClientClosed);
        }
    }
}
