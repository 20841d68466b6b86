//! The gateway that is one of many: services are found by discovery and called over TCP, pushes
//! come through Redis.

use std::{rc::Rc, sync::Arc, time::Duration};

use tokio::sync::oneshot;

use super::{
    certificates::{membership, of_redis},
    cores::CoreParts,
    gateway::GatewayBootstrap,
    options,
};
use crate::{
    base::{error::StartupError, id::MessageIds, random::Random},
    bus::redis::subscriber::Subscriber,
    contract::{backend::BackendEvent, methods::Service},
    control::Condition,
    discovery::{self, Event, WatchOptions},
    flow::routes,
    handoff::event::CoreEvent,
    machine::data_dir,
    metrics::Registry,
    rpc::client::{Dependencies, Remote, SerialCalls},
    worker::{Runtime, backend_link, bus_link},
};

/// Runs until told to stop and drained.
pub(super) fn run(mut gateway: GatewayBootstrap) -> Result<(), StartupError> {
    let process = &mut gateway.process;
    let settings = &process.settings;
    let membership = membership(settings.cluster_tls.as_ref(), &mut process.watched)?;
    // For the token secret alone: nothing in it is this process's own.
    data_dir::make(&settings.gateway_service.data_dir)?;
    of_redis(&settings.redis, &mut process.watched)?;
    let push_key = options::push_key(settings)?;
    let serial = Arc::new(SerialCalls::new(&settings.mpim.serial_calls));
    let data = format!(
        "with backends, pushes from Redis at {}",
        settings.redis.address
    );
    let (leave, left) = oneshot::channel();
    let background_task = discover(&gateway, left);
    let on_drain = || {
        // Discovery has ended already if nobody takes it.
        let _ = leave.send(());
    };
    gateway.serve(data, background_task, on_drain, |_| {
        let push_key = push_key.clone();
        let serial = Arc::clone(&serial);
        let membership = membership.clone();
        move |parts: &CoreParts, runtime: &Rc<Runtime>| {
            // Another gateway that was given the same numbers by mistake draws others.
            let seed = getrandom::u64().unwrap_or(parts.clock.started_unix_ms);
            let mut random = Random::seeded(seed ^ (parts.number as u64) << 48);
            let timers = Rc::clone(&runtime.timers);
            let remote = Remote::new(
                options::remote_options(&parts.settings),
                Arc::clone(&parts.metrics),
                Dependencies {
                    dial: backend_link::dial(runtime, membership),
                    pause: Box::new(move |length: Duration| Box::pin(timers.sleep(length))),
                    serial,
                    random: random.split(),
                },
            );
            let subscriber = Subscriber::new(parts.route(), push_key);
            let ids = MessageIds::without_lease().with_seed(random.draw());
            let core = parts.core(runtime, remote, subscriber, ids);
            runtime.tasks.spawn(bus_link::keep(
                Rc::clone(&core),
                Rc::clone(runtime),
                parts.settings.redis.clone(),
                random.split(),
            ));
            let lifetime = parts.settings.presence.route_lifetime;
            let routes = routes::keep(Rc::clone(&core), lifetime);
            runtime.tasks.spawn(routes);
            core
        }
    })
}

/// Follows discovery and tells every core, and is taken out of it with `left`; ends only when this
/// gateway cannot go on.
fn discover(
    gateway: &GatewayBootstrap,
    left: oneshot::Receiver<()>,
) -> impl Future<Output = StartupError> + use<> {
    let options = WatchOptions::new(
        &gateway.process.settings,
        gateway.line_address(),
        gateway.process.ops_address,
        gateway.inboxes.len(),
    );
    let metrics = Arc::clone(&gateway.process.registry.discovery);
    let inboxes = gateway.inboxes.clone();
    let registry = Arc::clone(&gateway.process.registry);
    async move {
        let tell = |event: Event| match event {
            Event::Endpoints(endpoints) => {
                for inbox in &inboxes {
                    let event = BackendEvent::Endpoints(Arc::clone(&endpoints));
                    inbox.push_all([CoreEvent::Backend(event)]);
                }
            }
            Event::IdLeases(leases) => {
                for (inbox, lease) in inboxes.iter().zip(leases) {
                    inbox.push_all([CoreEvent::IdLease(lease)]);
                }
            }
        };
        let left = async {
            // An order that cannot come any more is one to leave.
            let _ = left.await;
        };
        let answers = |service| {
            let mut cores = registry.cores.iter();
            cores.any(|core| core.instances_up(service) > 0)
        };
        match discovery::watch(options, metrics, tell, answers, left).await {
            Ok(()) => std::future::pending().await,
            Err(error) => error.into(),
        }
    }
}

/// What a gateway of a cluster needs to be of use to clients.
pub(super) fn conditions(registry: &Arc<Registry>) -> Vec<Condition> {
    let cores = Arc::clone(registry);
    let pushes: Condition = Box::new(move || {
        let mut cores = cores.cores.iter();
        let away = cores.find(|core| core.bus_connected.get() == 0)?;
        Some(away.bus_outage.explain("redis: pushes do not arrive"))
    });
    let services = Service::ALL.map(|service| -> Condition {
        let registry = Arc::clone(registry);
        Box::new(move || {
            let mut cores = registry.cores.iter();
            let core = cores.find(|core| core.instances_up(service) == 0)?;
            let what = format!("backends: {} cannot be reached", service.name());
            let reason = core.service_troubles[service as usize].explain(&what);
            // Where nobody is known, this may be why.
            let trouble = registry.discovery.trouble();
            let trouble = trouble.filter(|_| registry.discovery.instances(service) == 0);
            Some(match trouble {
                Some(trouble) => format!("{reason}: {trouble}"),
                None => reason,
            })
        })
    });
    let cores = Arc::clone(registry);
    let routes: Condition = Box::new(move || {
        let users = cores
            .cores
            .iter()
            .map(|core| core.users_without_route.get());
        let users: u64 = users.sum();
        (users > 0).then(|| format!("presence: {users} users are logged in and get no pushes"))
    });
    [pushes, routes].into_iter().chain(services).collect()
}
