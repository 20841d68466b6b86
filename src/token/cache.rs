//! What was found good lately of tokens whose signatures are dear to check.
//!
//! Owns the memory of it. A token is kept by its hash, never itself, until it expires. Invariant:
//! at most [`TOKENS_MAX`] are kept; past that all are forgotten, which costs checking them again.

use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use sha2::{Digest, Sha256};

use super::issuer::IssuedGrant;

const TOKENS_MAX: usize = 4096;

/// Good tokens, by the SHA-256 of their bytes.
#[derive(Default)]
pub(super) struct Cache {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    tokens: HashMap<[u8; 32], IssuedGrant>,
    /// How often all were forgotten.
    age: u64,
}

impl Cache {
    /// What `token` says, if it is known to be good at `now_unix_s`.
    pub fn get(&self, token: &str, now_unix_s: u64) -> Option<IssuedGrant> {
        let known = self.lock();
        let grant = known.tokens.get(&hash(token))?;
        (now_unix_s < grant.good_until_s).then(|| grant.clone())
    }

    /// Keys have changed: nothing is known to be good.
    pub fn forget(&self) {
        let mut known = self.lock();
        known.tokens.clear();
        known.age += 1;
    }

    /// Changes when all is forgotten.
    pub fn age(&self) -> u64 {
        self.lock().age
    }

    /// `token` was found good, and says `grant`; keys that have changed since the cache was of this
    /// `age` may say something else.
    pub fn keep(&self, token: &str, grant: &IssuedGrant, (now_unix_s, age): (u64, u64)) {
        let mut known = self.lock();
        if known.age != age {
            return;
        }
        let tokens = &mut known.tokens;
        if tokens.len() >= TOKENS_MAX {
            tokens.retain(|_, grant| now_unix_s < grant.good_until_s);
        }
        if tokens.len() >= TOKENS_MAX {
            tokens.clear();
        }
        tokens.insert(hash(token), grant.clone());
        debug_assert!(tokens.len() <= TOKENS_MAX);
    }

    /// A map is whole after each call, also after a panic elsewhere.
    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a token is known by.
pub(super) fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}
