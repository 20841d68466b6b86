//! TLS: what is shown to others and asked of them, as a server and as a client.
//!
//! Owns certificates, keys and tickets, and reading their files again. Never touches a connection:
//! one that was begun keeps what it was begun with. Keys stay in here.

pub mod client;
pub mod cluster;
mod files;
mod resolver;
pub mod stream;

use std::{path::PathBuf, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::{CryptoProvider, ring},
    server::{
        NoServerSessionStorage, ProducesTickets, WebPkiClientVerifier, danger::ClientCertVerifier,
    },
    version::{TLS12, TLS13},
};

use self::{
    files::{certified_key, expiries, roots},
    resolver::{Entry, Resolver},
};
use crate::{
    config::settings::{CertificateFiles, ClientCertificates, TlsSettings},
    machine::watched_files::Files,
};

/// What is made of files, and made again when they change.
pub trait Reload: Send + Sync {
    /// Reads the files again, and uses what they have from now on if that is something else; says
    /// whether it is.
    ///
    /// # Errors
    /// Which file is of no use, and why, said once: what was in use stays.
    fn reload(&self) -> Result<bool, String>;

    /// Until when the certificates in use are good.
    fn expiries(&self) -> Vec<Expiry>;
}

/// Until when a certificate is good.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Expiry {
    /// The file that it is the first of.
    pub file: PathBuf,
    /// In seconds since 1970.
    pub until_s: u64,
}

/// What a listener begins its connections with; one for all cores.
pub struct Acceptor {
    settings: TlsSettings,
    provider: Arc<CryptoProvider>,
    files: Files<ServerConfig>,
}

impl Acceptor {
    /// Reads the files.
    ///
    /// # Errors
    /// Which file is of no use, and why.
    pub fn load(settings: TlsSettings) -> Result<Self, String> {
        let provider = Arc::new(ring::default_provider());
        let tickets = new_tickets()?;
        let files = Files::load(paths(&settings).cloned().collect(), |files| {
            config(&settings, &provider, files, tickets)
        })?;
        Ok(Self {
            settings,
            provider,
            files,
        })
    }

    /// What to begin a connection with.
    pub fn config(&self) -> Arc<ServerConfig> {
        self.files.current()
    }

    /// Whether nobody gets in without a certificate.
    pub fn wants_certificates(&self) -> bool {
        matches!(
            self.settings.client_certificates,
            ClientCertificates::Required(_)
        )
    }

    /// Tickets outlive a change of the server's certificate. Whoever was let in by a client's
    /// certificate has to show it again where it may have been signed by someone else.
    fn tickets(&self) -> Result<Arc<dyn ProducesTickets>, String> {
        match self.settings.client_certificates {
            ClientCertificates::Off => Ok(Arc::clone(&self.config().ticketer)),
            _ => new_tickets(),
        }
    }
}

impl Reload for Acceptor {
    fn reload(&self) -> Result<bool, String> {
        self.files
            .reload(|files| config(&self.settings, &self.provider, files, self.tickets()?))
    }

    fn expiries(&self) -> Vec<Expiry> {
        expiries(&self.files)
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
    let roots = roots(path, files.next().unwrap_or(&[]))?;
    let builder =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(provider));
    let builder = match is_required {
        true => builder,
        false => builder.allow_unauthenticated(),
    };
    let built = builder.build();
    built
        .map(Some)
        .map_err(|error| format!("{}: {error}", path.display()))
}

fn entry(
    files: &CertificateFiles,
    certificate: &[u8],
    key: &[u8],
    provider: &CryptoProvider,
) -> Result<Entry, String> {
    let certified = certified_key(
        (&files.certificate, certificate),
        (&files.key, key),
        provider,
    )?;
    Ok(Entry {
        names: files.names.clone(),
        certified: Arc::new(certified),
    })
}

#[cfg(test)]
mod tests;
