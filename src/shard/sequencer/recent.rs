//! The messages that came out of a stream lately: under which number, with which id.

use std::collections::VecDeque;

use crate::base::id::MessageId;

/// Messages that are remembered of a stream, 16 bytes each, once some came out.
const REMEMBERED: usize = 32;

/// Whether a message came out under a number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// It did.
    Same,
    /// Another one did, and it did not.
    Other,
    /// Nothing is remembered of that number.
    Never,
}

/// See the module's description.
#[derive(Debug, Default)]
pub(super) struct Recent(Option<Box<Memory>>);

#[derive(Debug, Default)]
struct Memory {
    /// The latest last.
    messages: VecDeque<(u64, MessageId)>,
    /// Nothing behind this number came out.
    highest: u64,
}

impl Recent {
    /// What is remembered of message `id` under number `seq`.
    pub(super) fn of(&self, seq: u64, id: MessageId) -> Seen {
        // Nearly always it is a new number.
        if self.0.as_ref().is_none_or(|memory| seq > memory.highest) {
            return Seen::Never;
        }
        let mut ids = self.all().filter(|(known, _)| *known == seq).peekable();
        if ids.peek().is_none() {
            Seen::Never
        } else if ids.any(|(_, known)| known == id) {
            Seen::Same
        } else {
            Seen::Other
        }
    }

    /// Message `id` comes out under number `seq`.
    pub(super) fn note(&mut self, seq: u64, id: MessageId) {
        let memory = self.0.get_or_insert_default();
        memory.highest = memory.highest.max(seq);
        if memory.messages.len() == REMEMBERED {
            memory.messages.pop_front();
        }
        memory.messages.push_back((seq, id));
    }

    /// The lowest number of which something is remembered.
    pub(super) fn oldest(&self) -> Option<u64> {
        self.all().map(|(seq, _)| seq).min()
    }

    fn all(&self) -> impl Iterator<Item = (u64, MessageId)> {
        let memory = self.0.iter().flat_map(|memory| &memory.messages);
        memory.copied()
    }
}
