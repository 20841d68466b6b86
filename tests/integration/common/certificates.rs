//! Certificates of a test's own, and a TLS client that is not ours: `openssl s_client`.

use std::fs;
use std::io::{self, BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{self, Receiver};
use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tempfile::TempDir;

use super::DEADLINE;
use super::config::Config;

/// Someone who signs certificates, and the files with them.
pub struct Authority {
    directory: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    /// A new one; `ca.pem` has its own certificate.
    pub fn new() -> Self {
        let directory = TempDir::new().expect("a temporary directory");
        let mut params = CertificateParams::new(Vec::new()).expect("no names");
        // OpenSSL takes who has the same name for the same.
        let name = &mut params.distinguished_name;
        name.push(DnType::CommonName, "an authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        // Strict clients, Python since 3.13 for one, want to be told.
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let authority = Self { directory, issuer };
        fs::write(authority.path("ca.pem"), authority.issuer.pem()).expect("written");
        authority
    }

    /// Where the file of this name is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Signs a certificate for `host` in `<name>.pem`, with its key in `<name>.key`. Each file is
    /// put in its place at once.
    pub fn sign(&self, name: &str, host: &str) {
        self.sign_with(name, host, |_| {});
    }

    /// The same of a certificate that is good no more.
    pub fn sign_expired(&self, name: &str, host: &str) {
        self.sign_with(name, host, |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        });
    }

    /// The same of one that is good for so many days.
    pub fn sign_for_days(&self, name: &str, host: &str, days: u64) {
        self.sign_with(name, host, |params| {
            params.not_after = (SystemTime::now() + Duration::from_secs(days * 24 * 3600)).into();
        });
    }

    fn sign_with(&self, name: &str, host: &str, change: impl FnOnce(&mut CertificateParams)) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![host.to_owned()]).expect("a name");
        change(&mut params);
        params.distinguished_name.push(DnType::CommonName, host);
        params.use_authority_key_identifier_extension = true;
        let certificate = params.signed_by(&key, &self.issuer).expect("signed");
        for (file, text) in [
            (format!("{name}.key"), key.serialize_pem()),
            (format!("{name}.pem"), certificate.pem()),
        ] {
            let new = self.path("new");
            fs::write(&new, text).expect("written");
            fs::rename(new, self.path(&file)).expect("put in its place");
        }
    }

    /// One of `[tls] certificates`.
    pub fn entry(&self, name: &str) -> toml::Value {
        let mut table = toml::Table::new();
        for (key, end) in [("certificate_file", "pem"), ("key_file", "key")] {
            let path = self.path(&format!("{name}.{end}"));
            table.insert(key.to_owned(), path.display().to_string().into());
        }
        table.into()
    }

    /// Has the line listener speak TLS alone, with `<name>.pem`.
    pub fn secure(&self, name: &str, config: &mut Config) {
        config
            .set("tls", "certificates", vec![self.entry(name)])
            .set("gateway_service", "tls", "required");
    }

    /// What a server with `<name>.pem` begins TLS with.
    pub fn server_config(&self, name: &str) -> Arc<ServerConfig> {
        let path = |end: &str| self.path(&format!("{name}.{end}"));
        let certificate = CertificateDer::from_pem_file(path("pem")).expect("a certificate");
        let key = PrivateKeyDer::from_pem_file(path("key")).expect("a key");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_no_client_auth()
            .with_single_cert(vec![certificate], key);
        Arc::new(config.expect("a configuration"))
    }

    /// Has gateways and backends show each other `<name>.pem`, and trust this authority.
    pub fn secure_cluster(&self, name: &str, config: &mut Config) {
        for (key, file) in [
            ("certificate_file", format!("{name}.pem")),
            ("key_file", format!("{name}.key")),
            ("ca_file", "ca.pem".to_owned()),
        ] {
            let path = self.path(&file).display().to_string();
            config.set("cluster_tls", key, path);
        }
    }

    /// An `openssl s_client` that trusts it and asks for `host`; more of its options as they are.
    pub fn client(&self, address: SocketAddr, host: &str, options: &[&str]) -> OpenSsl {
        OpenSsl::start(
            Command::new("openssl")
                .args(["s_client", "-quiet", "-verify_return_error", "-CAfile"])
                .arg(self.path("ca.pem"))
                .args(["-servername", host, "-verify_hostname", host])
                .args(["-connect", &address.to_string()])
                .args(options),
        )
    }
}

/// A running `openssl s_client`. Dropping it ends it.
pub struct OpenSsl {
    child: Child,
    input: ChildStdin,
    lines: Receiver<String>,
}

impl OpenSsl {
    fn start(command: &mut Command) -> Self {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl starts");
        let input = child.stdin.take().expect("piped");
        let output = BufReader::new(child.stdout.take().expect("piped"));
        let (sender, lines) = mpsc::channel();
        // Ends with the process.
        std::thread::spawn(move || {
            for line in output.lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Self {
            child,
            input,
            lines,
        }
    }

    /// The next line; `None`: the connection has ended, or was none.
    pub fn line(&mut self) -> Option<String> {
        match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => Some(line),
            Err(mpsc::RecvTimeoutError::Disconnected) => None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("nothing comes"),
        }
    }

    /// Sends a line.
    pub fn send(&mut self, line: &str) {
        writeln!(self.input, "{line}").expect("openssl takes it");
    }

    /// Sends a line, unless the connection has ended.
    pub fn try_send(&mut self, line: &str) -> io::Result<()> {
        writeln!(self.input, "{line}")
    }

    /// Sends a line and reads the next one.
    pub fn ask(&mut self, line: &str) -> String {
        self.send(line);
        self.line().expect("an answer")
    }
}

impl Drop for OpenSsl {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
