//! Which files are of use, what a change of them brings, and which certificate is shown.

use std::{fs, path::PathBuf};

use rcgen::{CertificateParams, KeyPair};
use rustls::{
    ClientConfig, RootCertStore,
    client::UnbufferedClientConnection,
    pki_types::{CertificateDer, ServerName},
    server::UnbufferedServerConnection,
    unbuffered::ConnectionState,
};
use tempfile::TempDir;

use super::*;

/// A directory with certificates that sign themselves.
struct Files {
    directory: TempDir,
}

impl Files {
    fn new() -> Self {
        let directory = TempDir::new().expect("a directory");
        Self { directory }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Writes `<name>.pem` and `<name>.key` for these hosts; its certificate.
    fn write(&self, name: &str, hosts: &[&str]) -> CertificateDer<'static> {
        let key = KeyPair::generate().expect("a key");
        let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
        let params = CertificateParams::new(hosts).expect("names");
        let certificate = params.self_signed(&key).expect("a certificate");
        fs::write(self.path(&format!("{name}.pem")), certificate.pem()).expect("written");
        fs::write(self.path(&format!("{name}.key")), key.serialize_pem()).expect("written");
        certificate.der().clone()
    }

    fn certificate(&self, name: &str, names: &[&str]) -> CertificateFiles {
        CertificateFiles {
            certificate: self.path(&format!("{name}.pem")),
            key: self.path(&format!("{name}.key")),
            names: names.iter().map(|name| (*name).to_owned()).collect(),
        }
    }
}

fn settings(certificates: Vec<CertificateFiles>) -> TlsSettings {
    TlsSettings {
        certificates,
        client_certificates: ClientCertificates::Off,
        is_1_3_alone: false,
    }
}

/// The certificate that a client is shown that asks for `host` and trusts all of these.
fn shown(
    acceptor: &Acceptor,
    host: &str,
    trusted: &[CertificateDer<'static>],
) -> Option<CertificateDer<'static>> {
    let mut roots = RootCertStore::empty();
    for certificate in trusted {
        roots.add(certificate.clone()).expect("a root");
    }
    let provider = Arc::new(ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = ServerName::try_from(host.to_owned()).expect("a name");
    let mut client = UnbufferedClientConnection::new(Arc::new(config), name).expect("a client");
    let mut server = UnbufferedServerConnection::new(acceptor.config()).expect("a server");
    let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
    // More rounds than a handshake has.
    for _ in 0..20 {
        macro_rules! turn {
            ($side:expr, $incoming:expr, $outgoing:expr) => {
                let status = $side.process_tls_records(&mut $incoming);
                let discard = status.discard;
                match status.state {
                    Ok(ConnectionState::EncodeTlsData(mut data)) => {
                        let mut out = vec![0; 32 * 1024];
                        let count = data.encode(&mut out).expect("room");
                        $outgoing.extend_from_slice(&out[..count]);
                    }
                    Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
                    Ok(_) => {}
                    Err(_) => return None,
                }
                $incoming.drain(..discard);
            };
        }
        turn!(client, to_client, to_server);
        turn!(server, to_server, to_client);
    }
    let certificates = client.peer_certificates()?;
    certificates.first().map(|one| one.clone().into_owned())
}

#[test]
fn who_names_a_host_is_shown_its_certificate_and_others_the_first() {
    let files = Files::new();
    let one = files.write("one", &["one.example", "default.example"]);
    let two = files.write("two", &["two.example"]);
    let three = files.write("three", &["x.three.example", "three.example"]);
    let acceptor = Acceptor::load(settings(vec![
        files.certificate("one", &[]),
        files.certificate("two", &[]),
        files.certificate("three", &["*.three.example"]),
    ]))
    .expect("of use");
    let all = [one.clone(), two.clone(), three.clone()];
    assert_eq!(shown(&acceptor, "one.example", &all), Some(one.clone()));
    assert_eq!(shown(&acceptor, "two.example", &all), Some(two));
    assert_eq!(shown(&acceptor, "x.three.example", &all), Some(three));
    // Only the names that were set count, and its own certificate is not good for that one.
    assert_eq!(shown(&acceptor, "three.example", &all), None);
    assert_eq!(shown(&acceptor, "default.example", &all), Some(one));
}

#[test]
fn what_is_of_no_use_is_said_with_its_file() {
    let files = Files::new();
    files.write("one", &["one.example"]);
    files.write("two", &["two.example"]);
    let mut mixed = files.certificate("one", &[]);
    mixed.key = files.path("two.key");
    let said = |certificate| {
        let loaded = Acceptor::load(settings(vec![certificate]));
        loaded.err().expect("of no use")
    };
    assert!(said(mixed.clone()).contains("two.key"), "another's key");
    mixed.key = files.path("one.pem");
    assert!(said(mixed.clone()).contains("no private key"));
    mixed.key = files.path("missing.key");
    assert!(said(mixed).contains("missing.key"));
    let mut swapped = files.certificate("one", &[]);
    swapped.certificate = files.path("one.key");
    assert!(said(swapped).contains("no certificate"));
}

#[test]
fn files_that_change_are_used_and_bad_ones_change_nothing() {
    let files = Files::new();
    let first = files.write("one", &["one.example"]);
    let acceptor = Acceptor::load(settings(vec![files.certificate("one", &[])])).expect("of use");
    assert_eq!(acceptor.reload(), Ok(false), "nothing has changed");
    let tickets = Arc::as_ptr(&acceptor.config().ticketer);
    let key = fs::read(files.path("one.key")).expect("a key");
    let second = files.write("one", &["one.example"]);
    let new_key = fs::read(files.path("one.key")).expect("a key");
    // Half of a change, as whoever changes two files makes.
    fs::write(files.path("one.key"), &key).expect("written");
    assert!(acceptor.reload().is_err());
    assert_eq!(acceptor.reload(), Ok(false), "it is said once");
    let all = [first.clone(), second.clone()];
    assert_eq!(shown(&acceptor, "one.example", &all), Some(first));
    fs::write(files.path("one.key"), &new_key).expect("written");
    assert_eq!(acceptor.reload(), Ok(true));
    assert_eq!(shown(&acceptor, "one.example", &all), Some(second));
    let kept = Arc::as_ptr(&acceptor.config().ticketer);
    assert!(std::ptr::addr_eq(tickets, kept), "tickets stay good");
}
