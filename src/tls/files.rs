//! Files that something is made of, and is made of again when they change.
//!
//! Owns what was in them and what was made of it. Invariant: what is in use was made of files that
//! were good together; bad ones change nothing.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_cert::{Certificate, der::Decode as _};

use super::Expiry;

/// No file with certificates or a key is longer.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// Something made of files.
pub(super) struct Files<T> {
    paths: Vec<PathBuf>,
    state: Mutex<State<T>>,
}

struct State<T> {
    made: Arc<T>,
    /// What the files had in them.
    contents: Vec<Vec<u8>>,
    /// Why they could not be read again.
    trouble: Option<String>,
}

impl<T> Files<T> {
    /// Reads the files and has `make` make something of what is in them, in the same order.
    ///
    /// # Errors
    /// Which file is of no use, and why.
    pub(super) fn load(
        paths: Vec<PathBuf>,
        make: impl FnOnce(&[Vec<u8>]) -> Result<T, String>,
    ) -> Result<Self, String> {
        let contents = read_all(&paths)?;
        let made = Arc::new(make(&contents)?);
        let trouble = None;
        let state = State {
            made,
            contents,
            trouble,
        };
        Ok(Self {
            paths,
            state: Mutex::new(state),
        })
    }

    /// What is in use.
    pub(super) fn current(&self) -> Arc<T> {
        Arc::clone(&self.state().made)
    }

    /// Reads the files again, and uses what `make` makes of them from now on if they have something
    /// else in them; says whether they have.
    ///
    /// # Errors
    /// As [`Files::load`], said once: what was in use stays.
    pub(super) fn reload(
        &self,
        make: impl FnOnce(&[Vec<u8>]) -> Result<T, String>,
    ) -> Result<bool, String> {
        let outcome = self.try_reload(make);
        let mut state = self.state();
        let trouble = outcome.as_ref().err().cloned();
        if trouble.is_some() && trouble == state.trouble {
            return Ok(false);
        }
        state.trouble = trouble;
        outcome
    }

    /// Until when the certificates in the files are good.
    pub(super) fn expiries(&self) -> Vec<Expiry> {
        let state = self.state();
        let files = self.paths.iter().zip(&state.contents);
        let until = files.filter_map(|(path, pem)| {
            Some(Expiry {
                file: path.clone(),
                until_s: good_until_s(pem)?,
            })
        });
        until.collect()
    }

    fn try_reload(
        &self,
        make: impl FnOnce(&[Vec<u8>]) -> Result<T, String>,
    ) -> Result<bool, String> {
        let contents = read_all(&self.paths)?;
        if contents == self.state().contents {
            return Ok(false);
        }
        let made = Arc::new(make(&contents)?);
        let mut state = self.state();
        state.made = made;
        state.contents = contents;
        Ok(true)
    }

    fn state(&self) -> MutexGuard<'_, State<T>> {
        // Each change is one assignment after another of whole values.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Until when the first certificate is good; `None`: there is none.
fn good_until_s(pem: &[u8]) -> Option<u64> {
    let first = CertificateDer::pem_slice_iter(pem).next()?.ok()?;
    let certificate = Certificate::from_der(&first).ok()?;
    let until = certificate.tbs_certificate.validity.not_after;
    Some(until.to_unix_duration().as_secs())
}

fn read_all(paths: &[PathBuf]) -> Result<Vec<Vec<u8>>, String> {
    paths.iter().map(|path| read(path)).collect()
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let read = || {
        let mut bytes = Vec::new();
        let file = File::open(path)?;
        file.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes)?;
        Ok::<_, std::io::Error>(bytes)
    };
    match read() {
        Ok(bytes) if bytes.len() as u64 <= FILE_MAX_BYTES => Ok(bytes),
        Ok(_) => Err(format!("{}: it is longer than 1 MiB", path.display())),
        Err(error) => Err(format!("{}: {error}", path.display())),
    }
}

/// The authorities in the file at `path`, which has `pem` in it.
pub(super) fn roots(path: &Path, pem: &[u8]) -> Result<RootCertStore, String> {
    let in_file = |problem: String| format!("{}: {problem}", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem).map_err(in_file)? {
        let added = roots.add(certificate);
        added.map_err(|error| in_file(error.to_string()))?;
    }
    Ok(roots)
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err("there is no certificate in it".to_owned()),
        Err(error) => Err(format!("it is no PEM: {error}")),
    }
}

/// A certificate and its key, from the files at these paths and what they have in them.
pub(super) fn certified_key(
    (certificate_path, certificate): (&Path, &[u8]),
    (key_path, key): (&Path, &[u8]),
    provider: &CryptoProvider,
) -> Result<CertifiedKey, String> {
    let chain = certificates(certificate)
        .map_err(|problem| format!("{}: {problem}", certificate_path.display()))?;
    let in_key = |problem: String| format!("{}: {problem}", key_path.display());
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| in_key(format!("there is no private key in it: {error}")))?;
    let key = provider.key_provider.load_private_key(key);
    let key = key.map_err(|error| in_key(error.to_string()))?;
    let certified = CertifiedKey::new(chain, key);
    certified
        .keys_match()
        .map_err(|error| in_key(format!("it is not the key of the certificate: {error}")))?;
    Ok(certified)
}
