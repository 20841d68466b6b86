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
    tokens: Mutex<HashMap<[u8; 32], IssuedGrant>>,
}

impl Cache {
    /// What `token` says, if it is known to be good at `now_unix_s`.
    pub fn get(&self, token: &str, now_unix_s: u64) -> Option<IssuedGrant> {
        let tokens = self.lock();
        let grant = tokens.get(&hash(token))?;
        (now_unix_s < grant.good_until_s).then(|| grant.clone())
    }

    /// `token` is good, and says `grant`.
    pub fn keep(&self, token: &str, grant: &IssuedGrant, now_unix_s: u64) {
        let mut tokens = self.lock();
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
    fn lock(&self) -> MutexGuard<'_, HashMap<[u8; 32], IssuedGrant>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn hash(token: &str) -> [u8; 32] {
    Sha256::digest(token).into()
}
