//! The services' end of the bus in a cluster: every push is published on Redis.
//!
//! Owns the crossing from the store's thread (`queue`), the commands (`packing`) and the one
//! connection they go over (`connection`). Bounded: while Redis is away, and past what may wait for
//! it, pushes are dropped and counted, and the next thing that is published is a `CATCH_UP`, which
//! has every gateway fetch from the store what its users have not been pushed.
//!
//! Invariants: pushes of one channel leave in the order of their commits; a `CATCH_UP` is the first
//! thing on every connection.
//!
//! The `redis` crate packs commands and parses answers; the connection is read and written here, in
//! one task and without a channel between, so that the pushes of a commit cost one write, and one
//! timer watches for a Redis that hangs.

mod connection;
mod packing;
mod queue;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use self::queue::{Commit, queue};
use crate::{
    config::settings::Redis,
    contract::{
        bus::{Channel, Publisher},
        push_mac::PushKey,
    },
    handoff::task_queue::{Refused, TaskQueue},
    metrics::{self, server::PublishDrop},
    proto::PushMessage,
};

/// The store's handle on the publisher. The work is done by the task that [`publisher`] returns.
pub struct RedisPublisher {
    queue: Arc<TaskQueue<Commit>>,
    metrics: Arc<metrics::Server>,
}

/// A handle for the services, and the task behind it. The task ends once [`RedisPublisher::finish`]
/// was called and all that was handed over before has been answered by Redis, or Redis is not
/// there.
pub fn publisher(
    redis: Redis,
    push_key: Option<Arc<PushKey>>,
    metrics: Arc<metrics::Server>,
) -> (
    Arc<RedisPublisher>,
    impl Future<Output = ()> + Send + 'static,
) {
    let queue = Arc::new(queue());
    let handle = Arc::new(RedisPublisher {
        queue: Arc::clone(&queue),
        metrics: Arc::clone(&metrics),
    });
    (handle, connection::run(redis, push_key, queue, metrics))
}

impl RedisPublisher {
    /// Nothing more will be published: what waits is sent, then the task ends.
    pub fn finish(&self) {
        self.queue.finish();
    }
}

impl Publisher for RedisPublisher {
    fn publish(&self, batch: Vec<(Channel, PushMessage)>) {
        let count = batch.len() as u64;
        if let Err(refused) = self.queue.offer(batch) {
            let reason = match refused {
                Refused::Closed => PublishDrop::Disconnected,
                Refused::Full => PublishDrop::QueueFull,
            };
            self.metrics.push_dropped(reason, count);
        }
    }
}
