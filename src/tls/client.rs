//! TLS as a client of servers that are not of the cluster: their names are checked.
//!
//! Owns who is trusted to sign for them, and what is shown to them.

use std::{path::Path, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    client::ResolvesClientCert,
    crypto::ring,
    pki_types::ServerName,
    sign::SingleCertAndKey,
    version::{TLS12, TLS13},
};

use super::{
    Expiry, Reload,
    files::{certified_key, expiries, roots},
};
use crate::{
    config::settings::ServerTls,
    machine::watched_files::{Files, read},
};

/// What connections to one server begin with.
#[derive(Clone, Debug)]
pub struct Connector {
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
}

impl Connector {
    /// To the server at `host`; reads the files, and those of the system where no file says who is
    /// trusted.
    ///
    /// # Errors
    /// What is of no use, and why.
    pub fn load(host: &str, settings: &ServerTls) -> Result<Self, String> {
        let name = ServerName::try_from(host.to_owned())
            .map_err(|_| format!("{host:?} is no name of a server"))?;
        let trusted = match &settings.ca {
            Some(path) => roots(path, &read(path)?)?,
            None => system_roots()?,
        };
        let provider = Arc::new(ring::default_provider());
        let builder = ClientConfig::builder_with_provider(Arc::clone(&provider))
            .with_protocol_versions(&[&TLS13, &TLS12])
            .map_err(|error| error.to_string())?
            .with_root_certificates(trusted);
        let config = match &settings.own {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let certificate: (&Path, &[u8]) = (certificate, &read(certificate)?);
                let own = certified_key(certificate, (key, &read(key)?), &provider)?;
                let own: Arc<dyn ResolvesClientCert> = Arc::new(SingleCertAndKey::from(own));
                builder.with_client_cert_resolver(own)
            }
        };
        let config = Arc::new(config);
        Ok(Self { config, name })
    }

    /// What to begin a connection with.
    pub fn config(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.config)
    }

    /// Who the server is to be.
    pub fn name(&self) -> ServerName<'static> {
        self.name.clone()
    }
}

/// The files of a [`Connector`], which are read for each connection: here they are looked at for
/// what operators should know.
pub struct ConnectorFiles(Files<()>);

impl ConnectorFiles {
    /// Of connections with these settings.
    ///
    /// # Errors
    /// Which file cannot be read, and why.
    pub fn load(settings: &ServerTls) -> Result<Self, String> {
        let own = settings.own.iter().map(|(certificate, _)| certificate);
        let paths = own.chain(&settings.ca).cloned().collect();
        Files::load(paths, |_| Ok(())).map(Self)
    }
}

impl Reload for ConnectorFiles {
    fn reload(&self) -> Result<bool, String> {
        self.0.reload(|_| Ok(()))
    }

    fn expiries(&self) -> Vec<Expiry> {
        expiries(&self.0)
    }
}

/// Whom the system trusts.
fn system_roots() -> Result<RootCertStore, String> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    let (added, _) = roots.add_parsable_certificates(found.certs);
    if added > 0 {
        return Ok(roots);
    }
    let why = found.errors.first().map(ToString::to_string);
    let why = why.unwrap_or_else(|| "there are none".to_owned());
    Err(format!("the system's authorities: {why}"))
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    fn load(host: &str, ca: Option<&str>) -> Result<Connector, String> {
        let ca = ca.map(PathBuf::from);
        Connector::load(host, &ServerTls { ca, own: None })
    }

    #[test]
    fn what_is_of_no_use_is_said() {
        let missing = load("redis.example", Some("/missing.pem"));
        assert!(missing.is_err_and(|problem| problem.contains("/missing.pem")));
        let no_name = load("no name", None);
        assert!(no_name.is_err_and(|problem| problem.contains("no name")));
    }
}
