//! The keys of those whose tokens are taken: from their files, and from where they are published.
//!
//! Owns when they are read and fetched again. Keys that were good stay in use until there are
//! others.

use std::{
    fmt::Display,
    fs, iter,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use tokio::time::sleep;

use super::{certificates::Watched, fetch::fetch};
use crate::{
    base::{
        back_off::BackOff,
        error::{ExitCode, StartupError},
    },
    config::settings::{IssuerKeys, IssuerSettings, ServerTls},
    flow::core::Gateway,
    machine::{random_seed::random, secret_file, watched_files::Files},
    metrics::outage::Outage,
    tls::{Expiry, Reload},
    token::{issuer::Issuer, key_set::KeySet},
};

/// How old the keys of an issuer that publishes them may become.
const FETCH_EVERY: Duration = Duration::from_secs(3600);
/// So long after keys were fetched for a token, none are for another one.
const WANTED_PAUSE: Duration = Duration::from_secs(60);
/// How often it is looked whether a token wants others.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Reads the keys of each issuer.
pub(super) fn load(issuers: &[IssuerSettings]) -> Result<Vec<Issuer>, StartupError> {
    issuers.iter().map(load_one).collect()
}

fn load_one(issuer: &IssuerSettings) -> Result<Issuer, StartupError> {
    Ok(Issuer {
        name: issuer.name.clone(),
        audience: issuer.audience.clone(),
        claim: issuer.claim.clone(),
        subject: issuer.subject,
        keys: load_keys(issuer)?.into(),
    })
}

/// The keys in its files; none yet where they have to be fetched.
fn load_keys(issuer: &IssuerSettings) -> Result<KeySet, StartupError> {
    let (keys, previous) = match &issuer.keys {
        IssuerKeys::Secret(file) => (shared_secret(file)?, shared_secret as ReadKeys),
        IssuerKeys::Public(file) => (public_key(file)?, public_key as ReadKeys),
        IssuerKeys::Set(file) => (key_set(file)?, key_set as ReadKeys),
        IssuerKeys::Url { .. } => return Ok(KeySet::unknown()),
    };
    Ok(match &issuer.previous {
        Some(key) => keys.with_previous(previous(&key.file)?, key.until_unix_s),
        None => keys,
    })
}

/// Has `gateway` use the keys in the files of its issuers whenever they change.
pub(super) fn watch(
    issuers: &[IssuerSettings],
    gateway: &Arc<Gateway>,
    watched: &mut Watched,
) -> Result<(), StartupError> {
    for (number, issuer) in issuers.iter().enumerate() {
        let first = match &issuer.keys {
            IssuerKeys::Secret(file) | IssuerKeys::Public(file) | IssuerKeys::Set(file) => file,
            IssuerKeys::Url { .. } => continue,
        };
        let previous = issuer.previous.as_ref().map(|key| key.file.clone());
        let paths = iter::once(first.clone()).chain(previous).collect();
        // Read once more, so that no change is missed between.
        let files = Files::load(paths, |_| use_keys(number, issuer, gateway));
        let files = KeyFiles {
            number,
            issuer: issuer.clone(),
            gateway: Arc::clone(gateway),
            files: files.map_err(|problem| cannot_use(first, &problem))?,
        };
        let name = format!("the issuer {:?}", issuer.name);
        watched.push((name, Arc::new(files)));
    }
    Ok(())
}

fn use_keys(number: usize, issuer: &IssuerSettings, gateway: &Gateway) -> Result<(), String> {
    let keys = load_keys(issuer);
    let keys = keys.map_err(|error| format!("{}: {}", error.what, error.cause))?;
    gateway.tokens.set_keys(number, keys);
    Ok(())
}

/// The files with the keys of one issuer.
struct KeyFiles {
    number: usize,
    issuer: IssuerSettings,
    gateway: Arc<Gateway>,
    files: Files<()>,
}

impl Reload for KeyFiles {
    fn reload(&self) -> Result<bool, String> {
        self.files
            .reload(|_| use_keys(self.number, &self.issuer, &self.gateway))
    }

    fn expiries(&self) -> Vec<Expiry> {
        Vec::new()
    }
}

/// Has `gateway` use the keys that its issuers publish, until `task` ends.
pub(super) async fn follow(
    issuers: Vec<IssuerSettings>,
    gateway: Arc<Gateway>,
    task: impl Future<Output = StartupError>,
) -> StartupError {
    for (number, issuer) in issuers.into_iter().enumerate() {
        if let IssuerKeys::Url { url, tls } = issuer.keys {
            let publisher = Publisher {
                number,
                url,
                tls,
                gateway: Arc::clone(&gateway),
            };
            tokio::spawn(publisher.follow());
        }
    }
    task.await
}

/// An issuer that publishes its keys.
struct Publisher {
    number: usize,
    url: String,
    tls: ServerTls,
    gateway: Arc<Gateway>,
}

impl Publisher {
    /// Fetches the keys for ever: now and then, and where a token names one that is not known, but
    /// then no more than once in a while, since anybody can make up such a token.
    async fn follow(self) {
        let mut back_off = BackOff::connecting(random());
        let outage = Outage::default();
        let mut wanted_at: Option<Instant> = None;
        loop {
            match self.fetch().await {
                Ok(keys) => {
                    self.gateway.tokens.set_keys(self.number, keys);
                    log::info!("fetched the keys at {}", self.url);
                    outage.end();
                    back_off.reset();
                }
                Err(error) => {
                    if outage.report(&error) {
                        let url = &self.url;
                        log::warn!("cannot fetch the keys at {url}: {error}; trying again");
                    }
                    sleep(Duration::from_millis(back_off.next_ms())).await;
                    continue;
                }
            }
            let fetched_at = Instant::now();
            while fetched_at.elapsed() < FETCH_EVERY {
                sleep(LOOK_EVERY).await;
                let has_paused = wanted_at.is_none_or(|at| at.elapsed() >= WANTED_PAUSE);
                if has_paused && self.gateway.tokens.wanted_other_keys(self.number) {
                    wanted_at = Some(Instant::now());
                    break;
                }
            }
        }
    }

    async fn fetch(&self) -> Result<KeySet, String> {
        let text = fetch(&self.url, &self.tls, KeySet::BYTES_MAX).await?;
        KeySet::of_json(&text).map_err(|error| error.to_string())
    }
}

type ReadKeys = fn(&Path) -> Result<KeySet, StartupError>;

fn shared_secret(file: &Path) -> Result<KeySet, StartupError> {
    let secret = secret_file::load_issuer_secret(file)?;
    KeySet::of_secret(secret.expose()).map_err(|error| cannot_use(file, &error))
}

fn public_key(file: &Path) -> Result<KeySet, StartupError> {
    KeySet::of_pem(&read(file)?).map_err(|error| cannot_use(file, &error))
}

fn key_set(file: &Path) -> Result<KeySet, StartupError> {
    KeySet::of_json(&read(file)?).map_err(|error| cannot_use(file, &error))
}

fn read(file: &Path) -> Result<String, StartupError> {
    fs::read_to_string(file).map_err(|error| cannot_use(file, &error))
}

fn cannot_use(file: &Path, cause: &dyn Display) -> StartupError {
    let what = format!("cannot use the issuer's key {}", file.display());
    let remedy = "it is a file of [[auth.issuer]] in the configuration";
    StartupError::new(ExitCode::Preflight, what, cause, remedy)
}
