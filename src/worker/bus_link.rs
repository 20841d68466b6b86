//! The task that holds a core's connection to Redis, and hands what comes over it to the shard.
//!
//! Invariant: a panic over one push costs that push.

use std::{
    error::Error,
    io,
    net::{SocketAddr, ToSocketAddrs},
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use super::upstream::Upstreams;
use crate::{
    backend::Backend,
    bus::redis::{BusEvent, Subscriber},
    metrics::PushDrop,
    shard::core::Core,
    upstream::{BackOff, Conversation, Outgoing},
};

/// Pauses between attempts: pushes come again within about a second of Redis being back.
const FIRST_PAUSE_MS: u64 = 50;
const LONGEST_PAUSE_MS: u64 = 1000;

/// Keeps the connection to Redis at `address`, for ever.
pub async fn keep<B: Backend>(
    core: Rc<Core<B, Rc<Subscriber>>>,
    upstreams: Rc<Upstreams>,
    address: String,
) {
    let seed = std::ptr::from_ref(&*core).addr() as u64;
    let mut back_off = BackOff::new(FIRST_PAUSE_MS, LONGEST_PAUSE_MS, seed);
    let mut is_lost = false;
    loop {
        let error = match converse(&core, &upstreams, &address).await {
            Ok(()) => "it does not answer".into(),
            Err(error) => error,
        };
        if core.bus.is_listening() {
            back_off.reset();
            is_lost = false;
        }
        core.bus.disconnected();
        core.shard().metrics().bus_connected.set(0);
        // Once for each time it is lost, however long that lasts.
        if !std::mem::replace(&mut is_lost, true) {
            log::warn!("no pushes from Redis at {address}: {error}; trying again");
        }
        glommio::timer::sleep(Duration::from_millis(back_off.next_ms())).await;
    }
}

/// One connection from its beginning to its end.
async fn converse<B: Backend>(
    core: &Core<B, Rc<Subscriber>>,
    upstreams: &Rc<Upstreams>,
    address: &str,
) -> Result<(), Box<dyn Error>> {
    let upstream = upstreams.connect(resolve(address).await?).await?;
    let pushes = Pushes {
        core,
        outgoing: core.bus.connected(),
    };
    core.shard().metrics().bus_connections_total.inc();
    upstream.carry(&pushes).await
}

/// A name is looked up each time, as it may have moved, and elsewhere, as that may take long.
async fn resolve(address: &str) -> io::Result<SocketAddr> {
    if let Ok(address) = address.parse() {
        return Ok(address);
    }
    let name = address.to_owned();
    let found = glommio::executor()
        .spawn_blocking(move || name.to_socket_addrs().map(|mut found| found.next()))
        .await?;
    found.ok_or_else(|| io::Error::other("the name has no address"))
}

struct Pushes<'a, B> {
    core: &'a Core<B, Rc<Subscriber>>,
    outgoing: Rc<Outgoing>,
}

impl<B: Backend> Pushes<'_, B> {
    fn hear(&self, event: BusEvent) {
        let mut shard = self.core.shard();
        match event {
            BusEvent::Push(message) => shard.on_push(Arc::new(message)),
            BusEvent::LateGroup(group) => shard.group_subscribed(group),
            BusEvent::Malformed => shard.metrics().push_dropped(PushDrop::Malformed),
            BusEvent::Unsigned => shard.metrics().push_dropped(PushDrop::Unsigned),
            BusEvent::Listening => {
                log::info!("pushes come from Redis");
                shard.metrics().bus_connected.set(1);
                shard.on_gap();
            }
        }
    }
}

impl<B: Backend> Conversation for Pushes<'_, B> {
    fn outgoing(&self) -> &Outgoing {
        &self.outgoing
    }

    fn received(&self, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
        let heard = self.core.bus.received(bytes, |event| {
            if catch_unwind(AssertUnwindSafe(|| self.hear(event))).is_err() {
                log::error!("a push panicked; it is left out");
                self.core.shard().metrics().panics_total.inc();
            }
        });
        self.core.notify();
        heard
    }
}
