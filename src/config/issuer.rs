//! `[[auth.issuer]]`: whose tokens are taken beside the gateway's own.
//!
//! Owns the keys of such a table, as they are written, and their rules.

use std::{net::IpAddr, path::PathBuf};

use toml::{Spanned, de::DeValue};

use super::{
    settings::{IssuerKeys, IssuerSettings, PreviousKey, ServerTls},
    value::{BadValue, FromText, FromValue, Table},
};
use crate::token::issuer::SubjectKind;

/// The tables, as they are written.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Issuers(pub(super) Vec<IssuerTable>);

/// One of them. Texts that are not there are empty.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct IssuerTable {
    issuer: String,
    audience: String,
    secret_file: String,
    public_key_file: String,
    jwks_file: String,
    jwks_url: String,
    ca_file: String,
    previous_key_file: String,
    previous_until: String,
    subject: String,
    claim: String,
    create_users: bool,
}

impl FromValue for Issuers {
    fn from_value(value: &Spanned<DeValue<'_>>) -> Result<Self, BadValue> {
        match value.get_ref() {
            DeValue::Array(tables) => tables.iter().map(IssuerTable::from_value).collect(),
            _ => Err(BadValue::wanted(value, "a table written [[auth.issuer]]")),
        }
        .map(Self)
    }
}

impl FromText for Issuers {
    fn from_text(_: &str) -> Result<Self, String> {
        Err("issuers are set in the file alone".to_owned())
    }
}

impl FromValue for IssuerTable {
    fn from_value(value: &Spanned<DeValue<'_>>) -> Result<Self, BadValue> {
        let mut table = Table::of(value, "a table written [[auth.issuer]]")?;
        let read = Self {
            issuer: table.take("issuer")?,
            audience: table.take("audience")?,
            secret_file: table.take("secret_file")?,
            public_key_file: table.take("public_key_file")?,
            jwks_file: table.take("jwks_file")?,
            jwks_url: table.take("jwks_url")?,
            ca_file: table.take("ca_file")?,
            previous_key_file: table.take("previous_key_file")?,
            previous_until: table.take("previous_until")?,
            subject: table.take("subject")?,
            claim: table.take("claim")?,
            create_users: table.take("create_users")?,
        };
        table.finish()?;
        Ok(read)
    }
}

impl IssuerTable {
    /// The rules between its keys; the error says which one is broken.
    pub(super) fn settings(&self) -> Result<IssuerSettings, String> {
        if self.issuer.is_empty() {
            return Err("an issuer has a name: issuer = \"https://id.example\"".to_owned());
        }
        let broken = |problem: &str| Err(format!("of {:?}: {problem}", self.issuer));
        if self.issuer == crate::token::ISSUER {
            return broken("that is the gateway's own name");
        }
        let keys = match self.keys() {
            Ok(keys) => keys,
            Err(problem) => return broken(problem),
        };
        let subject = match (self.subject.as_str(), self.create_users) {
            ("" | "uid", false) => SubjectKind::Uid,
            ("" | "uid", true) => {
                return broken("create_users goes with subject = \"name\" alone");
            }
            ("name", create_users) => SubjectKind::Name { create_users },
            (other, _) => {
                return broken(&format!(
                    "subject {other:?} is neither \"uid\" nor \"name\""
                ));
            }
        };
        let previous = match (
            self.previous_key_file.as_str(),
            self.previous_until.as_str(),
        ) {
            ("", "") => None,
            ("", _) | (_, "") => {
                return broken("previous_key_file and previous_until go together");
            }
            _ if matches!(keys, IssuerKeys::Set(_) | IssuerKeys::Url { .. }) => {
                return broken("a key set has the previous key in itself");
            }
            (file, until) => match until.parse::<jiff::Timestamp>() {
                Ok(until) => Some(PreviousKey {
                    file: file.into(),
                    until_unix_s: u64::try_from(until.as_second()).unwrap_or(0),
                }),
                Err(_) => {
                    return broken(&format!(
                        "previous_until {until:?} is not a time such as 2027-01-31T00:00:00Z"
                    ));
                }
            },
        };
        Ok(IssuerSettings {
            name: self.issuer.clone(),
            audience: self.audience.clone(),
            claim: match self.claim.as_str() {
                "" => "sub".to_owned(),
                claim => claim.to_owned(),
            },
            subject,
            keys,
            previous,
        })
    }

    /// Where its keys are, or which rule is broken.
    fn keys(&self) -> Result<IssuerKeys, &'static str> {
        let set = |text: &String| (!text.is_empty()).then(|| PathBuf::from(text));
        let files = [&self.secret_file, &self.public_key_file, &self.jwks_file].map(set);
        let keys = match (files, self.jwks_url.as_str()) {
            ([Some(secret), None, None], "") => IssuerKeys::Secret(secret),
            ([None, Some(public), None], "") => IssuerKeys::Public(public),
            ([None, None, Some(set)], "") => IssuerKeys::Set(set),
            ([None, None, None], url) if !url.is_empty() => {
                if !is_safe(url) {
                    return Err("jwks_url is a URL with https, or with http on this machine");
                }
                let ca = set(&self.ca_file);
                return Ok(IssuerKeys::Url {
                    url: url.to_owned(),
                    tls: ServerTls { ca, own: None },
                });
            }
            _ => {
                return Err("set one of secret_file, public_key_file, jwks_file and jwks_url");
            }
        };
        match self.ca_file.is_empty() {
            true => Ok(keys),
            false => Err("ca_file goes with jwks_url alone"),
        }
    }
}

/// Whether nobody between can put other keys in the place of those at `url`.
fn is_safe(url: &str) -> bool {
    let Ok(url) = url.parse::<hyper::Uri>() else {
        return false;
    };
    let host = url.host().unwrap_or_default();
    let is_local = || {
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let address: Result<IpAddr, _> = address.parse();
        address.is_ok_and(|address| address.is_loopback())
    };
    match url.scheme_str() {
        Some("https") => !host.is_empty(),
        Some("http") => is_local(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::source::{Origins, parse};

    fn issuers(text: &str) -> Result<Vec<IssuerSettings>, String> {
        let text = format!("[[auth.issuer]]\n{text}");
        let file = parse("test", &text, &mut Origins::default());
        let file = file.map_err(|mistakes| mistakes[0].to_string())?;
        file.auth
            .issuer
            .0
            .iter()
            .map(IssuerTable::settings)
            .collect()
    }

    #[test]
    fn a_table_says_who_is_believed_and_why() {
        let set = issuers(
            "issuer = \"https://id.example\"\naudience = \"chat\"\njwks_file = \"/k.json\"\n\
             subject = \"name\"\nclaim = \"preferred_username\"\ncreate_users = true",
        );
        let expected = IssuerSettings {
            name: "https://id.example".into(),
            audience: "chat".into(),
            claim: "preferred_username".into(),
            subject: SubjectKind::Name { create_users: true },
            keys: IssuerKeys::Set("/k.json".into()),
            previous: None,
        };
        assert_eq!(set, Ok(vec![expected]));
        let previous = issuers(
            "issuer = \"a\"\nsecret_file = \"/new\"\nprevious_key_file = \"/old\"\n\
             previous_until = \"2027-01-31T00:00:00Z\"",
        );
        let previous = previous.expect("good")[0].previous.clone().expect("one");
        assert_eq!(previous.until_unix_s, 1_801_353_600);
    }

    #[test]
    fn what_is_wrong_is_said_with_the_line_or_the_issuer() {
        for (text, said) in [
            ("isuer = \"a\"", "isuer"),
            ("issuer = 7", "line 2"),
            ("audience = \"chat\"", "an issuer has a name"),
            ("issuer = \"im-gateway\"\nsecret_file = \"/s\"", "own name"),
            ("issuer = \"a\"", "set one of"),
            (
                "issuer = \"a\"\njwks_url = \"http://id.example/k\"",
                "https",
            ),
            ("issuer = \"a\"\njwks_url = \"https:///k\"", "https"),
            ("issuer = \"a\"\njwks_url = \"k\"", "https"),
            (
                "issuer = \"a\"\njwks_file = \"/k\"\nca_file = \"/ca\"",
                "jwks_url alone",
            ),
            (
                "issuer = \"a\"\njwks_file = \"/k\"\njwks_url = \"https://id.example/k\"",
                "set one of",
            ),
            (
                "issuer = \"a\"\nsecret_file = \"/s\"\njwks_file = \"/j\"",
                "set one of",
            ),
            (
                "issuer = \"a\"\nsecret_file = \"/s\"\nsubject = \"mail\"",
                "neither",
            ),
            (
                "issuer = \"a\"\nsecret_file = \"/s\"\ncreate_users = true",
                "create_users",
            ),
            (
                "issuer = \"a\"\nsecret_file = \"/s\"\nprevious_until = \"2027\"",
                "together",
            ),
            (
                "issuer = \"a\"\nsecret_file = \"/s\"\nprevious_key_file = \"/o\"\n\
                 previous_until = \"soon\"",
                "not a time",
            ),
            (
                "issuer = \"a\"\njwks_file = \"/s\"\nprevious_key_file = \"/o\"\n\
                 previous_until = \"2027-01-31T00:00:00Z\"",
                "in itself",
            ),
        ] {
            let error = issuers(text).expect_err(text);
            assert!(error.contains(said), "{text}: {error}");
        }
    }
}
