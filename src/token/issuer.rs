//! Tokens that others issue: an identity service of the operator's, by its own keys.
//!
//! Owns the rules for such a token and whom it logs in. Never asks a clock, and never prints a key
//! or a token.
//!
//! Invariants: an issuer's token is checked against that issuer's keys alone; the algorithm is the
//! key's; nothing in a header is followed, but for the name of a key that is here already; a token
//! is [`TokenError::Expired`] only if it is right in everything else.

use std::fmt;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

use super::{EXPIRY_LEEWAY_S, TokenError, key_set::CurrentKeys, positive_integer};
use crate::base::{
    id::{SessionId, UserId},
    names,
};

/// What of a token says who somebody is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SubjectKind {
    /// The number of a user here.
    Uid,
    /// The name of an account here.
    Name {
        /// An account that is not there yet is made.
        create_users: bool,
    },
}

/// What is believed of one issuer.
pub struct Issuer {
    /// The `iss` of its tokens.
    pub name: String,
    /// The `aud` that its tokens have; empty: they have none.
    pub audience: String,
    /// The claim that says who it is about.
    pub claim: String,
    /// What that claim is.
    pub subject: SubjectKind,
    /// What it signs with.
    pub keys: CurrentKeys,
}

/// Whom a token of an issuer logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Subject {
    /// This user.
    User(UserId),
    /// The user of this name.
    Name {
        /// The name.
        name: String,
        /// The account is made if it is not there.
        create_users: bool,
    },
}

/// What a token of an issuer says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IssuedGrant {
    /// Whom it logs in.
    pub subject: Subject,
    /// The session that it stands for: the same for the same token, wherever it is shown.
    pub session: SessionId,
    /// When it was made, in seconds since 1970; 0: it does not say.
    pub issued_s: u64,
    /// Until when it is good, in seconds since 1970, leeway included.
    pub(super) good_until_s: u64,
}

impl IssuedGrant {
    /// Until when it is good, in seconds since 1970, leeway included.
    pub fn good_until_s(&self) -> u64 {
        self.good_until_s
    }
}

/// What of a header is looked at.
#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<Value>,
    enc: Option<Value>,
    zip: Option<Value>,
}

/// A token, taken apart and not yet believed.
struct Parts<'a> {
    header: Header,
    claims: Map<String, Value>,
    /// What is signed.
    message: &'a [u8],
    signature: Vec<u8>,
}

impl<'a> Parts<'a> {
    fn of(token: &'a str) -> Option<Self> {
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).ok();
        Some(Self {
            header: serde_json::from_slice(&decode(header)?).ok()?,
            claims: serde_json::from_slice(&decode(claims)?).ok()?,
            message: message.as_bytes(),
            signature: decode(signature)?,
        })
    }

    fn text(&self, claim: &str) -> Option<&str> {
        self.claims.get(claim)?.as_str()
    }

    /// A time in seconds since 1970. A claim that is there and is none makes the token invalid.
    fn time(&self, claim: &str) -> Result<Option<u64>, TokenError> {
        match self.claims.get(claim) {
            None => Ok(None),
            Some(value) => {
                // RFC 7519 allows fractions.
                let seconds = value.as_u64().or_else(|| {
                    let seconds = value.as_f64()?;
                    (0.0..1e15).contains(&seconds).then_some(seconds as u64)
                });
                seconds.map(Some).ok_or(TokenError::Invalid)
            }
        }
    }
}

/// What `token` says by the rules of the one of `issuers` that it names; `None`: it names none of
/// them.
///
/// # Errors
/// Why it does not log anybody in.
pub(super) fn verify(
    issuers: &[Issuer],
    token: &str,
    (now_unix_s, clock_leeway_s): (u64, u64),
) -> Option<Result<IssuedGrant, TokenError>> {
    let parts = Parts::of(token)?;
    let name = parts.text("iss")?;
    let issuer = issuers.iter().find(|issuer| issuer.name == name)?;
    Some(issuer.granted(&parts, now_unix_s, clock_leeway_s))
}

impl Issuer {
    fn granted(
        &self,
        parts: &Parts<'_>,
        now_unix_s: u64,
        clock_leeway_s: u64,
    ) -> Result<IssuedGrant, TokenError> {
        let header = &parts.header;
        if header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
            return Err(TokenError::Invalid);
        }
        let asked = (header.alg.as_str(), header.kid.as_deref());
        let key_until_s = self
            .keys
            .for_key(header.kid.as_deref())
            .signed_until(asked, (parts.message, &parts.signature), now_unix_s)
            .ok_or(TokenError::Invalid)?;
        if !self.is_audience(parts.claims.get("aud")) {
            return Err(TokenError::Invalid);
        }
        let expires_s = parts.time("exp")?.ok_or(TokenError::Invalid)?;
        let not_before_s = parts.time("nbf")?.unwrap_or(0);
        let issued_s = parts.time("iat")?.unwrap_or(0);
        let subject = self.subject(parts)?;
        let ahead_s = issued_s.max(not_before_s).saturating_sub(now_unix_s);
        if ahead_s > clock_leeway_s {
            return Err(TokenError::FromTheFuture { ahead_s });
        }
        let good_until_s = expires_s.saturating_add(EXPIRY_LEEWAY_S);
        if now_unix_s >= good_until_s {
            return Err(TokenError::Expired);
        }
        Ok(IssuedGrant {
            subject,
            session: self.session(parts),
            issued_s,
            good_until_s: good_until_s.min(key_until_s),
        })
    }

    /// A token for another audience is not for this gateway (RFC 7519, section 4.1.3).
    fn is_audience(&self, audience: Option<&Value>) -> bool {
        let is_ours = |audience: &Value| audience.as_str() == Some(&self.audience);
        match audience {
            None => self.audience.is_empty(),
            Some(Value::Array(audiences)) => audiences.iter().any(is_ours),
            Some(audience) => is_ours(audience),
        }
    }

    fn subject(&self, parts: &Parts<'_>) -> Result<Subject, TokenError> {
        let claim = parts.claims.get(&self.claim).ok_or(TokenError::Invalid)?;
        let subject = match self.subject {
            SubjectKind::Uid => {
                let uid = match claim {
                    Value::String(text) => positive_integer(text),
                    number => number.as_i64().filter(|uid| *uid > 0),
                };
                uid.map(Subject::User)
            }
            SubjectKind::Name { create_users } => {
                let name = claim.as_str().filter(|name| names::is_user_name(name));
                name.map(|name| Subject::Name {
                    name: name.to_owned(),
                    create_users,
                })
            }
        };
        subject.ok_or(TokenError::Invalid)
    }

    /// The session that a token stands for, so that a logout ends this very token: by its own name
    /// where it has one, else by all that is signed.
    fn session(&self, parts: &Parts<'_>) -> SessionId {
        let mut digest = Sha256::new();
        digest.update(self.name.as_bytes());
        digest.update([0]);
        match parts.text("jti") {
            Some(id) => digest.update(id.as_bytes()),
            None => digest.update(parts.message),
        }
        let bytes = digest.finalize();
        let (first, _) = bytes.split_first_chunk().expect("a digest of 32 bytes");
        // A session is a positive number, of 63 bits where services keep it.
        (u64::from_be_bytes(*first) >> 1).max(1)
    }
}

impl fmt::Debug for Issuer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Issuer")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
