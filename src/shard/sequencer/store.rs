//! What a sequencer and its caller say to each other: items that come in, what the store is asked
//! and what it answers, what is to be done.

use crate::base::id::MessageId;

/// What a stream is made of.
pub trait Numbered {
    /// The message's id, which tells two under one number apart.
    fn id(&self) -> MessageId;
    /// It may have come out before.
    fn mark_repeat(&mut self);
    /// This is what the store has of `pushed`: takes over what only a push says.
    fn adopt(&mut self, pushed: &Self);
}

/// Numbers to ask the store for: `after < seq <= to`, where `to` 0 means "to the end".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The last number that is not wanted.
    pub after: u64,
    /// The last number that is wanted, or 0.
    pub to: u64,
}

/// What the store says to a [`Fetch`].
#[derive(Debug)]
pub struct Answer<T> {
    /// What it has, by number, in any order.
    pub items: Vec<(u64, T)>,
    /// It may have more of what was asked for.
    pub more: bool,
    /// Its last number, if it says it.
    pub end: Option<u64>,
}

/// A stream went back: numbers behind `to` come out once more, under other ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::shard) struct StepBack {
    /// The last number now.
    pub to: u64,
    /// The last number that the store has: what was believed of those behind it was wrong.
    pub end: u64,
}

/// What became of an offered item.
#[derive(Debug, PartialEq, Eq)]
pub enum Offer<T> {
    /// It is the next one: push it now.
    Deliver(T),
    /// It came out already, or is held already.
    Drop,
    /// It waits, or the store is asked about its number.
    Held {
        /// A fetch to start now.
        fetch: Option<Fetch>,
    },
}
