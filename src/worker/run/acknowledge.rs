//! Asking the kernel what peers have acknowledged, and gathering what that confirms for the store.

use std::{rc::Rc, time::Duration};

use super::Worker;
use crate::{
    base::{close::CloseReason, id::ConnectionKey},
    contract::{backend::Backend, bus::PushSource},
};

/// How long confirmations are gathered for the store, and peers given to acknowledge what they were
/// sent.
const GATHERING: Duration = Duration::from_millis(10);

impl<B: Backend + 'static, P: PushSource + 'static> Worker<B, P> {
    /// Asks those whose turn it is, and hands the confirmations out when they have been gathered
    /// for a while.
    pub(super) fn gather(&mut self) {
        let due = self.gathering_due.replace(false);
        let mut keys = std::mem::take(&mut self.keys);
        self.core.shard().take_questions(due, &mut keys);
        for key in keys.drain(..) {
            self.guarded(Some(key), |worker| {
                worker.ask(key);
                worker.drop_if_settled(key);
            });
        }
        self.keys = keys;
        if due {
            self.gathering = false;
            self.core.shard().flush_acks();
        }
        if !self.gathering && self.core.shard().has_to_gather() {
            self.gathering = true;
            let (core, due) = (Rc::clone(&self.core), Rc::clone(&self.gathering_due));
            glommio::spawn_local(async move {
                glommio::timer::sleep(GATHERING).await;
                due.set(true);
                core.notify();
            })
            .detach();
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
