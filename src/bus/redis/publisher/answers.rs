//! What Redis answers: one line for each command, in order.
//!
//! Owns the cutting into lines; what a line says is the `redis` crate's to know. Pure.

use redis::Value;

use crate::bus::redis::target::refusal;

/// The longest line: answers to the commands sent here are numbers, or errors in a few words.
const LINE_BYTES: usize = 4096;

/// Redis took the command, or said why not.
pub(super) type Answer = Result<(), String>;

/// Bytes that are no answer to any command sent here: nothing that follows can be understood.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("it answers what is not asked")]
pub(super) struct ProtocolError;

/// The end of a line that has not come whole.
#[derive(Default)]
pub(super) struct Answers {
    unfinished: Vec<u8>,
}

impl Answers {
    /// Takes bytes that follow those before, and hands each answer to `each`.
    ///
    /// # Errors
    /// Bytes that are no answers.
    pub(super) fn feed(
        &mut self,
        mut bytes: &[u8],
        mut each: impl FnMut(Answer),
    ) -> Result<(), ProtocolError> {
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            let (line, rest) = bytes.split_at(end + 1);
            if self.unfinished.is_empty() {
                each(answer(line)?);
            } else {
                self.unfinished.extend_from_slice(line);
                each(answer(&self.unfinished)?);
                self.unfinished.clear();
            }
            bytes = rest;
        }
        if self.unfinished.len() + bytes.len() > LINE_BYTES {
            return Err(ProtocolError);
        }
        self.unfinished.extend_from_slice(bytes);
        Ok(())
    }
}

fn answer(line: &[u8]) -> Result<Answer, ProtocolError> {
    match redis::parse_redis_value(line) {
        Ok(Value::Int(_) | Value::Okay | Value::SimpleString(_)) => Ok(Ok(())),
        Ok(Value::ServerError(error)) => Ok(Err(refusal(&error))),
        Ok(_) | Err(_) => Err(ProtocolError),
    }
}
