//! Tokens: what lets a user log in again without the password.
//!
//! Owns issuing and verifying JSON Web Tokens (RFC 7519) signed with keys of the operator. Never
//! asks a clock or a random source: the time and the token's own number are handed in. Never prints
//! a key or a token.
//!
//! Invariants:
//! - the algorithm is the key's, not the token's: a token is only ever checked against keys made
//!   for the algorithm that its header names, and `none` is nobody's;
//! - nothing in a header is followed: key ids, key sets, certificates and addresses of keys have no
//!   effect, and a header that demands to be understood (`crit`) is refused;
//! - a token is [`TokenError::Expired`] only if it is right in everything else.

mod cache;
pub mod issuer;
mod key;
pub mod key_set;
pub mod opaque;

use std::{fmt, time::Duration};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use ring::hmac;
use serde::{Deserialize, Serialize};

use self::{
    cache::Cache,
    issuer::{IssuedGrant, Issuer},
    key_set::KeySet,
};
use crate::base::{
    id::{SessionId, UserId},
    secret::SECRET_BYTES_MIN,
};

/// A longer token is refused unread. The gateway's own take some 300 bytes.
const TOKEN_BYTES_MAX: usize = 4096;

/// What the gateway's own tokens call it.
pub const ISSUER: &str = "im-gateway";
const TYPE: &str = "access";
/// So long a token outlives its end: clocks differ.
const EXPIRY_LEEWAY_S: u64 = 60;

/// Why a token does not log anybody in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// It was right once.
    #[error("the token has expired")]
    Expired,
    /// It is ours, but by this clock it will be issued only so much later: clocks differ.
    #[error("the token is dated {ahead_s} s ahead of this clock")]
    FromTheFuture {
        /// How far its time of issue lies ahead.
        ahead_s: u64,
    },
    /// It is not a token of ours.
    #[error("the token is not valid")]
    Invalid,
}

/// What a token says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Whom it logs in.
    pub user: UserId,
    /// The session of the login that it belongs to; `None`: the release that made it did not say.
    pub session: Option<SessionId>,
    /// The user's epoch in which that session began, where the User Service counts them.
    pub epoch: Option<u64>,
    /// When it was made, in seconds since 1970.
    pub issued_s: u64,
}

/// Whom a good token logs in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verified {
    /// It is one of the gateway's own.
    Own(Grant),
    /// It is one of an issuer's.
    Issued(IssuedGrant),
}

/// The secret is too short to sign with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a token secret has at least {SECRET_BYTES_MIN} bytes, this one has {length_bytes}")]
pub struct WeakSecret {
    /// How long it is.
    length_bytes: usize,
}

/// The keys tokens are signed and verified with.
pub struct Tokens {
    signing: EncodingKey,
    verifying: Vec<VerifyingKey>,
    issuers: Vec<Issuer>,
    /// Makes passwords of accounts that nobody logs in to with one.
    passwords: hmac::Key,
    /// What was found good of the issuers': their signatures are dear to check.
    issued: Cache,
    lifetime_s: u64,
    clock_leeway_s: u64,
}

/// A key and the one algorithm it is for.
struct VerifyingKey {
    key: DecodingKey,
    validation: Validation,
}

impl VerifyingKey {
    fn new(key: DecodingKey, algorithm: Algorithm) -> Self {
        let mut validation = Validation::new(algorithm);
        // The library would compare with its own clock. All claims are checked in `granted`, so
        // that each rule stands in one place; only an audience, which no key here is for, is left
        // to it to refuse.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        validation.required_spec_claims.clear();
        Self { key, validation }
    }

    fn is_for(&self, algorithm: Algorithm) -> bool {
        self.validation.algorithms.contains(&algorithm)
    }
}

/// What a token is made of.
#[derive(Serialize)]
struct Claims {
    iss: &'static str,
    sub: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    sid: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    epoch: Option<u64>,
    iat: u64,
    exp: u64,
    jti: String,
    typ: &'static str,
}

/// What of a token is looked at. A release that made tokens with `nbf` put the time of issue there
/// too.
#[derive(Deserialize)]
struct ReadClaims {
    iss: String,
    sub: String,
    sid: Option<String>,
    epoch: Option<u64>,
    iat: u64,
    exp: u64,
    typ: String,
}

impl Tokens {
    /// Signs and verifies with the gateway's own `secret`; a token is good for `lifetime`, and may
    /// be dated `clock_leeway` ahead, both counted in whole seconds.
    pub fn new(
        secret: &[u8],
        lifetime: Duration,
        clock_leeway: Duration,
    ) -> Result<Self, WeakSecret> {
        if secret.len() < SECRET_BYTES_MIN {
            return Err(WeakSecret {
                length_bytes: secret.len(),
            });
        }
        Ok(Self {
            signing: EncodingKey::from_secret(secret),
            verifying: vec![VerifyingKey::new(
                DecodingKey::from_secret(secret),
                Algorithm::HS256,
            )],
            issuers: Vec::new(),
            passwords: hmac::Key::new(hmac::HMAC_SHA256, secret),
            issued: Cache::default(),
            lifetime_s: lifetime.as_secs(),
            clock_leeway_s: clock_leeway.as_secs(),
        })
    }

    /// Takes the tokens of `issuers` too.
    #[must_use]
    pub fn with_issuers(self, issuers: Vec<Issuer>) -> Self {
        let is_own = |issuer: &Issuer| issuer.name == ISSUER;
        assert!(!issuers.iter().any(is_own), "{ISSUER} is this gateway");
        Self { issuers, ..self }
    }

    /// The issuer of this number, in the order in which they were given, signs with these keys from
    /// now on, and with no others.
    pub fn set_keys(&self, issuer: usize, keys: KeySet) {
        self.issuers[issuer].keys.replace(keys);
        self.issued.forget();
    }

    /// Whether a token named a key that the issuer of this number is not known to have, since this
    /// was asked last.
    pub fn wanted_other_keys(&self, issuer: usize) -> bool {
        self.issuers[issuer].keys.wanted_others()
    }

    /// A password for the account `name` that is made because an issuer vouches for its user: no
    /// one can know it who cannot sign tokens.
    pub fn unknown_password(&self, name: &str) -> String {
        let message = format!("password of {name}");
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.passwords, message.as_bytes()))
    }

    /// The longest that a token issued until now may be good for; `None`: an issuer says for how
    /// long its tokens are.
    pub fn longest_life(&self) -> Option<Duration> {
        if !self.issuers.is_empty() {
            return None;
        }
        let life_s = self.lifetime_s.saturating_add(self.clock_leeway_s);
        Some(Duration::from_secs(life_s.saturating_add(EXPIRY_LEEWAY_S)))
    }

    /// A token that says `grant`. `jti` names this one token and should be random.
    pub fn issue(&self, grant: &Grant, jti: u128) -> String {
        let claims = Claims {
            iss: ISSUER,
            sub: grant.user.to_string(),
            sid: grant.session.map(|session| session.to_string()),
            epoch: grant.epoch,
            iat: grant.issued_s,
            exp: grant.issued_s.saturating_add(self.lifetime_s),
            jti: format!("{jti:032x}"),
            typ: TYPE,
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.signing)
            .expect("strings and numbers always encode, and HMAC takes a key of any length")
    }

    /// Whom `token` logs in, if it is good at `now_unix_s`.
    ///
    /// # Errors
    /// Why it logs nobody in.
    pub fn verify(&self, token: &str, now_unix_s: u64) -> Result<Verified, TokenError> {
        if token.len() > TOKEN_BYTES_MAX {
            return Err(TokenError::Invalid);
        }
        if !self.issuers.is_empty()
            && let Some(issued) = self.verify_issued(token, now_unix_s)
        {
            return issued.map(Verified::Issued);
        }
        self.verify_own(token, now_unix_s).map(Verified::Own)
    }

    /// What a token of an issuer says; `None`: it is none.
    fn verify_issued(
        &self,
        token: &str,
        now_unix_s: u64,
    ) -> Option<Result<IssuedGrant, TokenError>> {
        if let Some(grant) = self.issued.get(token, now_unix_s) {
            return Some(Ok(grant));
        }
        let age = self.issued.age();
        let verified = issuer::verify(&self.issuers, token, (now_unix_s, self.clock_leeway_s))?;
        if let Ok(grant) = &verified {
            self.issued.keep(token, grant, (now_unix_s, age));
        }
        Some(verified)
    }

    fn verify_own(&self, token: &str, now_unix_s: u64) -> Result<Grant, TokenError> {
        let header = jsonwebtoken::decode_header(token).map_err(|_| TokenError::Invalid)?;
        if header.crit.is_some() || header.enc.is_some() || header.zip.is_some() {
            return Err(TokenError::Invalid);
        }
        let claims = self
            .verifying
            .iter()
            .filter(|key| key.is_for(header.alg))
            .find_map(|key| {
                jsonwebtoken::decode::<ReadClaims>(token, &key.key, &key.validation).ok()
            })
            .ok_or(TokenError::Invalid)?
            .claims;
        self.granted(&claims, now_unix_s)
    }

    /// The rules for the claims of a token whose signature is right.
    fn granted(&self, claims: &ReadClaims, now_unix_s: u64) -> Result<Grant, TokenError> {
        if claims.iss != ISSUER || claims.typ != TYPE {
            return Err(TokenError::Invalid);
        }
        let user = positive_integer(&claims.sub).ok_or(TokenError::Invalid)?;
        let session = claims.sid.as_deref().map(positive_integer);
        if session == Some(None) {
            return Err(TokenError::Invalid);
        }
        let ahead_s = claims.iat.saturating_sub(now_unix_s);
        if ahead_s > self.clock_leeway_s {
            return Err(TokenError::FromTheFuture { ahead_s });
        }
        if now_unix_s >= claims.exp.saturating_add(EXPIRY_LEEWAY_S) {
            return Err(TokenError::Expired);
        }
        Ok(Grant {
            user,
            session: session.flatten().map(i64::cast_unsigned),
            epoch: claims.epoch,
            issued_s: claims.iat,
        })
    }
}

/// The number that `text` is the one way to write: digits only, no sign, no leading zero.
fn positive_integer(text: &str) -> Option<i64> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || text.starts_with('0') {
        return None;
    }
    text.parse().ok()
}

impl fmt::Debug for Tokens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Tokens")
            .field("keys", &self.verifying.len())
            .field("issuers", &self.issuers)
            .field("lifetime_s", &self.lifetime_s)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
