//! What a service said lately of tokens that it alone can read.
//!
//! Owns the memory of it, of good and of bad ones. A token is kept by its hash, never itself.
//! Invariant: at most `TOKENS_MAX` are kept, for no longer than `KNOWN_S`.

use std::{
    collections::HashMap,
    ops::RangeInclusive,
    sync::{Mutex, MutexGuard, PoisonError},
};

use super::{Grant, TOKEN_BYTES_MAX, cache::hash};
use crate::base::id::SessionId;

/// How long such a token is, in bytes: a shorter one would be guessed.
pub const LENGTHS: RangeInclusive<usize> = 16..=TOKEN_BYTES_MAX;

const TOKENS_MAX: usize = 4096;
/// How long an answer stands, in seconds: so long a token that its service takes back is good.
const KNOWN_S: u64 = 30;
/// How long a service that knows no such tokens is not asked, in seconds: another may come.
const NOT_ISSUED_S: u64 = 600;

/// See the module's description.
#[derive(Default)]
pub struct OpaqueTokens {
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    /// Whom they log in, and until when that is known.
    tokens: HashMap<[u8; 32], (Option<Grant>, u64)>,
    /// Nobody is asked before that time.
    not_issued_until_s: u64,
}

impl OpaqueTokens {
    /// Whom `token` logs in, where that is known at `now_s`: nobody, perhaps.
    pub fn get(&self, token: &str, now_s: u64) -> Option<Option<Grant>> {
        let known = self.lock();
        let (grant, until_s) = known.tokens.get(&hash(token))?;
        (now_s < *until_s).then_some(*grant)
    }

    /// A service said at `now_s` whom `token` logs in, and until when; 0: it did not say.
    pub fn keep(&self, token: &str, grant: Option<Grant>, (now_s, good_until_s): (u64, u64)) {
        let until_s = match (now_s + KNOWN_S, good_until_s) {
            (known_s, 0) => known_s,
            (known_s, good_s) => known_s.min(good_s),
        };
        let mut known = self.lock();
        if known.tokens.len() >= TOKENS_MAX {
            known.tokens.retain(|_, (_, until_s)| now_s < *until_s);
        }
        if known.tokens.len() >= TOKENS_MAX {
            known.tokens.clear();
        }
        known.tokens.insert(hash(token), (grant, until_s));
        debug_assert!(known.tokens.len() <= TOKENS_MAX);
    }

    /// Whether a service may be asked at `now_s`.
    pub fn are_issued(&self, now_s: u64) -> bool {
        now_s >= self.lock().not_issued_until_s
    }

    /// No service knows such tokens.
    pub fn are_not_issued(&self, now_s: u64) {
        self.lock().not_issued_until_s = now_s + NOT_ISSUED_S;
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        // It is whole after each call, also after a panic elsewhere.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The session that a token stands for: the same for the same token, wherever it is shown, so that
/// a logout ends this very token.
pub fn session(token: &str) -> SessionId {
    let hash = hash(token);
    let (first, _) = hash.split_first_chunk().expect("a digest of 32 bytes");
    // A session is a positive number, of 63 bits where services keep it.
    (u64::from_be_bytes(*first) >> 1).max(1)
}
