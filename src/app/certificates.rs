//! Certificates that change while the gateway runs: their files are read again.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use crate::{
    base::error::{ExitCode, StartupError},
    tls::Acceptor,
};

/// How often it is looked whether a file has changed.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Reads the files of these listeners again, every few seconds and at SIGHUP, until `task` ends.
pub(super) async fn follow(
    acceptors: Vec<(String, Arc<Acceptor>)>,
    task: impl Future<Output = StartupError>,
) -> StartupError {
    tokio::select! {
        error = task => error,
        error = keep_reading(acceptors) => error,
    }
}

/// Ends only where SIGHUP cannot be heard.
async fn keep_reading(acceptors: Vec<(String, Arc<Acceptor>)>) -> StartupError {
    let mut reload = match signal(SignalKind::hangup()) {
        Ok(signal) => signal,
        Err(error) => {
            return StartupError::new(ExitCode::Runtime, "cannot hear SIGHUP", error, "");
        }
    };
    let acceptors = Arc::new(acceptors);
    loop {
        tokio::select! {
            _ = reload.recv() => {}
            () = sleep(LOOK_EVERY), if !acceptors.is_empty() => {}
        }
        let acceptors = Arc::clone(&acceptors);
        // A file may be where reading takes long.
        let looked = tokio::task::spawn_blocking(move || look(&acceptors)).await;
        if let Err(error) = looked.map_err(io::Error::other) {
            log::error!("cannot read certificates again: {error}");
        }
    }
}

fn look(acceptors: &[(String, Arc<Acceptor>)]) {
    for (name, acceptor) in acceptors {
        match acceptor.reload() {
            Ok(true) => log::info!("the listener {name:?} has new certificates"),
            Ok(false) => {}
            Err(problem) => {
                log::warn!("the listener {name:?} keeps its certificates: {problem}");
            }
        }
    }
}
