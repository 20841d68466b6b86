//! What every process starts with and ends by, whatever it serves.
//!
//! Owns the ops listener until the control thread takes it, the clock, the numbers and the
//! readiness; and how the end of a process becomes its exit code.

use std::{
    net::{SocketAddr, TcpListener},
    sync::Arc,
};

use tokio::sync::oneshot;

use super::{
    certificates::{self, Watched},
    clock::Clock,
};
use crate::{
    base::error::{ExitCode, StartupError},
    config::settings::Settings,
    control, metrics,
    tls::Acceptor,
};

/// A process that is starting.
pub(super) struct Bootstrap {
    pub(super) settings: Settings,
    pub(super) clock: Clock,
    pub(super) registry: Arc<metrics::Registry>,
    pub(super) readiness: Arc<control::Readiness>,
    pub(super) ops_address: Option<SocketAddr>,
    /// What is made of files that are read again while the process runs.
    pub(super) watched: Watched,
    ops_listener: Option<TcpListener>,
    ops_tls: Option<Arc<Acceptor>>,
}

/// What serves, as far as the control thread has to know.
pub(super) struct Served {
    /// The cores; none in a backend process.
    pub(super) cores: control::Cores,
    /// Fulfilled once it serves.
    pub(super) ready: oneshot::Receiver<()>,
    /// Fulfilled once it has drained; dropped when it ends otherwise.
    pub(super) drained: oneshot::Receiver<()>,
    /// Has it drain.
    pub(super) on_drain: Box<dyn FnOnce() + Send>,
    /// What it is called.
    pub(super) name: &'static str,
    /// What becomes of connections that are left over at the end of the drain.
    pub(super) leftover: &'static str,
}

impl Bootstrap {
    /// Listens for operators and starts the clock. `registry` makes the numbers; `conditions` says
    /// what it takes, beside what serves being up, to be sent clients.
    pub(super) fn new(
        settings: Settings,
        registry: impl FnOnce(Clock) -> metrics::Registry,
        conditions: impl FnOnce(&Arc<metrics::Registry>) -> Vec<control::Condition>,
    ) -> Result<Self, StartupError> {
        let (ops_listener, ops_address) = bind_ops(&settings)?;
        assert_eq!(ops_listener.is_some(), settings.ops.listen.is_some());
        let mut watched = Watched::new();
        let ops_tls = certificates::of_ops(settings.ops.tls.as_ref(), &mut watched)?;
        let clock = Clock::start();
        let mut registry = registry(clock);
        registry.old_names = settings.metrics.old_names;
        let registry = Arc::new(registry);
        let conditions = conditions(&registry);
        Ok(Self {
            settings,
            clock,
            registry,
            readiness: Arc::new(control::Readiness::with_conditions(conditions)),
            ops_address,
            watched,
            ops_listener,
            ops_tls,
        })
    }

    /// Runs the control thread here until all is over, and `background_task` on it; should that
    /// end, so does the process.
    pub(super) fn run(
        self,
        served: Served,
        background_task: impl Future<Output = StartupError>,
    ) -> Result<(), StartupError> {
        let registry = Arc::clone(&self.registry);
        let options = control::Options {
            ops_listener: self.ops_listener,
            ops_tls: self.ops_tls,
            registry: self.registry,
            readiness: self.readiness,
            cores: served.cores,
            drain_timeout: self.settings.gateway_service.drain_timeout,
            cores_ready: served.ready,
            cores_drained: served.drained,
            on_drain: served.on_drain,
        };
        let background_task = certificates::follow(self.watched, registry, background_task);
        let outcome = control::run(options, background_task)
            .map_err(|error| StartupError::new(ExitCode::Runtime, "cannot go on", error, ""))?;
        ended(outcome, served.leftover, served.name)
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
        control::Outcome::BackgroundTaskEnded(error) => Err(error),
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
pub(super) fn bind(
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
