//! The composition root: chooses every implementation, starts every thread, and sees to their end.
//!
//! Order of start: what may fail for reasons of the machine first, the cores last. Order of end: the cores, then the
//! services, so that whatever a core confirmed on its way out is stored.

pub mod backend;

use std::{
    io::Write,
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};

use crossbeam_channel::{Receiver, Sender};
use glommio::{LocalExecutorBuilder, Placement};
use socket2::Socket;
use tokio::sync::oneshot;

use crate::{
    backend::embedded::{CoreReplies, Embedded},
    bus::local::{LocalBus, LocalSource, MAX_CORES},
    config::settings::Settings,
    control, data_dir,
    error::{ExitCode, StartupError},
    handoff::{event::CoreEvent, inbox::Inbox},
    id::{MessageId, MessageIds, RouteId, WORKERS_MAX},
    limits::{Admission, Exempt, LoginGuard, LoginGuardOptions, Rate},
    metrics, preflight, secret_file,
    service::{self, ServiceClient, ServiceOptions, StorageMode},
    shard::{
        Now, Shard, ShardOptions,
        core::{Core, Gateway},
    },
    token::Tokens,
    worker::{
        Worker, WorkerParts,
        listener::{self, SocketOptions},
    },
};

/// Pushes that wait for a core at most; what does not fit is fetched from the store.
const INBOX_PUSHES: usize = 64 * 1024;
/// Records of failed log-ins, by address and by user.
const LOGIN_RECORDS: usize = 16 * 1024;
/// Locked memory glommio takes for file I/O, which the cores do none of.
const IO_MEMORY_BYTES: usize = 64 * 1024;
const RING_DEPTH: usize = 1024;
/// How long a core's loop may go on before timers are looked at.
const PREEMPT_AFTER: Duration = Duration::from_millis(10);

/// Runs the gateway until it is told to stop and has drained.
///
/// # Errors
/// What keeps it from starting, or how it failed.
pub fn run(settings: Settings) -> Result<(), StartupError> {
    let limits = preflight::preflight(&settings)?;
    // Held until this returns: to the end of the services and beyond.
    let _data_dir = data_dir::lock(&settings.gateway_service.data_dir)?;
    let workers = limits.workers.min(MAX_CORES);
    let (listeners, line_address) = listener::bind_all(
        settings.gateway_service.listen,
        workers,
        &socket_options(&settings),
    )?;
    let (ops_listener, ops_address) = bind_ops(&settings)?;

    let clock = Clock::start();
    let registry = Arc::new(metrics::Registry::new(
        workers,
        clock.started,
        clock.started_unix_ms,
    ));
    let inboxes = inboxes(workers)?;
    let bus = LocalBus::new(
        &settings.gateway_service.gateway_id,
        inboxes.iter().cloned(),
    );
    let readiness = Arc::new(control::Readiness::new());
    let services = service::start(
        ServiceOptions {
            data_dir: settings.gateway_service.data_dir.clone(),
            inbox_limit: settings.limits.inbox_limit,
            password_threads: settings.auth.password_threads,
            password_queue: settings.auth.password_queue,
            own_worker_id: WORKERS_MAX - 1,
            storage: StorageMode::Embedded,
        },
        Arc::clone(&bus) as _,
        Arc::clone(&registry.store),
        {
            let readiness = Arc::clone(&readiness);
            Arc::new(move |failing| readiness.set_store_failing(failing))
        },
    )?;
    let gateway = Arc::new(gateway(&settings, limits.max_connections)?);

    let (news, cores_news) = crossbeam_channel::unbounded();
    for (number, listener) in listeners.into_iter().enumerate() {
        let cpu = (workers <= limits.cpus.len()).then(|| limits.cpus[number]);
        let parts = CoreParts {
            number,
            listener,
            inbox: Arc::clone(&inboxes[number]),
            metrics: Arc::clone(&registry.cores[number]),
            bus: Arc::clone(&bus),
            services: services.client(),
            last_message_id: services.last_message_id(),
            gateway: Arc::clone(&gateway),
            settings: settings.clone(),
            clock,
        };
        start_core(parts, cpu, news.clone())?;
    }
    drop(news);

    let (ready_sender, cores_ready) = oneshot::channel();
    let (drained_sender, cores_drained) = oneshot::channel();
    let banner = Banner {
        line_address,
        ops_address,
        data_dir: settings.gateway_service.data_dir.display().to_string(),
        workers,
    };
    thread::spawn(move || {
        watch_cores(workers, &cores_news, || {
            banner.print();
            // Nobody waits for it any more only where the control thread has ended.
            let _ = ready_sender.send(());
        })
        .then(|| drained_sender.send(()))
    });
    let outcome = control::run(control::Options {
        ops_listener,
        registry,
        readiness,
        drain_timeout: settings.gateway_service.drain_timeout,
        cores_ready,
        cores_drained,
        on_drain: Box::new(move || {
            for inbox in &inboxes {
                inbox.push_all([CoreEvent::Drain]);
            }
        }),
        tasks: Vec::new(),
    })
    .map_err(|error| StartupError::new(ExitCode::Runtime, "cannot go on", error, ""))?;
    services.stop();
    match outcome {
        control::Outcome::Drained => Ok(()),
        control::Outcome::DeadlineHit { connections_left } => Err(StartupError::new(
            ExitCode::DrainTimeout,
            format!("{connections_left} connections were still open after drain_timeout"),
            "",
            "raise gateway_service.drain_timeout",
        )),
        control::Outcome::CoresLost => Err(StartupError::new(
            ExitCode::Runtime,
            "a core ended unexpectedly",
            "see the log above",
            "",
        )),
    }
}

/// Where all clocks of the process begin.
#[derive(Clone, Copy)]
struct Clock {
    started: Instant,
    started_unix_ms: u64,
}

impl Clock {
    fn start() -> Self {
        Self {
            started: Instant::now(),
            started_unix_ms: unix_ms(),
        }
    }

    fn now(&self) -> Now {
        Now {
            monotonic_us: u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX),
            unix_ms: unix_ms(),
        }
    }
}

fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_millis()).ok())
        .unwrap_or(0)
}

fn socket_options(settings: &Settings) -> SocketOptions {
    let network = &settings.network;
    SocketOptions {
        backlog: network.backlog,
        nodelay: network.tcp_nodelay,
        keepalive: network.tcp_keepalive,
        user_timeout: network.tcp_user_timeout,
        send_buffer_bytes: network.send_buffer_bytes,
        receive_buffer_bytes: network.receive_buffer_bytes,
    }
}

fn bind_ops(
    settings: &Settings,
) -> Result<(Option<TcpListener>, Option<SocketAddr>), StartupError> {
    let Some(address) = settings.ops.listen else {
        return Ok((None, None));
    };
    TcpListener::bind(address)
        .and_then(|listener| {
            listener.set_nonblocking(true)?;
            let bound = listener.local_addr()?;
            Ok((Some(listener), Some(bound)))
        })
        .map_err(|error| {
            StartupError::new(
                ExitCode::Preflight,
                format!("cannot listen on {address} for operations"),
                error,
                "set ops.listen to a free address, or to \"\" for none",
            )
        })
}

fn inboxes(count: usize) -> Result<Vec<Arc<Inbox<CoreEvent>>>, StartupError> {
    (0..count)
        .map(|_| Inbox::new(INBOX_PUSHES).map(Arc::new))
        .collect::<Result<_, _>>()
        .map_err(|error| {
            let remedy = "raise the limit on open files (LimitNOFILE, ulimit -n)";
            StartupError::new(
                ExitCode::Preflight,
                "cannot set up the cores",
                error,
                remedy,
            )
        })
}

fn gateway(settings: &Settings, max_connections: usize) -> Result<Gateway, StartupError> {
    let secret = secret_file::load_or_create(&settings.auth.token_secret_file)?;
    let lifetime = Duration::from_secs(settings.auth.token_lifetime_seconds);
    let tokens = Tokens::new(secret.expose(), lifetime)
        .map_err(|error| StartupError::new(ExitCode::Preflight, "cannot sign tokens", error, ""))?;
    let limits = &settings.limits;
    Ok(Gateway::new(
        tokens,
        limits.max_devices,
        Exempt::new(limits.limit_exempt.clone()),
        LoginGuard::new(LoginGuardOptions {
            // The guard counts what is free: the failure that makes it `login_attempts` is the first to close the door.
            attempts: limits.login_attempts.saturating_sub(1),
            delay_ms: limits.login_delay_ms,
            delay_max_ms: limits.login_delay_max_ms,
            capacity: LOGIN_RECORDS,
        }),
        Admission::new(max_connections, limits.connections_per_ip as usize),
    ))
}

fn shard_options(settings: &Settings) -> ShardOptions {
    let limits = &settings.limits;
    ShardOptions {
        max_line_bytes: limits.max_line_bytes,
        login_line_bytes: limits.login_line_bytes,
        protocol_error_limit: limits.protocol_error_limit,
        login_timeout_ms: limits.login_timeout_ms,
        connection_timeout_ms: settings.gateway_service.connection_timeout_ms,
        outbound_queue_bytes: limits.outbound_queue_bytes,
        unconfirmed_limit: limits.unconfirmed_limit,
        command_rate: Rate {
            per_second: limits.commands_per_second,
            burst: limits.commands_burst,
        },
        throttle_timeout_ms: limits.throttle_timeout_ms,
        banner: settings.gateway_service.banner,
    }
}

/// What a core's thread needs to build its worker, which cannot move between threads.
struct CoreParts {
    number: usize,
    listener: Socket,
    inbox: Arc<Inbox<CoreEvent>>,
    metrics: Arc<metrics::Core>,
    bus: Arc<LocalBus>,
    services: ServiceClient,
    last_message_id: MessageId,
    gateway: Arc<Gateway>,
    settings: Settings,
    clock: Clock,
}

/// What a core's thread has to say about itself.
enum CoreNews {
    /// It accepts connections.
    Up,
    /// It has ended; `drained`: as it was told to.
    Ended { drained: bool },
}

/// Tells of a core's end, however it ends.
struct EndOfCore {
    news: Sender<CoreNews>,
    drained: bool,
}

impl Drop for EndOfCore {
    fn drop(&mut self) {
        // Nobody listens any more only where the process is ending anyway.
        let _ = self.news.send(CoreNews::Ended {
            drained: self.drained,
        });
    }
}

fn start_core(
    parts: CoreParts,
    cpu: Option<usize>,
    news: Sender<CoreNews>,
) -> Result<(), StartupError> {
    let placement = cpu.map_or(Placement::Unbound, Placement::Fixed);
    LocalExecutorBuilder::new(placement)
        .name(&format!("core-{}", parts.number))
        .ring_depth(RING_DEPTH)
        .io_memory(IO_MEMORY_BYTES)
        .preempt_timer(PREEMPT_AFTER)
        .spawn(move || async move {
            let mut end = EndOfCore {
                news: news.clone(),
                drained: false,
            };
            match build_worker(parts) {
                Ok(worker) => {
                    // As above.
                    let _ = news.send(CoreNews::Up);
                    worker.run().await;
                    end.drained = true;
                }
                Err(error) => log::error!("a core cannot start: {error}"),
            }
        })
        .map(drop)
        .map_err(|error| {
            let remedy = "run `im-gateway doctor` to see what is missing";
            StartupError::new(ExitCode::Preflight, "cannot start a core", error, remedy)
        })
}

fn build_worker(parts: CoreParts) -> std::io::Result<Worker<Embedded, LocalSource>> {
    let shard = Shard::new(
        shard_options(&parts.settings),
        MessageIds::starting_after(parts.number as u16, parts.last_message_id),
        Arc::clone(&parts.metrics),
    );
    let backend = Embedded::new(
        parts.services,
        Arc::new(CoreReplies(Arc::clone(&parts.inbox))),
        Arc::clone(&parts.metrics),
        parts.settings.rpc.rpc_timeout_ms,
    );
    let route = RouteId::new(&parts.settings.gateway_service.gateway_id, parts.number);
    let clock = parts.clock;
    let core = Core::new(
        shard,
        backend,
        parts.bus.source(parts.number),
        parts.gateway,
        route,
        move || clock.now(),
        |length| Box::pin(glommio::timer::sleep(length)),
    );
    Worker::new(WorkerParts {
        core: Rc::new(core),
        inbox: parts.inbox,
        listener: parts.listener,
        metrics: parts.metrics,
    })
}

/// Follows the cores: calls `all_up` once all are up, and says at the end whether all drained. Returns at once when one
/// ends otherwise: its listener would go on taking connections that nobody serves.
fn watch_cores(cores: usize, news: &Receiver<CoreNews>, all_up: impl FnOnce()) -> bool {
    let (mut up, mut drained) = (0, 0);
    let mut all_up = Some(all_up);
    while drained < cores {
        match news.recv() {
            Ok(CoreNews::Up) => {
                up += 1;
                if up == cores
                    && let Some(all_up) = all_up.take()
                {
                    all_up();
                }
            }
            Ok(CoreNews::Ended { drained: true }) => drained += 1,
            Ok(CoreNews::Ended { drained: false }) | Err(_) => return false,
        }
    }
    true
}

/// What a newcomer sees first.
struct Banner {
    line_address: SocketAddr,
    ops_address: Option<SocketAddr>,
    data_dir: String,
    workers: usize,
}

impl Banner {
    fn print(&self) {
        let operations = self.ops_address.map_or_else(
            || "off".to_owned(),
            |address| format!("http://{address}  (/health /livez /readyz /metrics)"),
        );
        let text = format!(
            "im-gateway {version}\n\
             \x20 line protocol   {line}\n\
             \x20 operations      {operations}\n\
             \x20 data            {data}\n\
             \x20 workers         {workers}\n\
             \n\
             Try it:  nc {host} {port}   and type\n\
             \x20 register:alice:wonderland\n\
             \x20 whoami\n\
             \x20 chat:1:hello\n\
             \x20 help\n\n",
            version = env!("CARGO_PKG_VERSION"),
            line = self.line_address,
            data = self.data_dir,
            workers = self.workers,
            host = self.line_address.ip(),
            port = self.line_address.port(),
        );
        // A closed standard output is no reason not to serve.
        let mut out = std::io::stdout().lock();
        let _ = out.write_all(text.as_bytes()).and_then(|()| out.flush());
    }
}
