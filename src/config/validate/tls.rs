//! The rules of TLS: `[tls]` and what a listener says in its place.
//!
//! Owns what certificates and limits may be. Reads nothing but its arguments, no file either.

use std::path::PathBuf;

use super::{Broken, Check};
use crate::config::{
    file::File,
    settings::{CertificateFiles, ClientCertificates, ClusterTls, TlsLimits, TlsSettings},
    tls::{CertificateTable, TlsTable},
    value::Seconds,
};

const SECTION: &str = "tls";

/// What may be under way, for all listeners.
pub(super) fn limits(values: &File, check: &Check) -> Result<TlsLimits, Broken> {
    let section = &values.tls;
    let timeout = check.in_range(
        SECTION,
        "handshake_timeout",
        section.handshake_timeout,
        (Seconds::from_ms(100), Seconds::from_ms(600_000)),
    )?;
    let (at_once, a_second) = (section.handshakes, section.handshakes_per_second);
    Ok(TlsLimits {
        handshake_timeout_ms: timeout.as_ms(),
        handshakes: check.in_range(SECTION, "handshakes", at_once, (1, 1_000_000))? as usize,
        handshakes_per_second: check.in_range(
            SECTION,
            "handshakes_per_second",
            a_second,
            (1, 1_000_000),
        )?,
    })
}

/// What the ops listener shows and asks, where it speaks TLS.
pub(super) fn of_ops(values: &File, check: &Check) -> Result<Option<TlsSettings>, Broken> {
    let section = &values.ops;
    let broken = |problem: String| check.broken("ops", "tls", problem);
    match section.tls.as_str() {
        "off" => Ok(None),
        "required" => {
            let own = TlsTable {
                client_ca_file: section.client_ca_file.clone(),
                client_certificates: section.client_certificates.clone(),
                ..TlsTable::default()
            };
            of_listener(values, &own).map(Some).map_err(broken)
        }
        other => Err(broken(format!(
            "{other:?} is neither \"off\" nor \"required\""
        ))),
    }
}

/// What gateways and backends show each other. One key stands for all: half of them is a mistake,
/// and no reason to speak in the open.
pub(super) fn of_cluster(values: &File, check: &Check) -> Result<Option<ClusterTls>, Broken> {
    let section = &values.cluster_tls;
    let keys = [
        ("certificate_file", &section.certificate_file),
        ("key_file", &section.key_file),
        ("ca_file", &section.ca_file),
    ];
    if keys.iter().all(|(_, path)| path.is_empty()) {
        return Ok(None);
    }
    if let Some((key, _)) = keys.iter().find(|(_, path)| path.is_empty()) {
        return Err(check.broken("cluster_tls", key, "TLS needs all three files"));
    }
    let [certificate, key, ca] = keys.map(|(_, path)| PathBuf::from(path));
    Ok(Some(ClusterTls {
        certificate,
        key,
        ca,
    }))
}

/// What a listener with TLS shows and asks; `own` takes the place of what `[tls]` has. The error
/// is of whoever said the wrong thing.
pub(super) fn of_listener(values: &File, own: &TlsTable) -> Result<TlsSettings, String> {
    let common = &values.tls;
    let or = |own: &String, common: &String| match own.is_empty() {
        true => common.clone(),
        false => own.clone(),
    };
    let certificates = match own.certificates.0.is_empty() {
        true => &common.certificates.0,
        false => &own.certificates.0,
    };
    if certificates.is_empty() {
        return Err("TLS needs certificates, here or in [tls]".to_owned());
    }
    let ca_file = or(&own.client_ca_file, &common.client_ca_file);
    let asked = or(&own.client_certificates, &common.client_certificates);
    let client_certificates = match (asked.as_str(), ca_file.as_str()) {
        ("off", _) => ClientCertificates::Off,
        ("optional" | "required", "") => {
            return Err(format!(
                "client_certificates = {asked:?} needs client_ca_file"
            ));
        }
        ("optional", file) => ClientCertificates::Optional(file.into()),
        ("required", file) => ClientCertificates::Required(file.into()),
        _ => {
            return Err(format!(
                "client_certificates: {asked:?} is none of off, optional and required"
            ));
        }
    };
    let min_version = or(&own.min_version, &common.min_version);
    Ok(TlsSettings {
        certificates: certificates
            .iter()
            .map(certificate)
            .collect::<Result<_, _>>()?,
        client_certificates,
        is_1_3_alone: match min_version.as_str() {
            "1.2" => false,
            "1.3" => true,
            _ => {
                return Err(format!(
                    "min_version: {min_version:?} is neither \"1.2\" nor \"1.3\""
                ));
            }
        },
    })
}

fn certificate(table: &CertificateTable) -> Result<CertificateFiles, String> {
    if table.certificate_file.is_empty() || table.key_file.is_empty() {
        return Err("a certificate has a certificate_file and a key_file".to_owned());
    }
    let wrong = |name: &&String| name.is_empty() || name.strip_prefix("*.") == Some("");
    if let Some(name) = table.names.iter().find(wrong) {
        return Err(format!("names: {name:?} is no name"));
    }
    Ok(CertificateFiles {
        certificate: PathBuf::from(&table.certificate_file),
        key: PathBuf::from(&table.key_file),
        names: table.names.iter().map(|name| name.to_lowercase()).collect(),
    })
}
