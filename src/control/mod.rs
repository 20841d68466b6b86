//! The control thread: what is slow, shared and none of a core's business.
//!
//! Owns the ops listener (`ops`), the signals (`signals`), the word with systemd (`systemd`), the
//! readiness of the gateway (`readiness`), questions to the cores (`cores`), and the course of its
//! end: the first stop signal begins the drain, a second one ends the process at once, and a drain
//! has a deadline. Never touches a connection and never waits for a core, except for all of them to
//! have drained. Everything here runs on one tokio runtime on the thread that calls [`run`].

mod cores;
mod host;
mod ops;
mod readiness;
mod signals;
mod systemd;
#[cfg(test)]
mod tests;

use std::{io, sync::Arc, time::Duration};

use log::{error, info, warn};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::oneshot,
};

pub use cores::Cores;
pub use readiness::{Condition, Readiness};

use crate::{base::error::StartupError, logging, metrics::Registry, tls::Acceptor};
use ops::{Limits, Sources};
use signals::{StopSignal, StopSignals};
use systemd::Supervisor;

/// What the control thread works with. A backend process has no cores: there, its server is what
/// comes up and drains.
pub struct Options {
    /// The ops listener, bound already, so that the caller knows its port; `None`: no ops HTTP.
    pub ops_listener: Option<std::net::TcpListener>,
    /// What it begins TLS with; `None`: there is none.
    pub ops_tls: Option<Arc<Acceptor>>,
    /// The numbers and heartbeats of all cores.
    pub registry: Arc<Registry>,
    /// The flags behind `/readyz`. `cores_up` and `draining` are set here; others by whoever knows.
    pub readiness: Arc<Readiness>,
    /// The cores, to be asked how they are.
    pub cores: Cores,
    /// How long the cores may take to drain.
    pub drain_timeout: Duration,
    /// Fulfilled once every core accepts connections.
    pub cores_ready: oneshot::Receiver<()>,
    /// Fulfilled once every core has ended its last connection; dropped unfulfilled when the cores
    /// are gone without it.
    pub cores_drained: oneshot::Receiver<()>,
    /// Tells the cores to drain. Called at most once; must not block.
    pub on_drain: Box<dyn FnOnce() + Send>,
}

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Every core has drained in time.
    Drained,
    /// The deadline passed with this many clients left.
    DeadlineHit {
        /// Connections still open.
        connections_left: u64,
    },
    /// The cores ended although nobody asked them to, or without having drained.
    CoresLost,
    /// What ran beside it came to an end that leaves nothing to do.
    BackgroundTaskEnded(StartupError),
}

/// Why the control thread could not start.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The runtime of the control thread.
    #[error("cannot start the control thread: {0}")]
    Runtime(#[source] io::Error),
    /// The handlers of the signals.
    #[error("cannot listen for signals: {0}")]
    Signals(#[source] io::Error),
    /// The ops listener.
    #[error("cannot use the ops listener: {0}")]
    OpsListener(#[source] io::Error),
}

/// Runs the control thread on this thread, until the cores have drained or failed to.
///
/// `background_task` runs beside it, on the same thread. Takes over SIGTERM, SIGINT, SIGHUP,
/// SIGQUIT, SIGUSR1 and SIGUSR2. A second SIGTERM or SIGINT ends
/// the process in here, with 143 or 130.
pub fn run(
    options: Options,
    background_task: impl Future<Output = StartupError>,
) -> Result<Outcome, ControlError> {
    let runtime = runtime()?;
    let end = runtime.block_on(async {
        let signals = StopSignals::from_system().map_err(ControlError::Signals)?;
        let asked = signal(SignalKind::user_defined1()).map_err(ControlError::Signals)?;
        tokio::spawn(cores::report_on(asked, options.cores.clone()));
        let supervisor = Supervisor::from_environment();
        tokio::select! {
            end = supervise(options, signals, supervisor, Limits::default()) => end,
            error = background_task => Ok(End::Outcome(Outcome::BackgroundTaskEnded(error))),
        }
    });
    // A look-up of a name or a file that hangs keeps nobody from ending.
    runtime.shutdown_background();
    match end? {
        End::Outcome(outcome) => Ok(outcome),
        End::SecondSignal(signal) => {
            error!("second signal: exiting now");
            logging::flush();
            std::process::exit(signal.exit_code())
        }
    }
}

fn runtime() -> Result<tokio::runtime::Runtime, ControlError> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(ControlError::Runtime)
}

/// How the supervision ended: with an outcome, or with a signal that leaves no time for one.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Outcome(Outcome),
    SecondSignal(StopSignal),
}

/// Everything of [`run`] but the process around it: where signals come from and whom to notify is
/// given.
async fn supervise(
    options: Options,
    mut signals: StopSignals,
    supervisor: Supervisor,
    limits: Limits,
) -> Result<End, ControlError> {
    let Options {
        ops_listener,
        ops_tls,
        registry,
        readiness,
        cores: _,
        drain_timeout,
        cores_ready,
        mut cores_drained,
        on_drain,
    } = options;

    if let Some(listener) = ops_listener {
        listener
            .set_nonblocking(true)
            .map_err(ControlError::OpsListener)?;
        let listener =
            tokio::net::TcpListener::from_std(listener).map_err(ControlError::OpsListener)?;
        if !ops_tls.as_ref().is_some_and(|tls| tls.wants_certificates()) {
            warn_if_exposed(&listener);
        }
        let sources = Sources {
            registry: Arc::clone(&registry),
            readiness: Arc::clone(&readiness),
        };
        tokio::spawn(ops::serve(listener, ops_tls, sources, limits));
    }
    tokio::spawn(supervisor.clone().watch(Arc::clone(&registry)));
    tokio::spawn(announce_ready(
        cores_ready,
        Arc::clone(&registry),
        Arc::clone(&readiness),
        supervisor.clone(),
    ));

    let first = tokio::select! {
        signal = signals.next() => signal,
        _ = &mut cores_drained => {
            error!("the serving threads have ended although nobody asked them to");
            return Ok(End::Outcome(Outcome::CoresLost));
        }
    };
    info!("{}: draining for at most {drain_timeout:?}", first.name());
    readiness.set_draining();
    supervisor.stopping(drain_timeout);
    on_drain();

    // Looked at in this order: whoever has drained by the deadline has drained in time.
    tokio::select! {
        biased;
        second = signals.next() => Ok(End::SecondSignal(second)),
        drained = cores_drained => Ok(End::Outcome(match drained {
            Ok(()) => Outcome::Drained,
            Err(_) => {
                error!("the serving threads have ended without having drained");
                Outcome::CoresLost
            }
        })),
        () = tokio::time::sleep(drain_timeout) => {
            Ok(End::Outcome(deadline_hit(&registry)))
        }
    }
}

fn deadline_hit(registry: &Registry) -> Outcome {
    let connections_left = registry.connections();
    match connections_left {
        0 => warn!(
            "drain_timeout has passed and no connection is left, but {}; going all the same",
            unfinished(registry)
        ),
        left => warn!("drain_timeout has passed with {left} connections left"),
    }
    Outcome::DeadlineHit { connections_left }
}

/// What a drain still waits for when every connection has ended.
fn unfinished(registry: &Registry) -> String {
    let inflight = registry
        .cores
        .iter()
        .map(|core| core.backend_inflight.get());
    match inflight.sum::<u64>() {
        0 if registry.server.is_some() => {
            "pushes or the word to ZooKeeper are under way".to_owned()
        }
        0 => "the cores are not done".to_owned(),
        calls => format!("{calls} calls to services are not answered"),
    }
}

/// The figures are nobody's secret, but nobody's business either, and an attacker learns from them
/// what works.
fn warn_if_exposed(listener: &tokio::net::TcpListener) {
    if let Ok(address) = listener.local_addr()
        && !address.ip().is_loopback()
    {
        warn!("the ops listener on {address} has no access control; keep it off public networks");
    }
}

async fn announce_ready(
    cores_ready: oneshot::Receiver<()>,
    registry: Arc<Registry>,
    readiness: Arc<Readiness>,
    supervisor: Supervisor,
) {
    // An error means that the start failed; whoever dropped the other end says why.
    if cores_ready.await.is_err() {
        return;
    }
    readiness.set_cores_up();
    info!("im-gateway {} is up", env!("CARGO_PKG_VERSION"));
    if !readiness.is_draining() {
        supervisor.ready(registry.cores.len());
    }
}
