//! The composition root: chooses every implementation, starts every thread, and sees to their end.
//!
//! Order of start: what may fail for reasons of the machine first, the cores last. `embedded` serves alone, `cluster` is one
//! gateway of many; both stand on the same `Foundation`. `backend` is the other kind of process: the services themselves.

pub mod backend;
mod banner;
mod clock;
mod cluster;
mod cores;
pub mod doctor;
mod embedded;
mod options;
mod user_journal;

use std::{
    net::{SocketAddr, TcpListener},
    rc::Rc,
    sync::Arc,
    thread,
};

use socket2::Socket;
use tokio::sync::oneshot;

use self::{banner::Banner, clock::Clock, cores::CoreParts};
use crate::{
    base::error::{ExitCode, StartupError},
    bus::local::MAX_CORES,
    config::settings::Settings,
    contract::{backend::Backend, bus::PushSource},
    control,
    flow::core::Core,
    handoff::{event::CoreEvent, inbox::Inbox},
    machine::preflight,
    metrics,
    worker::{Runtime, listener},
};

/// Pushes that wait for a core at most; what does not fit is fetched from the store.
const INBOX_PUSHES: usize = 64 * 1024;

/// Runs the gateway until it is told to stop and has drained. `may_be_new`: one that serves alone begins with a new database,
/// even where there must have been one.
///
/// # Errors
/// What keeps it from starting, or how it failed.
pub fn run(settings: Settings, may_be_new: bool) -> Result<(), StartupError> {
    let is_cluster = settings.is_cluster();
    if is_cluster {
        cluster::run(Foundation::lay(settings, cluster::conditions)?)
    } else {
        embedded::run(Foundation::lay(settings, |_| Vec::new())?, may_be_new)
    }
}

/// What every gateway stands on, before it is known what its cores ask and listen to.
struct Foundation {
    settings: Settings,
    limits: preflight::Limits,
    clock: Clock,
    registry: Arc<metrics::Registry>,
    readiness: Arc<control::Readiness>,
    inboxes: Vec<Arc<Inbox<CoreEvent>>>,
    listeners: Vec<Socket>,
    line_address: SocketAddr,
    ops: (Option<TcpListener>, Option<SocketAddr>),
}

impl Foundation {
    /// `conditions` says what it takes, beside cores that are up, to be sent clients.
    fn lay(
        settings: Settings,
        conditions: impl FnOnce(&Arc<metrics::Registry>) -> Vec<control::Condition>,
    ) -> Result<Self, StartupError> {
        let mut limits = preflight::preflight(options::wanted(&settings))?;
        limits.workers = limits.workers.min(MAX_CORES);
        let (listeners, line_address) = listener::bind_all(
            settings.gateway_service.listen,
            limits.workers,
            &options::socket_options(&settings),
        )?;
        let ops = bind_ops(&settings)?;
        let clock = Clock::start();
        let registry = Arc::new(metrics::Registry::new(
            limits.workers,
            clock.started,
            clock.started_unix_ms,
        ));
        Ok(Self {
            inboxes: inboxes(limits.workers)?,
            settings,
            limits,
            clock,
            readiness: Arc::new(control::Readiness::with_conditions(conditions(&registry))),
            registry,
            listeners,
            line_address,
            ops,
        })
    }

    /// Starts the cores, each built on its thread by what `way_of` gives for its number, and runs the control thread here
    /// until all is over. `companion` runs there beside it; should it end, so does the process. `on_drain` is called when
    /// the end begins.
    fn serve<B, P, W>(
        self,
        data: String,
        companion: impl Future<Output = StartupError>,
        on_drain: impl FnOnce() + Send + 'static,
        way_of: impl Fn(usize) -> W,
    ) -> Result<(), StartupError>
    where
        B: Backend + 'static,
        P: PushSource + 'static,
        W: FnOnce(&CoreParts, &Rc<Runtime>) -> Rc<Core<B, P>> + Send + 'static,
    {
        let workers = self.limits.workers;
        let gateway = Arc::new(options::gateway(
            &self.settings,
            self.limits.max_connections,
        )?);
        let (news, cores_news) = crossbeam_channel::unbounded();
        for (number, listener) in self.listeners.into_iter().enumerate() {
            let has_own = self.limits.quota.is_none() && workers <= self.limits.cpus.len();
            let cpu = has_own.then(|| self.limits.cpus[number]);
            let parts = CoreParts {
                number,
                listener,
                inbox: Arc::clone(&self.inboxes[number]),
                metrics: Arc::clone(&self.registry.cores[number]),
                gateway: Arc::clone(&gateway),
                settings: self.settings.clone(),
                clock: self.clock,
            };
            cores::start(parts, cpu, news.clone(), way_of(number))?;
        }
        drop(news);

        let (ready_sender, cores_ready) = oneshot::channel();
        let (drained_sender, cores_drained) = oneshot::channel();
        let (ops_listener, ops_address) = self.ops;
        let banner = Banner {
            line_address: self.line_address,
            ops_address,
            data,
            workers,
        };
        thread::spawn(move || {
            cores::watch(workers, &cores_news, || {
                banner.print();
                // Nobody waits for it any more only where the control thread has ended.
                let _ = ready_sender.send(());
            })
            .then(|| drained_sender.send(()))
        });
        let inboxes = self.inboxes.clone();
        let outcome = control::run(
            control::Options {
                ops_listener,
                registry: self.registry,
                readiness: self.readiness,
                cores: self.inboxes.clone(),
                drain_timeout: self.settings.gateway_service.drain_timeout,
                cores_ready,
                cores_drained,
                on_drain: Box::new(move || {
                    on_drain();
                    for inbox in &inboxes {
                        inbox.push_all([CoreEvent::Drain]);
                    }
                }),
            },
            companion,
        )
        .map_err(|error| StartupError::new(ExitCode::Runtime, "cannot go on", error, ""))?;
        ended(outcome, "were still open", "a core")
    }
}

/// How the process ends. `still`: what connections left over were doing; `serving`: what serves.
fn ended(outcome: control::Outcome, still: &str, serving: &str) -> Result<(), StartupError> {
    match outcome {
        // Whoever was connected has been served to the end.
        control::Outcome::Drained
        | control::Outcome::DeadlineHit {
            connections_left: 0,
        } => {
            log::info!("stopped: everyone was served to the end");
            Ok(())
        }
        control::Outcome::DeadlineHit { connections_left } => Err(StartupError::new(
            ExitCode::DrainTimeout,
            format!("{connections_left} connections {still} after drain_timeout"),
            "",
            "raise gateway_service.drain_timeout",
        )),
        control::Outcome::CoresLost => Err(StartupError::new(
            ExitCode::Runtime,
            format!("{serving} ended unexpectedly"),
            "see the log above",
            "",
        )),
        control::Outcome::CompanionEnded(error) => Err(error),
    }
}

fn bind_ops(
    settings: &Settings,
) -> Result<(Option<TcpListener>, Option<SocketAddr>), StartupError> {
    let Some(address) = settings.ops.listen else {
        return Ok((None, None));
    };
    let remedy = "set ops.listen to a free address, or to \"\" for none";
    let (listener, bound) = bind(address, "operations", remedy)?;
    Ok((Some(listener), Some(bound)))
}

/// Listens on `address`; says where that is, if any free port is meant.
fn bind(
    address: SocketAddr,
    purpose: &str,
    remedy: &str,
) -> Result<(TcpListener, SocketAddr), StartupError> {
    TcpListener::bind(address)
        .and_then(|listener| {
            let bound = listener.local_addr()?;
            Ok((listener, bound))
        })
        .map_err(|error| {
            let what = format!("cannot listen on {address} for {purpose}");
            StartupError::new(ExitCode::Preflight, what, error, remedy)
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
