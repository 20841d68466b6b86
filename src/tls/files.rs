//! Certificates and keys in files.
//!
//! Owns how they are written there, and until when they are good.

use std::path::Path;

use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};
use x509_cert::{Certificate, der::Decode as _};

use super::Expiry;
use crate::machine::watched_files::Files;

/// Until when the certificates in these files are good.
pub(super) fn expiries<T>(files: &Files<T>) -> Vec<Expiry> {
    let expiries = files.each(|path, pem| {
        Some(Expiry {
            file: path.to_owned(),
            until_s: good_until_s(pem)?,
        })
    });
    expiries.into_iter().flatten().collect()
}

/// Until when the first certificate is good; `None`: there is none.
fn good_until_s(pem: &[u8]) -> Option<u64> {
    let first = CertificateDer::pem_slice_iter(pem).next()?.ok()?;
    let certificate = Certificate::from_der(&first).ok()?;
    let until = certificate.tbs_certificate.validity.not_after;
    Some(until.to_unix_duration().as_secs())
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
