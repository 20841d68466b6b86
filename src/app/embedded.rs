//! The gateway that serves alone: services and bus are in this process.

use std::{path::Path, rc::Rc, sync::Arc};

use super::{cores::CoreParts, gateway::GatewayBootstrap};
use crate::{
    base::{
        error::{ExitCode, StartupError},
        id::{MessageIds, WORKERS_MAX},
    },
    bus::local::LocalBus,
    machine::data_dir,
    service::{
        self, ServiceOptions, StorageMode, backup,
        embedded::{CoreReplies, Embedded},
    },
    worker::Runtime,
};

/// Runs until told to stop and drained; `may_be_new`: even where a database is missing that should
/// be there. Ends the cores first and then the services, so that whatever a core confirmed on its
/// way out is stored.
pub(super) fn run(gateway: GatewayBootstrap, may_be_new: bool) -> Result<(), StartupError> {
    let settings = &gateway.process.settings;
    // Held until this returns: to the end of the services and beyond.
    let _data_dir = data_dir::lock(&settings.gateway_service.data_dir)?;
    if !may_be_new {
        refuse_to_begin_anew(&settings.gateway_service.data_dir)?;
    }
    let bus = LocalBus::new(
        &settings.gateway_service.gateway_id,
        gateway.inboxes.iter().cloned(),
    );
    let readiness = Arc::clone(&gateway.process.readiness);
    let services = service::start(
        ServiceOptions {
            data_dir: settings.gateway_service.data_dir.clone(),
            inbox_limit: settings.limits.inbox_limit,
            password_threads: settings.auth.password_threads,
            password_queue: settings.auth.password_queue,
            own_worker_id: WORKERS_MAX - 1,
            foreign_users: false,
            names: settings.accounts.names,
            storage: StorageMode::Embedded,
        },
        Arc::clone(&bus) as _,
        Arc::clone(&gateway.process.registry.store),
        Arc::new(move |failing| readiness.set_store_failing(failing)),
    )?;
    let (client, last_message_id) = (services.client(), services.last_message_id());
    backup::server::start(&settings.gateway_service.data_dir, client.clone());
    let data_dir = settings.gateway_service.data_dir.display();
    let data = format!("{data_dir}  ({})", services.contents());
    let outcome = gateway.serve(
        data,
        std::future::pending(),
        || (),
        |_| {
            let (client, bus) = (client.clone(), Arc::clone(&bus));
            move |parts: &CoreParts, runtime: &Rc<Runtime>| {
                let backend = Embedded::new(
                    client,
                    Arc::new(CoreReplies(Arc::clone(&parts.inbox))),
                    Arc::clone(&parts.metrics),
                    parts.settings.rpc.rpc_timeout_ms,
                );
                let ids = MessageIds::starting_after(parts.number as u16, last_message_id);
                parts.core(runtime, backend, bus.source(parts.number), ids)
            }
        },
    );
    services.stop();
    outcome
}

/// A gateway that finds its token secret and no database has lost it, or looks in the wrong place.
/// Were it to begin anew, names would be taken by whoever comes first, and numbers of users be
/// given a second time, for which old tokens are still good.
fn refuse_to_begin_anew(data_dir: &Path) -> Result<(), StartupError> {
    if service::has_database(data_dir) || !data_dir.join("token.secret").exists() {
        return Ok(());
    }
    Err(StartupError::new(
        ExitCode::Preflight,
        format!("there is no database in {}", data_dir.display()),
        "a gateway has served from there before, as token.secret shows",
        "restore a backup as im-gateway.db, or correct gateway_service.data_dir; to begin without any account, start once \
         with --new",
    ))
}
