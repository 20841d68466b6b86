//! The signals that the process answers to.
//!
//! Owns their meaning: SIGTERM and SIGINT ask for the end; SIGHUP, SIGUSR2 and SIGQUIT, which would
//! end a process that has no use for them, are answered with a word in the log. Everything else
//! keeps the system's meaning. The handlers are the runtime's; nothing of ours runs inside one.

use std::io;

use log::warn;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
};

/// A request to end the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum StopSignal {
    /// SIGTERM: the service manager, or `kill`.
    Terminate,
    /// SIGINT: Ctrl-C.
    Interrupt,
}

impl StopSignal {
    /// The name, for the log.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Terminate => "SIGTERM",
            Self::Interrupt => "SIGINT",
        }
    }

    /// The exit code of a process that ends by this signal: 128 and the signal's number.
    pub(super) fn exit_code(self) -> i32 {
        match self {
            Self::Terminate => 143,
            Self::Interrupt => 130,
        }
    }
}

/// Where stop signals come from: the system, or a test.
pub(super) struct StopSignals(mpsc::UnboundedReceiver<StopSignal>);

impl StopSignals {
    /// From whoever holds the other end.
    pub(super) fn from_channel(signals: mpsc::UnboundedReceiver<StopSignal>) -> Self {
        Self(signals)
    }

    /// From the system. Installs the handlers at once, so that no signal after this call ends the
    /// process unheard.
    pub(super) fn from_system() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let mut others = Vec::new();
        for (name, kind) in [
            ("SIGHUP", SignalKind::hangup()),
            ("SIGUSR2", SignalKind::user_defined2()),
            ("SIGQUIT", SignalKind::quit()),
        ] {
            others.push((name, signal(kind)?));
        }
        // Unbounded, but only people and service managers send these, and the second one ends the
        // process.
        let (sender, receiver) = mpsc::unbounded_channel();
        tokio::spawn(listen(terminate, interrupt, sender));
        for (name, signal) in others {
            tokio::spawn(ignore(name, signal));
        }
        Ok(Self::from_channel(receiver))
    }

    /// The next stop signal.
    pub(super) async fn next(&mut self) -> StopSignal {
        match self.0.recv().await {
            Some(signal) => signal,
            None => std::future::pending().await,
        }
    }
}

async fn listen(
    mut terminate: Signal,
    mut interrupt: Signal,
    sender: mpsc::UnboundedSender<StopSignal>,
) {
    loop {
        let stop = tokio::select! {
            _ = terminate.recv() => StopSignal::Terminate,
            _ = interrupt.recv() => StopSignal::Interrupt,
        };
        if sender.send(stop).is_err() {
            return;
        }
    }
}

/// Says each time that the signal does nothing: whoever sent it should not have to guess.
async fn ignore(name: &'static str, mut signal: Signal) {
    while signal.recv().await.is_some() {
        match name {
            "SIGHUP" => {
                warn!(
                    "SIGHUP: certificates and keys are read again; the configuration is not, restart to \
                     apply changes"
                );
            }
            _ => warn!("{name}: it has no meaning here; SIGTERM ends the process"),
        }
    }
}
