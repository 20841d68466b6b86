//! The composition of `im-gateway backend`: the services as a process of their own.
//!
//! Two threads matter: this one serves calls, publishes pushes and answers operators, all on one runtime; the store's thread
//! does the rest. Order of start: what may fail for reasons of the machine first, the services last. Order of end: no further
//! calls, then the last pushes, then the services, so that whatever was answered is stored and published.

use std::{
    io::Write,
    net::{SocketAddr, TcpListener},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::oneshot, time::timeout};

use super::{bind_ops, clock::Clock};
use crate::{
    backend::Service,
    bus::credentials::Credentials,
    config::settings::Settings,
    control, data_dir,
    error::{ExitCode, StartupError},
    id::WORKERS_MAX,
    metrics, preflight,
    server::{
        CONNECTIONS_MAX, Server,
        publisher::{self, RedisOptions, RedisPublisher},
    },
    service::{self, ServiceOptions, StorageMode},
};

/// How long the last pushes may take at a stop. Past it gateways find the messages by the next number, or at their next fetch.
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
    let redis = redis_options(&settings)?;
    let (listener, calls_address) = bind_calls(settings.backend.listen)?;
    let (ops_listener, ops_address) = bind_ops(&settings)?;

    let clock = Clock::start();
    let numbers: Arc<metrics::Server> = Arc::default();
    let registry = Arc::new(metrics::Registry::of_backend(
        Arc::clone(&numbers),
        clock.started,
        clock.started_unix_ms,
    ));
    let readiness = Arc::new(control::Readiness::with_conditions(vec![redis_is_there(
        &numbers,
    )]));
    let (publisher, publishing) = publisher::publisher(redis, Arc::clone(&numbers));
    let services = service::start(
        service_options(&settings),
        Arc::clone(&publisher) as _,
        Arc::clone(&registry.store),
        {
            let readiness = Arc::clone(&readiness);
            Arc::new(move |failing| readiness.set_store_failing(failing))
        },
    )?;
    let server = Server::new(
        &settings.backend.services,
        max_connections,
        services.client(),
        numbers,
    );

    let (stop_sender, stop) = oneshot::channel();
    let (ready_sender, ready) = oneshot::channel();
    let (drained_sender, drained) = oneshot::channel();
    let banner = Banner {
        calls_address,
        ops_address,
        data_dir: settings.gateway_service.data_dir.display().to_string(),
        services: settings.backend.services.clone(),
    };
    let serving = Serving {
        server,
        listener,
        publisher,
        stop,
    };
    let outcome = control::run(
        control::Options {
            ops_listener,
            registry,
            readiness,
            drain_timeout: settings.gateway_service.drain_timeout,
            cores_ready: ready,
            cores_drained: drained,
            on_drain: Box::new(move || {
                // Whoever serves has ended already if nobody takes it.
                let _ = stop_sender.send(());
            }),
        },
        async move {
            banner.print();
            // As above.
            let _ = ready_sender.send(());
            if let Err(error) = serving.run(publishing).await {
                return error;
            }
            let _ = drained_sender.send(());
            std::future::pending().await
        },
    )
    .map_err(|error| StartupError::new(ExitCode::Runtime, "cannot go on", error, ""))?;
    services.stop();
    ended(outcome)
}

fn ended(outcome: control::Outcome) -> Result<(), StartupError> {
    match outcome {
        control::Outcome::Drained => Ok(()),
        control::Outcome::DeadlineHit { connections_left } => Err(StartupError::new(
            ExitCode::DrainTimeout,
            format!("{connections_left} connections still had calls under way after drain_timeout"),
            "",
            "raise gateway_service.drain_timeout",
        )),
        control::Outcome::CoresLost => Err(StartupError::new(
            ExitCode::Runtime,
            "the server of calls ended unexpectedly",
            "see the log above",
            "",
        )),
        control::Outcome::CompanionEnded(error) => Err(error),
    }
}

/// What serves, until it is told to stop.
struct Serving {
    server: Server,
    listener: TcpListener,
    publisher: Arc<RedisPublisher>,
    stop: oneshot::Receiver<()>,
}

impl Serving {
    async fn run(
        self,
        publishing: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), StartupError> {
        let publishing = tokio::spawn(publishing);
        let served = self.server.run(self.listener, self.stop).await;
        self.publisher.finish();
        if timeout(LAST_PUSHES, publishing).await.is_err() {
            log::warn!("Redis did not take the last pushes in time");
        }
        served
            .map_err(|error| StartupError::new(ExitCode::Runtime, "cannot serve calls", error, ""))
    }
}

fn service_options(settings: &Settings) -> ServiceOptions {
    ServiceOptions {
        data_dir: settings.gateway_service.data_dir.clone(),
        inbox_limit: settings.limits.inbox_limit,
        password_threads: settings.auth.password_threads,
        password_queue: settings.auth.password_queue,
        own_worker_id: WORKERS_MAX - 1,
        storage: StorageMode::Backend {
            exclusive: settings.backend.exclusive,
            route_lifetime: settings.presence.route_lifetime,
        },
    }
}

fn redis_options(settings: &Settings) -> Result<RedisOptions, StartupError> {
    Ok(RedisOptions {
        address: settings.redis.address.clone(),
        credentials: Credentials::of(&settings.redis)?,
    })
}

fn redis_is_there(numbers: &Arc<metrics::Server>) -> control::Condition {
    let numbers = Arc::clone(numbers);
    Box::new(move || {
        (numbers.publisher_connected.get() == 0)
            .then(|| "redis: pushes cannot be published".to_owned())
    })
}

fn bind_calls(address: SocketAddr) -> Result<(TcpListener, SocketAddr), StartupError> {
    TcpListener::bind(address)
        .and_then(|listener| {
            let bound = listener.local_addr()?;
            Ok((listener, bound))
        })
        .map_err(|error| {
            StartupError::new(
                ExitCode::Preflight,
                format!("cannot listen on {address} for calls"),
                error,
                "set backend.listen to a free address",
            )
        })
}

/// What whoever starts it sees first.
struct Banner {
    calls_address: SocketAddr,
    ops_address: Option<SocketAddr>,
    data_dir: String,
    services: Vec<Service>,
}

impl Banner {
    fn print(&self) {
        let operations = self.ops_address.map_or_else(
            || "off".to_owned(),
            |address| format!("http://{address}  (/health /livez /readyz /metrics)"),
        );
        let services: Vec<&str> = self.services.iter().map(|service| service.word()).collect();
        let text = format!(
            "im-gateway {version} backend\n\
             \x20 calls           {calls}\n\
             \x20 operations      {operations}\n\
             \x20 data            {data}\n\
             \x20 services        {services}\n\n",
            version = env!("CARGO_PKG_VERSION"),
            calls = self.calls_address,
            data = self.data_dir,
            services = services.join(" "),
        );
        // A closed standard output is no reason not to serve.
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}
