//! Which certificate a client is shown.

use std::sync::Arc;

use rustls::{
    client::verify_server_name,
    pki_types::ServerName,
    server::{ClientHello, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
};

/// A certificate and the hosts it is shown for.
#[derive(Debug)]
pub(super) struct Entry {
    /// In small letters, `*.` for one label; empty: those that it names itself.
    pub(super) names: Vec<String>,
    pub(super) certified: Arc<CertifiedKey>,
}

/// Chooses among certificates; the first is for whoever names no host of any.
#[derive(Debug)]
pub(super) struct Resolver(Vec<Entry>);

impl Resolver {
    pub(super) fn new(entries: Vec<Entry>) -> Self {
        assert!(!entries.is_empty(), "there is one to show");
        Self(entries)
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let can_verify = |entry: &&Entry| {
            let key = &entry.certified.key;
            key.choose_scheme(hello.signature_schemes()).is_some()
        };
        let named = hello.server_name().and_then(|name| {
            let of_name = self.0.iter().filter(|entry| entry.is_for(name));
            of_name.clone().find(can_verify).or(of_name.clone().next())
        });
        let chosen = named.or_else(|| self.0.iter().find(can_verify));
        chosen.map(|entry| Arc::clone(&entry.certified))
    }
}

impl Entry {
    /// Whether it is shown for this host, in small letters.
    fn is_for(&self, host: &str) -> bool {
        if !self.names.is_empty() {
            return self.names.iter().any(|name| matches(name, host));
        }
        let (Ok(certificate), Ok(name)) = (self.certified.end_entity_cert(), host.try_into())
        else {
            return false;
        };
        let name: ServerName<'_> = name;
        ParsedCertificate::try_from(certificate)
            .is_ok_and(|parsed| verify_server_name(&parsed, &name).is_ok())
    }
}

/// Whether `name` is `host`, or stands for it with one label open.
fn matches(name: &str, host: &str) -> bool {
    match name.strip_prefix("*.") {
        Some(domain) => host
            .split_once('.')
            .is_some_and(|(label, rest)| !label.is_empty() && rest == domain),
        None => name == host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_one_label() {
        assert!(matches("a.example", "a.example"));
        assert!(matches("*.example", "a.example"));
        for host in ["example", "b.a.example", ".example", "a.example.org"] {
            assert!(!matches("*.example", host), "{host}");
        }
    }
}
