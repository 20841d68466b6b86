//! `[listener.<name>]`: further listeners for clients, as they are written.
//!
//! Owns the keys of such a table. Their rules are `validate`'s.

use toml::{Spanned, de::DeValue};

use super::{
    tls::TlsTable,
    value::{BadValue, FromValue, Table},
};

/// The section whose keys are names of listeners.
pub(super) const SECTION: &str = "listener";
/// What stands for such a name where one is meant that is not known.
pub(super) const ANY_NAME: &str = "<name>";

/// The tables, each with its name.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Listeners(pub(super) Vec<(String, ListenerTable)>);

/// One of them. Texts that are not there are empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct ListenerTable {
    pub(super) address: String,
    pub(super) carriers: Vec<String>,
    pub(super) proxy_protocol: String,
    /// `tls`: whether there is TLS at all.
    pub(super) tls: String,
    /// What it is like.
    pub(super) own_tls: TlsTable,
}

impl FromValue for Listeners {
    fn from_value(value: &Spanned<DeValue<'_>>) -> Result<Self, BadValue> {
        let DeValue::Table(tables) = value.get_ref() else {
            return Err(BadValue::wanted(value, "a table written [listener.NAME]"));
        };
        let tables = tables.iter().map(|(name, value)| {
            let table = ListenerTable::from_value(value)?;
            Ok((name.get_ref().clone().into_owned(), table))
        });
        tables.collect::<Result<_, _>>().map(Self)
    }
}

impl FromValue for ListenerTable {
    fn from_value(value: &Spanned<DeValue<'_>>) -> Result<Self, BadValue> {
        let mut table = Table::of(value, "a table written [listener.NAME]")?;
        let read = Self {
            address: table.take("address")?,
            carriers: table.take("carriers")?,
            proxy_protocol: table.take("proxy_protocol")?,
            tls: table.take("tls")?,
            own_tls: TlsTable::take_from(&mut table)?,
        };
        table.finish()?;
        Ok(read)
    }
}
