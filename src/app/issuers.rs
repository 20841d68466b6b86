//! The keys of those whose tokens are taken, from their files.

use std::{fmt::Display, fs, path::Path};

use crate::{
    base::error::{ExitCode, StartupError},
    config::settings::{IssuerKeys, IssuerSettings},
    machine::secret_file,
    token::{issuer::Issuer, key_set::KeySet},
};

/// Reads the keys of each issuer.
pub(super) fn load(issuers: &[IssuerSettings]) -> Result<Vec<Issuer>, StartupError> {
    issuers.iter().map(load_one).collect()
}

fn load_one(issuer: &IssuerSettings) -> Result<Issuer, StartupError> {
    let (keys, previous) = match &issuer.keys {
        IssuerKeys::Secret(file) => (shared_secret(file)?, shared_secret as ReadKeys),
        IssuerKeys::Public(file) => (public_key(file)?, public_key as ReadKeys),
        IssuerKeys::Set(file) => (key_set(file)?, key_set as ReadKeys),
    };
    let keys = match &issuer.previous {
        Some(key) => keys.with_previous(previous(&key.file)?, key.until_unix_s),
        None => keys,
    };
    Ok(Issuer {
        name: issuer.name.clone(),
        audience: issuer.audience.clone(),
        claim: issuer.claim.clone(),
        subject: issuer.subject,
        keys,
    })
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
