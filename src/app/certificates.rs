//! Certificates that change while the gateway runs: their files are read again.

use std::{
    collections::BTreeSet,
    io,
    sync::{Arc, PoisonError},
    time::Duration,
};

use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use crate::{
    base::error::{ExitCode, StartupError},
    bus::redis::{credentials::Credentials, target::connector},
    config::settings::{ClusterTls, Redis, TlsSettings},
    machine::unix_time::unix_ms,
    metrics::Registry,
    tls::{Acceptor, Expiry, Reload, client::ConnectorFiles, cluster::Membership},
};

/// How often it is looked whether a file has changed.
const LOOK_EVERY: Duration = Duration::from_secs(5);
/// So long before its end a certificate is warned of.
const WARN_BEFORE_S: u64 = 14 * 24 * 3600;

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

/// What the ops listener begins TLS with, if there is some; it is added to what is `watched`.
pub(super) fn of_ops(
    settings: Option<&TlsSettings>,
    watched: &mut Watched,
) -> Result<Option<Arc<Acceptor>>, StartupError> {
    let Some(settings) = settings else {
        return Ok(None);
    };
    let acceptor = Acceptor::load(settings.clone()).map_err(|problem| {
        let what = "the ops listener cannot speak TLS";
        StartupError::new(ExitCode::Preflight, what, problem, "see ops.tls")
    })?;
    let acceptor = Arc::new(acceptor);
    watched.push(("the ops listener".to_owned(), Arc::clone(&acceptor) as _));
    Ok(Some(acceptor))
}

/// Looks after the files for Redis, if there are some; they are read for each connection, and what
/// is wrong with them is better found at the start.
pub(super) fn of_redis(redis: &Redis, watched: &mut Watched) -> Result<(), StartupError> {
    Credentials::read(redis)?;
    let cannot = |problem| {
        let what = "cannot speak TLS to Redis";
        let remedy = "see redis.ca_file, redis.certificate_file and redis.key_file";
        StartupError::new(ExitCode::Preflight, what, problem, remedy)
    };
    connector(redis).map_err(cannot)?;
    if let Some(tls) = &redis.tls {
        let files = ConnectorFiles::load(tls).map_err(cannot)?;
        watched.push(("[redis]".to_owned(), Arc::new(files)));
    }
    Ok(())
}

/// Reads the files of these again, every few seconds and at SIGHUP, until `task` ends, and tells
/// `registry` until when their certificates are good.
pub(super) async fn follow(
    watched: Watched,
    registry: Arc<Registry>,
    task: impl Future<Output = StartupError>,
) -> StartupError {
    tokio::select! {
        error = task => error,
        error = keep_reading(watched, registry) => error,
    }
}

/// Ends only where SIGHUP cannot be heard.
async fn keep_reading(watched: Watched, registry: Arc<Registry>) -> StartupError {
    let mut reload = match signal(SignalKind::hangup()) {
        Ok(signal) => signal,
        Err(error) => {
            return StartupError::new(ExitCode::Runtime, "cannot hear SIGHUP", error, "");
        }
    };
    let watched = Arc::new(watched);
    let mut ends = Ends::default();
    loop {
        ends.tell(expiries(&watched), unix_s(), &registry);
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
            Ok(true) => log::info!("{name} uses its new files"),
            Ok(false) => {}
            Err(problem) => log::warn!("{name} keeps what it had: {problem}"),
        }
    }
}

/// Of all certificates in use; one file may be used twice.
fn expiries(watched: &Watched) -> BTreeSet<Expiry> {
    let expiries = watched.iter().map(|(_, files)| files.expiries());
    expiries.flatten().collect()
}

fn unix_s() -> u64 {
    unix_ms().cast_unsigned() / 1000
}

/// What was said of certificates that end.
#[derive(Default)]
struct Ends {
    warned: BTreeSet<Expiry>,
    ended: BTreeSet<Expiry>,
}

impl Ends {
    /// Tells operators of these: each end once when it is near, and once when it has come.
    fn tell(&mut self, expiries: BTreeSet<Expiry>, now_s: u64, registry: &Registry) {
        for expiry in &expiries {
            if let Some(words) = self.words(expiry, now_s) {
                log::warn!("{words}");
            }
        }
        self.warned.retain(|expiry| expiries.contains(expiry));
        self.ended.retain(|expiry| expiries.contains(expiry));
        let told = expiries.into_iter();
        let told = told.map(|one| (one.file.display().to_string(), one.until_s));
        let certificates = registry.certificates.lock();
        *certificates.unwrap_or_else(PoisonError::into_inner) = told.collect();
    }

    fn words(&mut self, expiry: &Expiry, now_s: u64) -> Option<String> {
        let file = expiry.file.display();
        let left_s = expiry.until_s.saturating_sub(now_s);
        if left_s == 0 {
            let is_new = self.ended.insert(expiry.clone());
            return is_new.then(|| format!("the certificate in {file} has expired"));
        }
        let is_news = left_s < WARN_BEFORE_S && self.warned.insert(expiry.clone());
        let days = left_s / (24 * 3600);
        is_news.then(|| format!("the certificate in {file} expires in {days} days"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_is_told_once_when_it_is_near_and_once_when_it_has_come() {
        let mut ends = Ends::default();
        let expiry = Expiry {
            file: "chat.pem".into(),
            until_s: 100 * 24 * 3600,
        };
        let mut words_at = |day: u64| ends.words(&expiry, day * 24 * 3600);
        assert_eq!(words_at(86), None);
        let near = Some("the certificate in chat.pem expires in 13 days".to_owned());
        assert_eq!((words_at(87), words_at(88)), (near, None));
        let over = Some("the certificate in chat.pem has expired".to_owned());
        assert_eq!((words_at(100), words_at(101)), (over, None));
    }
}
