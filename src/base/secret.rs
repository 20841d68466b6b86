//! Passwords, tokens and keys on their way through: never shown by any formatting.

use std::fmt;

/// The least length of a secret that signs: what HS256 asks for (RFC 7518, section 3.2).
pub const SECRET_BYTES_MIN: usize = 32;

/// Something that must not reach a log, a metric or an error message.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret<T>(T);

impl<T> Secret<T> {
    /// Wraps `value`.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value, for the one place that needs it.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(secret)")
    }
}
