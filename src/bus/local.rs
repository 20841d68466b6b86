//! The bus inside one process: a bounded queue per core.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use crate::{
    base::id::{GroupId, RouteId},
    contract::bus::{Channel, Publisher, PushSource},
    handoff::{event::CoreEvent, inbox::Inbox},
    proto::PushMessage,
};

/// The services' end: knows which cores listen to what.
pub struct LocalBus {
    cores: Vec<CoreQueue>,
    /// Which cores listen to a group, one bit per core.
    groups: Mutex<HashMap<GroupId, u64>>,
    /// Which cores have pushes and were not woken for them.
    unaware: AtomicU64,
}

struct CoreQueue {
    route: RouteId,
    inbox: Arc<Inbox<CoreEvent>>,
}

/// The most cores one bus serves: one bit each.
pub const MAX_CORES: usize = 64;

impl LocalBus {
    /// A bus to cores `0..` of the gateway `gateway_id`, at most [`MAX_CORES`].
    pub fn new(
        gateway_id: &str,
        inboxes: impl IntoIterator<Item = Arc<Inbox<CoreEvent>>>,
    ) -> Arc<Self> {
        let cores: Vec<CoreQueue> = inboxes
            .into_iter()
            .enumerate()
            .map(|(core, inbox)| CoreQueue {
                route: RouteId::new(gateway_id, core),
                inbox,
            })
            .collect();
        assert!(cores.len() <= MAX_CORES, "a bit for each core");
        Arc::new(Self {
            cores,
            groups: Mutex::default(),
            unaware: AtomicU64::new(0),
        })
    }

    /// The end of core number `core`.
    pub fn source(self: &Arc<Self>, core: usize) -> LocalSource {
        assert!(core < self.cores.len(), "there is no core {core}");
        LocalSource {
            bus: Arc::clone(self),
            core,
        }
    }

    fn groups(&self) -> std::sync::MutexGuard<'_, HashMap<GroupId, u64>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Publisher for LocalBus {
    fn publish(&self, batch: Vec<(Channel, PushMessage)>) {
        let mut queues: Vec<Vec<CoreEvent>> = self.cores.iter().map(|_| Vec::new()).collect();
        {
            let groups = self.groups();
            for (channel, message) in batch {
                let message = Arc::new(message);
                let listeners = match &channel {
                    Channel::Route(route) => self
                        .cores
                        .iter()
                        .position(|core| core.route == *route)
                        .map_or(0, |core| 1 << core),
                    Channel::Group(group) => groups.get(group).copied().unwrap_or(0),
                    Channel::Broadcast => u64::MAX,
                };
                for (core, queue) in queues.iter_mut().enumerate() {
                    if listeners >> core & 1 == 1 {
                        queue.push(CoreEvent::Push(Arc::clone(&message)));
                    }
                }
            }
        }
        for (number, queue) in queues.into_iter().enumerate() {
            if !queue.is_empty() {
                // What does not fit is counted by the core, when it finds the gap.
                self.cores[number].inbox.offer_all(queue);
                self.unaware.fetch_or(1 << number, Relaxed);
            }
        }
    }

    fn wake_listeners(&self) {
        let unaware = self.unaware.swap(0, Relaxed);
        for (number, core) in self.cores.iter().enumerate() {
            if unaware >> number & 1 == 1 {
                core.inbox.wake();
            }
        }
    }
}

/// One core's end of a [`LocalBus`].
pub struct LocalSource {
    bus: Arc<LocalBus>,
    core: usize,
}

impl PushSource for LocalSource {
    async fn subscribe(&self, group: GroupId) {
        *self.bus.groups().entry(group).or_insert(0) |= 1 << self.core;
    }

    fn unsubscribe(&self, group: GroupId) {
        let mut groups = self.bus.groups();
        if let Some(cores) = groups.get_mut(&group) {
            assert!(*cores != 0, "a group that nobody listens to is forgotten");
            *cores &= !(1 << self.core);
            if *cores == 0 {
                groups.remove(&group);
            }
        }
    }

    // Nothing here can take too long.
    fn advance(&self, _: u64) {}
}
