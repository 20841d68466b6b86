//! The order of classic replies.
//!
//! A classic reply carries no id: the caller knows it by its place. Answers that are ready before
//! those in front wait here, encoded. Pure.

use std::collections::VecDeque;

use super::write_classic_length;

/// The positions of one connection, from the first that has not been answered.
#[derive(Debug, Default)]
pub(in crate::rpc::wire) struct ReplyOrder {
    /// The number of the position in front.
    first: u64,
    /// From the front: an answer that waits for those before it, `None` where it is still to come.
    waiting: VecDeque<Option<Vec<u8>>>,
    held_bytes: usize,
}

impl ReplyOrder {
    /// The next position, which must be answered.
    pub(in crate::rpc::wire) fn take(&mut self) -> u64 {
        self.waiting.push_back(None);
        self.first + self.waiting.len() as u64 - 1
    }

    /// How many positions are open.
    pub(in crate::rpc::wire) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// How long the answers are that wait.
    pub(in crate::rpc::wire) fn held_bytes(&self) -> usize {
        self.held_bytes
    }

    /// Answers `position` with the message that `encode` appends: `len` bytes. Appends to `output`
    /// whatever may leave now.
    pub(in crate::rpc::wire) fn answer(
        &mut self,
        position: u64,
        len: usize,
        encode: impl FnOnce(&mut Vec<u8>),
        output: &mut Vec<u8>,
    ) {
        assert!(
            position >= self.first && position - self.first < self.waiting.len() as u64,
            "an answer to an open position"
        );
        if position != self.first {
            let mut message = Vec::with_capacity(len);
            encode(&mut message);
            self.hold(position, message);
            return;
        }
        write_classic_length(len, output);
        let before = output.len();
        encode(output);
        assert_eq!(output.len() - before, len, "a reply as long as it said");
        self.waiting.pop_front();
        self.first += 1;
        while let Some(Some(message)) = self.waiting.front_mut().map(Option::take) {
            self.held_bytes -= message.len();
            write_classic_length(message.len(), output);
            output.extend_from_slice(&message);
            self.waiting.pop_front();
            self.first += 1;
        }
    }

    fn hold(&mut self, position: u64, message: Vec<u8>) {
        let place = position
            .checked_sub(self.first)
            .and_then(|place| self.waiting.get_mut(place as usize));
        debug_assert!(
            place.as_ref().is_some_and(|place| place.is_none()),
            "one answer to an open position"
        );
        if let Some(place) = place {
            self.held_bytes += message.len();
            *place = Some(message);
        }
    }
}
