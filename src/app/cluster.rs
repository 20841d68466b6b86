//! The gateway that is one of many: services are found by discovery and called over TCP, pushes come through Redis.

use std::{rc::Rc, sync::Arc, time::Duration};

use async_lock::Mutex;

use super::{Foundation, cores::CoreParts, options};
use crate::{
    backend::{
        BackendNews,
        endpoints::EndpointsBuilder,
        remote::{Remote, Surroundings},
    },
    bus::redis::{Credentials, Subscriber},
    data_dir,
    error::StartupError,
    handoff::event::CoreEvent,
    id::MessageIds,
    session::routes,
    worker::{backend_link, bus_link},
};

/// Runs until told to stop and drained.
pub(super) fn run(foundation: Foundation) -> Result<(), StartupError> {
    let settings = &foundation.settings;
    // For the token secret alone: nothing in it is this process's own.
    data_dir::make(&settings.gateway_service.data_dir)?;
    let credentials = Credentials::of(&settings.redis)?.map(Arc::new);
    let registration = Arc::new(Mutex::new(()));
    let data = format!(
        "with backends, pushes from Redis at {}",
        settings.redis.address
    );
    let mut table = EndpointsBuilder::default();
    for (service, instance) in &settings.service_discovery.static_instances {
        table.instance(*service, instance.clone());
    }
    let endpoints = Arc::new(table.build());
    for (number, inbox) in foundation.inboxes.iter().enumerate() {
        let worker = settings.gateway_service.first_worker + number as u16;
        inbox.push_all([
            CoreEvent::WorkerNumber(worker),
            CoreEvent::Backend(BackendNews::Endpoints(Arc::clone(&endpoints))),
        ]);
    }
    foundation.serve(data, std::future::pending(), |_| {
        let (credentials, registration) = (credentials.clone(), Arc::clone(&registration));
        move |parts: &CoreParts| {
            let remote = Remote::new(
                options::remote_options(&parts.settings),
                Arc::clone(&parts.metrics),
                Surroundings {
                    dial: Box::new(backend_link::start),
                    pause: Box::new(|length: Duration| Box::pin(glommio::timer::sleep(length))),
                    registration,
                    seed: parts.clock.started_unix_ms ^ (parts.number as u64) << 48,
                },
            );
            let subscriber = Subscriber::new(parts.route(), credentials);
            let core = parts.core(remote, subscriber, MessageIds::new(parts.number as u16));
            let address = parts.settings.redis.address.clone();
            glommio::spawn_local(bus_link::keep(Rc::clone(&core), address)).detach();
            let lifetime = parts.settings.presence.route_lifetime;
            glommio::spawn_local(routes::keep(Rc::clone(&core), lifetime)).detach();
            core
        }
    })
}
