//! The composition of `im-gateway backend`: the services as a process of their own.
//!
//! Two threads matter: this one serves calls, publishes pushes and answers operators, all on one
//! runtime; the store's thread does the rest. Order of start: what may fail for reasons of the
//! machine first, the services last. Order of end: no further calls, then the last pushes, then the
//! services, so that whatever was answered is stored and published.

use std::{net::TcpListener, pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::oneshot,
    time::{sleep, timeout},
};

use super::{
    banner::Banner,
    bootstrap::{Bootstrap, Served, bind},
    certificates::{membership, of_redis},
    options,
};
use crate::{
    base::{
        error::{ExitCode, StartupError},
        id::WORKERS_MAX,
    },
    bus::redis::publisher::{self, RedisPublisher},
    config::settings::Settings,
    control,
    discovery::{self, RegisterOptions},
    machine::{data_dir, preflight},
    metrics,
    rpc::server::{CONNECTIONS_MAX, Server},
    service::{self, ServiceOptions, Services, StorageMode, backup},
};

/// Processes over one data directory: they share a disk and a machine, so more would not be faster.
/// Each takes a worker number of its own, from the top downwards.
const PROCESSES_MAX: u16 = 64;
/// How long ZooKeeper may take to be told of the end; without its word the nodes vanish with the
/// session.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long gateways may take to hear from ZooKeeper that this process is leaving, before it takes
/// no further calls.
const LEAVE_GRACE: Duration = Duration::from_secs(1);
/// How long the last pushes may take at a stop. Past it gateways find the messages by the next
/// number, or at their next fetch.
const LAST_PUSHES: Duration = Duration::from_secs(2);

/// Runs the services until the process is told to stop and everything under way is answered.
///
/// # Errors
/// What keeps it from starting, or how it failed.
pub fn run(settings: Settings) -> Result<(), StartupError> {
    let max_connections = preflight::connections_possible(CONNECTIONS_MAX);
    // Held until this returns: to the end of the services and beyond.
    let _data_dir = match settings.backend.exclusive {
        true => data_dir::lock(&settings.gateway_service.data_dir)?,
        false => data_dir::lock_shared(&settings.gateway_service.data_dir)?,
    };
    // Held as long: ids that the services make themselves are this process's own.
    let slot = data_dir::take_slot(&settings.gateway_service.data_dir, PROCESSES_MAX)?;
    let push_key = options::push_key(&settings)?;
    let address = settings.backend.listen;
    let (listener, calls_address) = bind(address, "calls", "set backend.listen to a free address")?;
    let registration = RegisterOptions::new(
        &settings.service_discovery,
        &settings.backend,
        settings.backend.advertise.unwrap_or(calls_address),
    );
    let numbers: Arc<metrics::Server> = Arc::default();
    let mut process = bootstrap(settings, &registration, &numbers)?;
    let cluster_tls = process.settings.cluster_tls.as_ref();
    let membership = membership(cluster_tls, &mut process.watched)?;
    of_redis(&process.settings.redis, &mut process.watched)?;

    let redis = process.settings.redis.clone();
    let (publisher, publishing) = publisher::publisher(redis, push_key, Arc::clone(&numbers));
    let services = start_services(&process, slot.number, &publisher)?;
    let gateways: Arc<discovery::Gateways> = Arc::default();
    let known_gateways = Arc::clone(&gateways);
    let server = Server::new(
        &process.settings.backend.services,
        max_connections,
        services.client(),
        Box::new(move || known_gateways.addresses()),
        numbers,
    )
    .secured(membership);
    let (stop_sender, stop) = oneshot::channel();
    let serving = Serving {
        server,
        listener,
        publisher,
        registration,
        metrics: Arc::clone(&process.registry.discovery),
        gateways,
        stop,
    };
    let data_dir = process.settings.gateway_service.data_dir.display();
    let banner = Banner::of_backend(
        calls_address,
        process.ops_address,
        format!("{data_dir}  ({})", services.contents()),
        &process.settings.backend.services,
    );
    let outcome = serve(process, serving, publishing, banner, stop_sender);
    services.stop();
    outcome
}

/// What is the same in every process, with the conditions on which a backend is sent calls.
fn bootstrap(
    settings: Settings,
    registration: &RegisterOptions,
    numbers: &Arc<metrics::Server>,
) -> Result<Bootstrap, StartupError> {
    let registers = !registration.zookeeper_hosts.is_empty();
    Bootstrap::new(
        settings,
        |clock| {
            let numbers = Arc::clone(numbers);
            metrics::Registry::of_backend(numbers, clock.started, clock.started_unix_ms)
        },
        |registry| {
            let mut conditions = vec![redis_is_there(numbers)];
            conditions.extend(registers.then(|| is_registered(&registry.discovery)));
            conditions
        },
    )
}

fn start_services(
    process: &Bootstrap,
    slot: u16,
    publisher: &Arc<RedisPublisher>,
) -> Result<Services, StartupError> {
    assert!(slot < PROCESSES_MAX, "slot {slot} has no worker number");
    let settings = &process.settings;
    let readiness = Arc::clone(&process.readiness);
    let services = service::start(
        service_options(settings, WORKERS_MAX - 1 - slot),
        Arc::clone(publisher) as _,
        Arc::clone(&process.registry.store),
        Arc::new(move |failing| readiness.set_store_failing(failing)),
    )?;
    if settings.backend.exclusive {
        backup::server::start(&settings.gateway_service.data_dir, services.client());
    }
    Ok(services)
}

/// Serves until `stop` has been used and everything under way is answered.
fn serve(
    process: Bootstrap,
    serving: Serving,
    publishing: impl Future<Output = ()> + Send + 'static,
    banner: Banner,
    stop: oneshot::Sender<()>,
) -> Result<(), StartupError> {
    let (ready_sender, ready) = oneshot::channel();
    let (drained_sender, drained) = oneshot::channel();
    let served = Served {
        cores: Vec::new(),
        ready,
        drained,
        on_drain: Box::new(move || {
            // Whoever serves has ended already if nobody takes it.
            let _ = stop.send(());
        }),
        name: "the server of calls",
        leftover: "still had calls under way",
    };
    process.run(served, async move {
        banner.print();
        // As above.
        let _ = ready_sender.send(());
        if let Err(error) = serving.run(publishing).await {
            return error;
        }
        let _ = drained_sender.send(());
        std::future::pending().await
    })
}

/// What serves, until it is told to stop.
struct Serving {
    server: Server,
    listener: TcpListener,
    publisher: Arc<RedisPublisher>,
    registration: RegisterOptions,
    metrics: Arc<metrics::Discovery>,
    gateways: Arc<discovery::Gateways>,
    stop: oneshot::Receiver<()>,
}

impl Serving {
    async fn run(
        self,
        publishing: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), StartupError> {
        let publishing = tokio::spawn(publishing);
        let (stop_server, server_stop) = oneshot::channel();
        let mut serving = pin!(self.server.run(self.listener, server_stop));
        let served = tokio::select! {
            ended = &mut serving => ended,
            () = be_registered(self.registration, &self.metrics, self.gateways, self.stop) => {
                // It has ended already if nobody takes it.
                let _ = stop_server.send(());
                serving.await
            }
        };
        self.publisher.finish();
        if timeout(LAST_PUSHES, publishing).await.is_err() {
            log::warn!("Redis did not take the last pushes in time");
        }
        served
            .map_err(|error| StartupError::new(ExitCode::Runtime, "cannot serve calls", error, ""))
    }
}

/// Keeps this process registered until `stop`, then sees to it that gateways know of its leaving.
async fn be_registered(
    options: RegisterOptions,
    metrics: &Arc<metrics::Discovery>,
    gateways: Arc<discovery::Gateways>,
    stop: oneshot::Receiver<()>,
) {
    let (leave, left) = oneshot::channel();
    let left = async {
        // An order that cannot come any more is one to leave.
        let _ = left.await;
    };
    let registered = discovery::register(options, Arc::clone(metrics), gateways, left);
    let mut registered = pin!(registered);
    tokio::select! {
        () = &mut registered => {}
        _ = stop => {
            let is_known = metrics.is_registered();
            // As above.
            let _ = leave.send(());
            if timeout(LEAVE_TIMEOUT, registered).await.is_err() {
                log::warn!("ZooKeeper could not be told in time that this process is leaving");
            }
            if is_known {
                sleep(LEAVE_GRACE).await;
            }
        }
    }
}

fn service_options(settings: &Settings, own_worker_id: u16) -> ServiceOptions {
    ServiceOptions {
        data_dir: settings.gateway_service.data_dir.clone(),
        inbox_limit: settings.limits.inbox_limit,
        password_threads: settings.auth.password_threads,
        password_queue: settings.auth.password_queue,
        own_worker_id,
        foreign_users: settings.backend.foreign_users,
        names: settings.accounts.names,
        storage: StorageMode::Backend {
            exclusive: settings.backend.exclusive,
            route_lifetime: settings.presence.route_lifetime,
        },
    }
}

fn redis_is_there(numbers: &Arc<metrics::Server>) -> control::Condition {
    let numbers = Arc::clone(numbers);
    Box::new(move || {
        let outage = &numbers.publisher_outage;
        let is_away = numbers.publisher_connected.get() == 0 || outage.reason().is_some();
        is_away.then(|| outage.explain("redis: pushes cannot be published"))
    })
}

fn is_registered(status: &Arc<metrics::Discovery>) -> control::Condition {
    let status = Arc::clone(status);
    Box::new(move || {
        let what = "zookeeper: this process is not registered";
        (!status.is_registered()).then(|| match status.trouble() {
            Some(trouble) => format!("{what}: {trouble}"),
            None => what.to_owned(),
        })
    })
}
