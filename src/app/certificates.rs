//! Certificates that change while the gateway runs: their files are read again.

use std::{io, sync::Arc, time::Duration};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use crate::{
    base::error::{ExitCode, StartupError},
    config::settings::ClusterTls,
    tls::{Reload, cluster::Membership},
};

/// How often it is looked whether a file has changed.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// What is made of files, with the name of whose they are.
pub(super) type Watched = Vec<(String, Arc<dyn Reload>)>;

/// What this process shows others of its cluster, if there is TLS between them; it is added to what
/// is `watched`.
pub(super) fn membership(
    settings: Option<&ClusterTls>,
    watched: &mut Watched,
) -> Result<Option<Arc<Membership>>, StartupError> {
    let Some(settings) = settings else {
        return Ok(None);
    };
    let membership = Membership::load(settings.clone()).map_err(|problem| {
        let what = "the processes of the cluster cannot speak TLS";
        let remedy = "see [cluster_tls]";
        StartupError::new(ExitCode::Preflight, what, problem, remedy)
    })?;
    let membership = Arc::new(membership);
    watched.push(("[cluster_tls]".to_owned(), Arc::clone(&membership) as _));
    Ok(Some(membership))
}

/// Reads the files of these again, every few seconds and at SIGHUP, until `task` ends.
pub(super) async fn follow(
    watched: Watched,
    task: impl Future<Output = StartupError>,
) -> StartupError {
    tokio::select! {
        error = task => error,
        error = keep_reading(watched) => error,
    }
}

/// Ends only where SIGHUP cannot be heard.
async fn keep_reading(watched: Watched) -> StartupError {
    let mut reload = match signal(SignalKind::hangup()) {
        Ok(signal) => signal,
        Err(error) => {
            return StartupError::new(ExitCode::Runtime, "cannot hear SIGHUP", error, "");
        }
    };
    let watched = Arc::new(watched);
    loop {
        tokio::select! {
            _ = reload.recv() => {}
            () = sleep(LOOK_EVERY), if !watched.is_empty() => {}
        }
        let watched = Arc::clone(&watched);
        // A file may be where reading takes long.
        let looked = tokio::task::spawn_blocking(move || look(&watched)).await;
        if let Err(error) = looked.map_err(io::Error::other) {
            log::error!("cannot read certificates again: {error}");
        }
    }
}

fn look(watched: &Watched) {
    for (name, files) in watched {
        match files.reload() {
            Ok(true) => log::info!("{name} has new certificates"),
            Ok(false) => {}
            Err(problem) => log::warn!("{name} keeps its certificates: {problem}"),
        }
    }
}
