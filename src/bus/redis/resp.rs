//! Redis's protocol as it comes: bytes to values.
//!
//! Owns the bytes of a value that is not whole, and their bound. What a value is the `redis` crate
//! knows. Pure.

use std::io::{self, Read};

use redis::{Parser, Value};

/// Why nothing that follows can be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Bytes that are no value.
    #[error("what came is not Redis's protocol: {0}")]
    Malformed(String),
    /// A value beyond the limit.
    #[error("a value of more than {0} bytes")]
    TooLong(usize),
    /// A value that answers no command that was sent.
    #[error("it answers what is not asked")]
    Unasked,
}

/// See the module's description.
pub(super) struct RespReader {
    parser: Parser,
    /// Bytes since the last whole value.
    pending_bytes: usize,
    max_bytes: usize,
}

impl RespReader {
    /// For a new connection; values are no longer than `max_bytes`.
    pub(super) fn new(max_bytes: usize) -> Self {
        assert!(max_bytes > 0, "no value would fit");
        Self {
            parser: Parser::new(),
            pending_bytes: 0,
            max_bytes,
        }
    }

    /// Takes the next value off the front of `bytes`, which follow those before; `None`: they are
    /// all taken, and what is not whole is kept. Call it until then.
    ///
    /// # Errors
    /// Bytes that are no values; the reader is of no use then.
    pub(super) fn next(&mut self, bytes: &mut &[u8]) -> Result<Option<Value>, ProtocolError> {
        let before = bytes.len();
        match self.parser.parse_value(Source(bytes)) {
            Ok(value) => {
                self.pending_bytes = 0;
                Ok(Some(value))
            }
            // What the source says at its end: the value is not whole.
            Err(error) if error.is_timeout() => {
                assert!(
                    bytes.is_empty(),
                    "the parser asks for more only when it has everything"
                );
                self.pending_bytes += before;
                match self.pending_bytes > self.max_bytes {
                    true => Err(ProtocolError::TooLong(self.max_bytes)),
                    false => Ok(None),
                }
            }
            Err(error) => Err(ProtocolError::Malformed(error.category().to_owned())),
        }
    }
}

/// Bytes that end in "not now" instead of an end, which makes the parser keep what it has.
struct Source<'a, 'b>(&'a mut &'b [u8]);

impl Read for Source<'_, '_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.0.read(into)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_are_found_at_every_split() {
        let stream = b"+OK\r\n:0\r\n-NOPERM this user has no permissions\r\n:123\r\n$4\r\nfour\r\n";
        for split in 0..=stream.len() {
            let mut reader = RespReader::new(4096);
            let mut values = Vec::new();
            for mut part in [&stream[..split], &stream[split..]] {
                while let Some(value) = reader.next(&mut part).expect("values") {
                    values.push(value);
                }
            }
            assert_eq!(values.len(), 5, "split at {split}");
            assert!(matches!(values[2], Value::ServerError(_)));
            assert_eq!(values[4], Value::BulkString(b"four".to_vec()));
        }
    }

    #[test]
    fn what_is_no_value_or_never_ends_is_found_out() {
        let next = |mut bytes: &[u8]| RespReader::new(100).next(&mut bytes);
        let malformed = next(b"HTTP/1.1 400 Bad Request\r\n");
        assert!(matches!(malformed, Err(ProtocolError::Malformed(_))));
        let mut endless = b"$5000\r\n".to_vec();
        assert_eq!(next(&endless), Ok(None));
        endless.resize(101, b'x');
        assert_eq!(next(&endless), Err(ProtocolError::TooLong(100)));
    }
}
