//! The keys of one issuer: one key, with the one before it for a while, or a set of them (JSON Web
//! Key Set, RFC 7517).
//!
//! Owns which key of several a token is checked against. Invariants: a set is bounded; what of a
//! set is of no use here (other kinds, other uses) is left out, as the standard demands; secrets in
//! a set are left out too, since sets are published.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

use super::key::{BadKey, Key};

/// More keys of one set are not read.
const KEYS_MAX: usize = 64;
/// A longer set is refused unread, in bytes.
const SET_BYTES_MAX: usize = 256 * 1024;

/// Why a set cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BadKeySet {
    /// It is longer than `SET_BYTES_MAX`.
    #[error("a key set has at most {SET_BYTES_MAX} bytes")]
    TooLong,
    /// It is no set.
    #[error("it is not a JSON Web Key Set: {0}")]
    NotASet(#[from] serde_json::Error),
    /// There is nothing in it to verify with.
    #[error("it has no RSA, P-256 or Ed25519 key for signatures")]
    NoKey,
}

/// A key and by which name tokens ask for it.
struct NamedKey {
    id: Option<String>,
    key: Key,
    /// It is good before that time alone, in seconds since 1970.
    until_s: Option<u64>,
}

/// What one issuer signs with.
pub struct KeySet {
    keys: Vec<NamedKey>,
}

/// The keys of an issuer that are in use: others may take their place at any time.
pub struct CurrentKeys {
    keys: Mutex<Arc<KeySet>>,
    /// A token named a key that is not among them.
    wants_others: AtomicBool,
}

impl From<KeySet> for CurrentKeys {
    fn from(keys: KeySet) -> Self {
        Self {
            keys: Mutex::new(Arc::new(keys)),
            wants_others: AtomicBool::new(false),
        }
    }
}

impl CurrentKeys {
    /// Those in use now. A token names `key_id`: that others are wanted is kept in mind where none
    /// of them may be meant.
    pub(super) fn for_key(&self, key_id: Option<&str>) -> Arc<KeySet> {
        let keys = Arc::clone(&self.lock());
        if key_id.is_some_and(|key_id| !keys.may_have(key_id)) {
            self.wants_others.store(true, Ordering::Relaxed);
        }
        keys
    }

    /// `keys` are in use from now on.
    pub(super) fn replace(&self, keys: KeySet) {
        *self.lock() = Arc::new(keys);
        // Who wanted others before has them.
        self.wants_others.store(false, Ordering::Relaxed);
    }

    /// Whether a token named a key that was not among them, since this was asked last.
    pub(super) fn wanted_others(&self) -> bool {
        self.wants_others.swap(false, Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Arc<KeySet>> {
        // One assignment of a whole value.
        self.keys.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What of a set is looked at.
#[derive(Deserialize)]
struct ReadSet {
    keys: Vec<ReadKey>,
}

#[derive(Deserialize)]
struct ReadKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    #[serde(rename = "use")]
    usage: Option<String>,
    crv: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

impl ReadKey {
    /// The key, if it is one that signatures can be verified with here.
    fn key(&self) -> Option<Key> {
        if self.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return None;
        }
        let bytes = |text: &Option<String>| URL_SAFE_NO_PAD.decode(text.as_deref()?).ok();
        let key = match (self.kty.as_str(), self.crv.as_deref()) {
            ("RSA", _) => Key::of_rsa(&bytes(&self.n)?, &bytes(&self.e)?),
            ("EC", Some("P-256")) => Key::of_coordinates(&bytes(&self.x)?, &bytes(&self.y)?),
            ("OKP", Some("Ed25519")) => Key::of_ed25519(&bytes(&self.x)?),
            _ => return None,
        };
        let is_asked = |key: &Key| {
            let algorithm = self.alg.as_deref();
            algorithm.is_none_or(|algorithm| algorithm == key.algorithm())
        };
        key.ok().filter(is_asked)
    }
}

impl KeySet {
    /// A longer set is refused unread, in bytes.
    pub const BYTES_MAX: usize = SET_BYTES_MAX;

    /// No key, until they are known.
    pub fn unknown() -> Self {
        Self { keys: Vec::new() }
    }

    /// Whether a token that names this key may be signed by one of them.
    fn may_have(&self, key_id: &str) -> bool {
        let mut ids = self.keys.iter().map(|named| named.id.as_deref());
        ids.any(|id| id.is_none_or(|id| id == key_id))
    }

    fn of_one(key: Key) -> Self {
        let key = NamedKey {
            id: None,
            key,
            until_s: None,
        };
        Self { keys: vec![key] }
    }

    /// A secret that issuer and gateway share, for HS256.
    ///
    /// # Errors
    /// One that is too short.
    pub fn of_secret(secret: &[u8]) -> Result<Self, BadKey> {
        Key::of_secret(secret).map(Self::of_one)
    }

    /// A public key in PEM, for RS256, ES256 or EdDSA, by what it is.
    ///
    /// # Errors
    /// What is no such key, or a weak one.
    pub fn of_pem(text: &str) -> Result<Self, BadKey> {
        Key::of_pem(text).map(Self::of_one)
    }

    /// A JSON Web Key Set.
    ///
    /// # Errors
    /// What is none, and one without a key that can be used.
    pub fn of_json(text: &str) -> Result<Self, BadKeySet> {
        if text.len() > Self::BYTES_MAX {
            return Err(BadKeySet::TooLong);
        }
        let set: ReadSet = serde_json::from_str(text)?;
        let keys: Vec<NamedKey> = set
            .keys
            .into_iter()
            .take(KEYS_MAX)
            .filter_map(|read| {
                let key = read.key()?;
                Some(NamedKey {
                    id: read.kid,
                    key,
                    until_s: None,
                })
            })
            .collect();
        if keys.is_empty() {
            return Err(BadKeySet::NoKey);
        }
        Ok(Self { keys })
    }

    /// The keys of `previous` are good too, until `until_s`, in seconds since 1970.
    #[must_use]
    pub fn with_previous(mut self, previous: Self, until_s: u64) -> Self {
        let previous = previous.keys.into_iter().map(|key| NamedKey {
            until_s: Some(until_s),
            ..key
        });
        self.keys.extend(previous);
        self
    }

    /// Until when what was signed this way is good, if one of the keys has signed it: that of the
    /// key, or `u64::MAX`. A token that names its key is checked against keys of that name and
    /// those without one.
    pub(super) fn signed_until(
        &self,
        (algorithm, key_id): (&str, Option<&str>),
        (message, signature): (&[u8], &[u8]),
        now_unix_s: u64,
    ) -> Option<u64> {
        let signed = self.keys.iter().find(|named| {
            let is_meant = match (&named.id, key_id) {
                (Some(id), Some(key_id)) => id == key_id,
                _ => true,
            };
            is_meant
                && named.key.algorithm() == algorithm
                && named.until_s.is_none_or(|until_s| now_unix_s < until_s)
                && named.key.has_signed(message, signature)
        });
        signed.map(|named| named.until_s.unwrap_or(u64::MAX))
    }
}
