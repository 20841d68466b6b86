//! TLS as a server: what is shown to clients and asked of them.
//!
//! Owns certificates, keys and tickets, and reading their files again. Never touches a connection:
//! one that was begun keeps what it was begun with. Keys stay in here.

mod resolver;

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, ring},
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::{
        NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier, danger::ClientCertVerifier,
    },
    sign::CertifiedKey,
    version::{TLS12, TLS13},
};

use self::resolver::{Entry, Resolver};
use crate::config::settings::{CertificateFiles, ClientCertificates, TlsSettings};

/// No file with certificates or a key is longer.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// What a listener begins its connections with; one for all cores.
pub struct Acceptor {
    settings: TlsSettings,
    provider: Arc<CryptoProvider>,
    state: Mutex<State>,
}

struct State {
    config: Arc<ServerConfig>,
    /// What its files had in them.
    files: Vec<Vec<u8>>,
    /// Why they could not be read again.
    trouble: Option<String>,
}

impl Acceptor {
    /// Reads the files.
    ///
    /// # Errors
    /// Which file is of no use, and why.
    pub fn load(settings: TlsSettings) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let files = read_all(&settings)?;
        let config = config(&settings, &provider, &files, new_tickets()?)?;
        Ok(Self {
            settings,
            provider,
            state: Mutex::new(State {
                config: Arc::new(config),
                files,
                trouble: None,
            }),
        })
    }

    /// What to begin a connection with.
    pub fn config(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.state().config)
    }

    /// Reads the files again, and uses what they have from now on if that is something else; says
    /// whether it is.
    ///
    /// # Errors
    /// As [`Acceptor::load`], said once: what was in use stays.
    pub fn reload(&self) -> Result<bool, String> {
        let outcome = self.try_reload();
        let mut state = self.state();
        let trouble = outcome.as_ref().err().cloned();
        if trouble.is_some() && trouble == state.trouble {
            return Ok(false);
        }
        state.trouble = trouble;
        outcome
    }

    fn try_reload(&self) -> Result<bool, String> {
        let files = read_all(&self.settings)?;
        if files == self.state().files {
            return Ok(false);
        }
        let tickets = self.tickets()?;
        let config = config(&self.settings, &self.provider, &files, tickets)?;
        let mut state = self.state();
        state.config = Arc::new(config);
        state.files = files;
        Ok(true)
    }

    /// Tickets outlive a change of the server's certificate. Whoever was let in by a client's
    /// certificate has to show it again where it may have been signed by someone else.
    fn tickets(&self) -> Result<Arc<dyn ProducesTickets>, String> {
        match self.settings.client_certificates {
            ClientCertificates::Off => Ok(Arc::clone(&self.state().config.ticketer)),
            _ => new_tickets(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment after another of whole values.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn new_tickets() -> Result<Arc<dyn ProducesTickets>, String> {
    ring::Ticketer::new().map_err(|error| format!("cannot make keys for tickets: {error}"))
}

/// The files in the order in which [`config`] uses them.
fn paths(settings: &TlsSettings) -> impl Iterator<Item = &PathBuf> {
    let client_ca = match &settings.client_certificates {
        ClientCertificates::Off => None,
        ClientCertificates::Optional(file) | ClientCertificates::Required(file) => Some(file),
    };
    let certificates = settings.certificates.iter();
    client_ca
        .into_iter()
        .chain(certificates.flat_map(|files| [&files.certificate, &files.key]))
}

fn read_all(settings: &TlsSettings) -> Result<Vec<Vec<u8>>, String> {
    paths(settings).map(|path| read(path)).collect()
}

fn read(path: &Path) -> Result<Vec<u8>, String> {
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

fn config(
    settings: &TlsSettings,
    provider: &Arc<CryptoProvider>,
    files: &[Vec<u8>],
    tickets: Arc<dyn ProducesTickets>,
) -> Result<ServerConfig, String> {
    let mut files = files.iter().map(Vec::as_slice);
    let verifier = verifier(settings, provider, &mut files)?;
    let mut entries = Vec::new();
    for names in &settings.certificates {
        let (Some(certificate), Some(key)) = (files.next(), files.next()) else {
            unreachable!("each certificate has two files");
        };
        entries.push(entry(names, certificate, key, provider)?);
    }
    let versions: &[_] = match settings.is_1_3_alone {
        true => &[&TLS13],
        false => &[&TLS13, &TLS12],
    };
    let builder = ServerConfig::builder_with_provider(Arc::clone(provider))
        .with_protocol_versions(versions)
        .map_err(|error| error.to_string())?;
    let builder = match verifier {
        Some(verifier) => builder.with_client_cert_verifier(verifier),
        None => builder.with_no_client_auth(),
    };
    let mut config = builder.with_cert_resolver(Arc::new(Resolver::new(entries)));
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    // Tickets do without memory here; one is enough to come back with.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.ticketer = tickets;
    config.send_tls13_tickets = 1;
    Ok(config)
}

fn verifier<'a>(
    settings: &TlsSettings,
    provider: &Arc<CryptoProvider>,
    files: &mut impl Iterator<Item = &'a [u8]>,
) -> Result<Option<Arc<dyn ClientCertVerifier>>, String> {
    let (path, is_required) = match &settings.client_certificates {
        ClientCertificates::Off => return Ok(None),
        ClientCertificates::Optional(path) => (path, false),
        ClientCertificates::Required(path) => (path, true),
    };
    let in_file = |problem: String| format!("{}: {problem}", path.display());
    let mut roots = RootCertStore::empty();
    for certificate in certificates(files.next().unwrap_or(&[])).map_err(in_file)? {
        let added = roots.add(certificate);
        added.map_err(|error| in_file(error.to_string()))?;
    }
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = match is_required {
        true => builder,
        false => builder.allow_unauthenticated(),
    };
    let built = builder.build();
    built.map(Some).map_err(|error| in_file(error.to_string()))
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err("there is no certificate in it".to_owned()),
        Err(error) => Err(format!("it is no PEM: {error}")),
    }
}

fn entry(
    files: &CertificateFiles,
    certificate: &[u8],
    key: &[u8],
    provider: &CryptoProvider,
) -> Result<Entry, String> {
    let chain = certificates(certificate)
        .map_err(|problem| format!("{}: {problem}", files.certificate.display()))?;
    let in_key = |problem: String| format!("{}: {problem}", files.key.display());
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|error| in_key(format!("there is no private key in it: {error}")))?;
    let key = provider.key_provider.load_private_key(key);
    let key = key.map_err(|error| in_key(error.to_string()))?;
    let certified = CertifiedKey::new(chain, key);
    certified
        .keys_match()
        .map_err(|error| in_key(format!("it is not the key of the certificate: {error}")))?;
    Ok(Entry {
        names: files.names.clone(),
        certified: Arc::new(certified),
    })
}

#[cfg(test)]
mod tests;
