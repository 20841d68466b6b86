//! TLS between the processes of a cluster: each shows the other a certificate of the cluster's own
//! authority.
//!
//! Owns both ends. A peer is who holds a certificate of that authority; the names in it say
//! nothing, since processes are found by addresses that come and go.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, DigitallySignedStruct, Error, RootCertStore, ServerConfig, SignatureScheme,
    client::{
        Resumption,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor,
    },
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{NoServerSessionStorage, ParsedCertificate, WebPkiClientVerifier},
    sign::SingleCertAndKey,
    version::TLS13,
};

use super::{
    Expiry, Reload,
    files::{certified_key, expiries, roots},
};
use crate::{config::settings::ClusterTls, machine::watched_files::Files};

/// What a process of the cluster begins its connections to others with.
pub struct Membership {
    settings: ClusterTls,
    ends: Files<Ends>,
}

/// The two ends of a connection.
struct Ends {
    server: Arc<ServerConfig>,
    client: Arc<ClientConfig>,
}

impl Membership {
    /// Reads the files.
    ///
    /// # Errors
    /// Which file is of no use, and why.
    pub fn load(settings: ClusterTls) -> Result<Self, String> {
        let paths: Vec<PathBuf> = paths(&settings).map(Path::to_owned).into();
        let ends = Files::load(paths, |contents| ends(&settings, contents))?;
        Ok(Self { settings, ends })
    }

    /// What the end that was connected to begins with.
    pub fn server(&self) -> Arc<ServerConfig> {
        Arc::clone(&self.ends.current().server)
    }

    /// What the end that connects begins with.
    pub fn client(&self) -> Arc<ClientConfig> {
        Arc::clone(&self.ends.current().client)
    }
}

impl Reload for Membership {
    fn reload(&self) -> Result<bool, String> {
        self.ends.reload(|contents| ends(&self.settings, contents))
    }

    fn expiries(&self) -> Vec<Expiry> {
        expiries(&self.ends)
    }
}

/// The files in the order in which [`ends`] takes what is in them.
fn paths(settings: &ClusterTls) -> [&Path; 3] {
    [&settings.certificate, &settings.key, &settings.ca]
}

fn ends(settings: &ClusterTls, contents: &[Vec<u8>]) -> Result<Ends, String> {
    let [certificate, key, ca] = contents else {
        unreachable!("there are three files");
    };
    let provider = Arc::new(ring::default_provider());
    let own = certified_key(
        (&settings.certificate, certificate),
        (&settings.key, key),
        &provider,
    )?;
    let own = Arc::new(SingleCertAndKey::from(own));
    let roots = Arc::new(roots(&settings.ca, ca)?);
    let in_ca = |error: &dyn std::fmt::Display| format!("{}: {error}", settings.ca.display());
    let of_clients =
        WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(&provider))
            .build()
            .map_err(|error| in_ca(&error))?;
    let mut server = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| error.to_string())?
        .with_client_cert_verifier(of_clients)
        .with_cert_resolver(Arc::clone(&own) as _);
    // Connections last, so there is little to resume; and who comes back shows what it has.
    server.session_storage = Arc::new(NoServerSessionStorage {});
    server.send_tls13_tickets = 0;
    let mut client = ClientConfig::builder_with_provider(Arc::clone(&provider))
        .with_protocol_versions(&[&TLS13])
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(SignedByCluster::new(roots, &provider)))
        .with_client_cert_resolver(own);
    client.resumption = Resumption::disabled();
    Ok(Ends {
        server: Arc::new(server),
        client: Arc::new(client),
    })
}

/// Takes every server whose certificate the cluster's authority has signed, whatever its name.
#[derive(Debug)]
struct SignedByCluster {
    roots: Arc<RootCertStore>,
    algorithms: WebPkiSupportedAlgorithms,
}

impl SignedByCluster {
    fn new(roots: Arc<RootCertStore>, provider: &CryptoProvider) -> Self {
        let algorithms = provider.signature_verification_algorithms;
        Self { roots, algorithms }
    }
}

impl ServerCertVerifier for SignedByCluster {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let certificate = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(
            &certificate,
            &self.roots,
            intermediates,
            now,
            self.algorithms.all,
        )?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General(
            "the cluster speaks TLS 1.3 alone".to_owned(),
        ))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signature, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
