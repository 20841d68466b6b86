//! The task that holds a core's connection to Redis, and hands what comes over it to the shard.
//!
//! Invariant: a panic over one push costs that push.

use std::{
    error::Error,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use super::Runtime;
use crate::{
    base::{
        back_off::BackOff,
        random::Random,
        send_buffer::{ConnectionHandler, SharedSendBuffer},
    },
    bus::redis::{
        subscriber::{BusEvent, Subscriber},
        target::{Failures, Target},
    },
    config::settings::Redis,
    contract::backend::Backend,
    flow::core::Core,
    metrics::PushDrop,
};

/// Keeps the connection to `redis`, for ever; `random` spreads the attempts of many.
pub async fn keep<B: Backend>(
    core: Rc<Core<B, Rc<Subscriber>>>,
    runtime: Rc<Runtime>,
    redis: Redis,
    random: Random,
) {
    let mut back_off = BackOff::connecting(random);
    loop {
        let end = attempt(&core, &runtime, &redis).await;
        if end.listened {
            back_off.reset();
        }
        if core.shard().metrics().bus_outage.report(&end.reason) {
            let (address, reason) = (&redis.address, end.reason);
            log::warn!("no pushes from Redis at {address}: {reason}; trying again");
        }
        let pause = Duration::from_millis(back_off.next_ms());
        runtime.timers.sleep(pause).await;
    }
}

/// How an attempt ended.
struct End {
    reason: String,
    /// Pushes came for a while.
    listened: bool,
}

/// Tries one address after the other until pushes come from one, and stays with that one until it
/// is lost.
async fn attempt<B: Backend>(
    core: &Core<B, Rc<Subscriber>>,
    runtime: &Runtime,
    redis: &Redis,
) -> End {
    let mut failures = Failures::default();
    let target = match look_up(runtime, redis).await {
        Ok(target) => target,
        Err(reason) => {
            return End {
                reason,
                listened: false,
            };
        }
    };
    for &address in &target.addresses {
        let reason = match serve_connection(core, runtime, address, &target).await {
            Ok(()) => core.bus.closed_because().to_owned(),
            Err(error) => error.to_string(),
        };
        let listened = core.bus.has_listened();
        core.bus.disconnected();
        core.shard().metrics().bus_connected.set(0);
        if listened {
            return End { reason, listened };
        }
        failures.add(address, reason);
    }
    End {
        reason: failures.to_string(),
        listened: false,
    }
}

/// One connection from its beginning to its end; `Ok`: this side closed it.
async fn serve_connection<B: Backend>(
    core: &Core<B, Rc<Subscriber>>,
    runtime: &Runtime,
    address: SocketAddr,
    target: &Target,
) -> Result<(), Box<dyn Error>> {
    let connection = runtime.outbound.connect(address).await?;
    if let Some(tls) = &target.tls {
        connection.secure(tls.config(), tls.name()).await?;
    }
    let pushes = Pushes {
        core,
        send_buffer: core.bus.connected(target.credentials.as_ref()),
    };
    core.shard().metrics().bus_connections_total.inc();
    connection.carry(&pushes).await
}

/// The resolver and the disk may take long: they are waited for elsewhere.
async fn look_up(runtime: &Runtime, redis: &Redis) -> Result<Target, String> {
    if let Some(target) = Target::at_hand(redis) {
        return Ok(target);
    }
    let redis = redis.clone();
    let outcome = runtime
        .outbound
        .elsewhere(move || Target::look_up(&redis))
        .await;
    outcome.map_err(|error| error.to_string())?
}

struct Pushes<'a, B> {
    core: &'a Core<B, Rc<Subscriber>>,
    send_buffer: Rc<SharedSendBuffer>,
}

impl<B: Backend> Pushes<'_, B> {
    fn on_event(&self, event: BusEvent) {
        let mut shard = self.core.shard();
        match event {
            BusEvent::Push(message) => shard.on_push(Arc::new(message)),
            BusEvent::LateGroup(group) => shard.group_subscribed(group),
            BusEvent::Malformed => shard.metrics().push_dropped(PushDrop::Malformed),
            BusEvent::Unsigned => shard.metrics().push_dropped(PushDrop::Unsigned),
            BusEvent::Listening => {
                log::info!("pushes come from Redis");
                shard.metrics().bus_outage.end();
                shard.metrics().bus_connected.set(1);
                shard.on_gap();
            }
        }
    }
}

impl<B: Backend> ConnectionHandler for Pushes<'_, B> {
    fn send_buffer(&self) -> &SharedSendBuffer {
        &self.send_buffer
    }

    fn received(&self, bytes: &[u8]) -> Result<(), Box<dyn Error>> {
        self.core.bus.received(bytes, |event| {
            if catch_unwind(AssertUnwindSafe(|| self.on_event(event))).is_err() {
                log::error!("a push panicked; it is left out");
                self.core.shard().metrics().panics_total.inc();
            }
        })?;
        Ok(())
    }
}
