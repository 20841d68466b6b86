//! `[tls]`: what listeners show clients and ask of them, as it is written.
//!
//! Owns the keys of a certificate, and those that a listener may have of its own.

use toml::{Spanned, de::DeValue};

use super::value::{BadValue, FromText, FromValue, Table};

const WANTED: &str = "a table such as { certificate_file = \"/a.pem\", key_file = \"/a.key\" }";

/// The certificates, as they are written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Certificates(pub(super) Vec<CertificateTable>);

/// One of them. Texts that are not there are empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct CertificateTable {
    pub(super) certificate_file: String,
    pub(super) key_file: String,
    pub(super) names: Vec<String>,
}

/// What a listener says of TLS for itself; what it does not say, `[tls]` says.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct TlsTable {
    pub(super) certificates: Certificates,
    pub(super) client_ca_file: String,
    pub(super) client_certificates: String,
    pub(super) min_version: String,
}

impl FromValue for Certificates {
    fn from_value(value: &Spanned<DeValue<'_>>) -> Result<Self, BadValue> {
        match value.get_ref() {
            DeValue::Array(tables) => tables.iter().map(CertificateTable::from_value).collect(),
            _ => Err(BadValue::wanted(value, "a list of certificates")),
        }
        .map(Self)
    }
}

impl FromText for Certificates {
    fn from_text(_: &str) -> Result<Self, String> {
        Err("certificates are set in the file alone".to_owned())
    }
}

impl FromValue for CertificateTable {
    fn from_value(value: &Spanned<DeValue<'_>>) -> Result<Self, BadValue> {
        let mut table = Table::of(value, WANTED)?;
        let read = Self {
            certificate_file: table.take("certificate_file")?,
            key_file: table.take("key_file")?,
            names: table.take("names")?,
        };
        table.finish()?;
        Ok(read)
    }
}

impl TlsTable {
    /// Takes its keys out of a listener's table.
    pub(super) fn take_from(table: &mut Table<'_>) -> Result<Self, BadValue> {
        Ok(Self {
            certificates: table.take("certificates")?,
            client_ca_file: table.take("client_ca_file")?,
            client_certificates: table.take("client_certificates")?,
            min_version: table.take("min_version")?,
        })
    }
}
