//! What systemd is told: ready, stopping, alive, and one line of status.
//!
//! Owns the datagrams of `sd_notify(3)`; what stands in them the `sd-notify` crate knows, and where
//! they go is found here, since a socket may have an abstract name. Never waits for systemd.
//! Without systemd nothing is sent. Invariant: the watchdog is fed only while every core's
//! heartbeat is fresh, so a gateway with a dead core is restarted although its other threads live.

use std::{
    env,
    ffi::OsStr,
    io,
    os::{
        linux::net::SocketAddrExt,
        unix::{
            ffi::OsStrExt,
            net::{SocketAddr, UnixDatagram},
        },
    },
    sync::Arc,
    time::Duration,
};

use log::{error, info, warn};
use sd_notify::NotifyState;
use tokio::time::{MissedTickBehavior, interval};

use super::readiness::stall_reason;
use crate::metrics::{Registry, outage::Outage};

/// Added to the time a drain may take, for what comes after it: the store's last commit, the end of
/// the threads.
const STOP_SLACK: Duration = Duration::from_secs(5);

/// How often the cores' heartbeats are looked at, at the least.
const WATCH_PERIOD: Duration = Duration::from_secs(1);

/// Where the service manager listens.
const NOTIFY_SOCKET: &str = "NOTIFY_SOCKET";

/// A way to send notifications.
pub(super) type Notify = dyn Fn(&[NotifyState]) -> io::Result<()> + Send + Sync;

/// The service manager, if there is one.
#[derive(Clone)]
pub(super) struct Supervisor {
    notify: Arc<Notify>,
    watchdog: Option<Duration>,
    outage: Arc<Outage>,
}

impl Supervisor {
    /// One that is told by `notify` and, with a `watchdog`, restarts the process unless fed that
    /// often.
    pub(super) fn new(notify: Arc<Notify>, watchdog: Option<Duration>) -> Self {
        assert!(
            watchdog.is_none_or(|limit| !limit.is_zero()),
            "nothing can be fed all the time"
        );
        Self {
            notify,
            watchdog,
            outage: Arc::default(),
        }
    }

    /// What the environment names: `NOTIFY_SOCKET`, `WATCHDOG_USEC`, `WATCHDOG_PID`.
    pub(super) fn from_environment() -> Self {
        let watchdog = sd_notify::watchdog_enabled().filter(|limit| !limit.is_zero());
        if watchdog.is_some() && env::var_os(NOTIFY_SOCKET).is_none() {
            warn!("there is a watchdog, but no {NOTIFY_SOCKET}: it cannot be fed");
        }
        Self::new(Arc::new(send), watchdog)
    }

    /// Every core accepts connections; without cores, the server of a backend process does.
    pub(super) fn ready(&self, cores: usize) {
        let status = match cores {
            0 => "serving calls".to_owned(),
            cores => format!("serving on {cores} cores"),
        };
        self.notify(&[NotifyState::Ready, NotifyState::Status(&status)]);
    }

    /// The gateway is going down and may take `drain_timeout` for it, whatever `TimeoutStopSec`
    /// says.
    pub(super) fn stopping(&self, drain_timeout: Duration) {
        let stop_us = drain_timeout.saturating_add(STOP_SLACK).as_micros();
        self.notify(&[
            NotifyState::Stopping,
            NotifyState::Status("draining"),
            NotifyState::ExtendTimeoutUsec(u32::try_from(stop_us).unwrap_or(u32::MAX)),
        ]);
    }

    /// Feeds the watchdog at half its interval while every core is alive. Without a watchdog it
    /// only watches the cores, and says in the log when one stalls and when it is back. Never
    /// returns.
    pub(super) async fn watch(self, registry: Arc<Registry>) {
        let period = self.watchdog.map_or(WATCH_PERIOD, |limit| limit / 2);
        // A tick at least as often as stalls are looked for; an interval of zero would panic.
        let mut ticks = interval(period.clamp(Duration::from_millis(1), WATCH_PERIOD));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut was_stalled = false;
        loop {
            ticks.tick().await;
            let stalls = registry.stalls();
            let is_stalled = !stalls.is_empty();
            if !is_stalled && self.watchdog.is_some() {
                self.notify(&[NotifyState::Watchdog]);
            }
            if is_stalled != was_stalled {
                let status = if is_stalled {
                    let reasons: Vec<String> = stalls.iter().map(stall_reason).collect();
                    let status = reasons.join("; ");
                    error!("{status}");
                    status
                } else {
                    info!("every core is alive again");
                    "every core is alive again".to_owned()
                };
                self.notify(&[NotifyState::Status(&status)]);
                was_stalled = is_stalled;
            }
        }
    }

    fn notify(&self, states: &[NotifyState]) {
        match (self.notify)(states) {
            Ok(()) => {
                self.outage.end();
            }
            Err(error) => {
                // A watchdog is fed every few seconds: once is enough.
                if self.outage.reason().is_none() {
                    warn!("cannot notify systemd: {error}");
                }
                self.outage.report(&error);
            }
        }
    }
}

/// Sends a datagram to the service manager's socket; does nothing without one.
fn send(states: &[NotifyState]) -> io::Result<()> {
    let Some(name) = env::var_os(NOTIFY_SOCKET) else {
        return Ok(());
    };
    let lines: Vec<String> = states.iter().map(ToString::to_string).collect();
    let socket = UnixDatagram::unbound()?;
    // A manager that does not read must not hold up the thread that also answers its probes.
    socket.set_nonblocking(true)?;
    socket.send_to_addr(lines.join("\n").as_bytes(), &address(&name)?)?;
    Ok(())
}

/// The socket of this name: a path, or `@` and a name that is no file.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name),
        _ => SocketAddr::from_pathname(name),
    }
}
