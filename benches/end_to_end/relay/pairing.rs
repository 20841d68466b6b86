//! Who belongs together in a relay of pairs: each connection's first line says what it is.
//!
//! `receive PAIR` makes it the receiver of a pair, `send PAIR HEAD` its sender; HEAD, up to the end
//! of the line, is what the receiver is to see before whatever the sender says. Looking up a
//! receiver costs two steps into a vector, as little as it can.

use anyhow::{Context, Result, bail, ensure};

/// Pairs are numbered from zero; a greater number than this is no number of a pair.
const PAIRS_MAX: usize = 1 << 20;

/// What a connection is.
enum Role {
    Receiver(usize),
    Sender { pair: usize, head: Vec<u8> },
}

impl Role {
    fn from_line(line: &[u8]) -> Result<Self> {
        let text = std::str::from_utf8(line)?;
        let mut words = text.trim_end_matches('\n').splitn(3, ' ');
        let role = words.next().unwrap_or_default();
        let pair = words
            .next()
            .and_then(|word| word.parse().ok())
            .with_context(|| format!("no number of a pair in {text:?}"))?;
        ensure!(pair < PAIRS_MAX, "there is no pair {pair}");
        let head = words.next().unwrap_or_default().as_bytes().to_vec();
        match role {
            "receive" => Ok(Self::Receiver(pair)),
            "send" => Ok(Self::Sender { pair, head }),
            _ => bail!("a first line was {text:?}"),
        }
    }
}

/// All connections of a relay of pairs.
#[derive(Default)]
pub struct Pairing {
    /// By slot.
    roles: Vec<Option<Role>>,
    /// By pair, the slot of its receiver.
    receivers: Vec<Option<usize>>,
}

impl Pairing {
    /// Takes down the first line of the connection in `slot`.
    pub fn introduce(&mut self, slot: usize, line: &[u8]) -> Result<()> {
        let role = Role::from_line(line)?;
        if let Role::Receiver(pair) = role {
            *entry(&mut self.receivers, pair) = Some(slot);
        }
        *entry(&mut self.roles, slot) = Some(role);
        Ok(())
    }

    /// The slot of the receiver to whom the connection in `slot` speaks, and what that is to see
    /// first.
    pub fn receiver_of(&self, slot: usize) -> Option<(usize, &[u8])> {
        let Some(Role::Sender { pair, head }) = self.roles.get(slot)? else {
            return None;
        };
        let receiver = *self.receivers.get(*pair)?;
        Some((receiver?, head))
    }

    /// Forgets a connection that has ended.
    pub fn forget(&mut self, slot: usize) {
        if let Some(Role::Receiver(pair)) = self.roles.get_mut(slot).and_then(Option::take) {
            self.receivers[pair] = None;
        }
    }
}

fn entry<T>(all: &mut Vec<Option<T>>, index: usize) -> &mut Option<T> {
    if all.len() <= index {
        all.resize_with(index + 1, || None);
    }
    &mut all[index]
}
