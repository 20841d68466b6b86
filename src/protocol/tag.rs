//! The tag a client may put before a command to know its reply again.

use std::fmt;

/// A client's mark on a command: 1 to 32 of `[A-Za-z0-9_-]`, kept inline.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tag {
    /// Padded with zero bytes, which a tag cannot hold.
    bytes: [u8; Tag::MAX_BYTES],
}

impl Tag {
    /// The longest tag.
    pub(super) const MAX_BYTES: usize = 32;

    /// The tag that reads `bytes`; `None`: no tag may read like that.
    pub fn new(bytes: &[u8]) -> Option<Self> {
        let allowed = |byte: &u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-');
        if bytes.is_empty() || bytes.len() > Self::MAX_BYTES || !bytes.iter().all(allowed) {
            return None;
        }
        let mut padded = [0; Self::MAX_BYTES];
        padded[..bytes.len()].copy_from_slice(bytes);
        Some(Self { bytes: padded })
    }

    /// The tag as the client wrote it, without the `@`.
    pub fn as_str(&self) -> &str {
        let length = memchr::memchr(0, &self.bytes).unwrap_or(Self::MAX_BYTES);
        // Only ASCII was let in.
        std::str::from_utf8(&self.bytes[..length]).unwrap_or_default()
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "@{}", self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tag_is_1_to_32_letters_digits_and_dashes() {
        for good in ["a", "A-b_9", "0", "0123456789abcdef0123456789ABCDEF"] {
            assert_eq!(Tag::new(good.as_bytes()).expect("a tag").as_str(), good);
        }
        for bad in [
            "",
            "a b",
            "é",
            "a.b",
            "0123456789abcdef0123456789ABCDEFx",
            "a\0",
        ] {
            assert_eq!(Tag::new(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
