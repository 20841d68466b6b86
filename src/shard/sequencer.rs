//! Puts the pushes of one stream in order: a user's direct messages, or a group's messages, on one core.
//!
//! Owns the last number pushed, what came too early, and the knowledge of what has to be fetched. Never fetches by itself
//! and never looks into an item. A push is a hint and the store is the truth: the bus may lose, repeat and reorder, and
//! still every number after the baseline comes out once and in order. The one exception is a number that a completed
//! fetch did not return: it was confirmed and swept, so it is skipped.
//!
//! # The caller's loop
//! ```text
//! push from the bus      match sequencer.offer(seq, item, limit) {
//!                            Deliver(item) => push it, then drain pop_ready()
//!                            Drop          => count a duplicate
//!                            Held { fetch: Some(f) } => start f
//!                            Held { fetch: None }    => nothing: a fetch is under way, or the baseline is not known
//!                        }
//! baseline known         if let Some(f) = sequencer.baseline(last) { start f };  drain pop_ready()
//! fetch answered         let f = sequencer.fetched(fetch, items, more);  drain pop_ready();  start f if Some
//! fetch failed           sequencer.fetch_failed(fetch);  later: if let Some(f) = sequencer.retry() { start f }
//! the bus was away       if let Some(f) = sequencer.gap_possible() { start f }
//! ```
//! A message without a number (`seq` 0) does not belong here: the caller pushes it as it comes.
//!
//! Invariants: at most one fetch is under way; nothing held is the next number; what comes out grows strictly.

use std::collections::{BTreeMap, VecDeque};

/// So far ahead of the last number, a push is not believed: what the bus lost in between would be more than anybody's inbox
/// holds. The store is asked for whatever it has instead.
const FAR_AHEAD: u64 = 100_000;

/// Numbers to ask the store for: `after < seq <= to`, where `to` 0 means "to the end".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fetch {
    /// The last number that is not wanted.
    pub after: u64,
    /// The last number that is wanted, or 0.
    pub to: u64,
}

/// What became of an offered item.
#[derive(Debug, PartialEq, Eq)]
pub enum Offer<T> {
    /// It is the next one: push it now, then drain [`Sequencer::pop_ready`].
    Deliver(T),
    /// Its number was pushed already, or is held already.
    Drop,
    /// It came too early and waits (or, past the limit, will be fetched).
    Held {
        /// A fetch to start now.
        fetch: Option<Fetch>,
    },
}

/// The order of one stream. Small while everything comes in order.
#[derive(Debug)]
pub struct Sequencer<T> {
    /// The last number that came out, or `None` before the baseline is known.
    last: Option<u64>,
    gap: Option<Box<Gap<T>>>,
}

/// What a stream needs only while something is missing.
#[derive(Debug)]
struct Gap<T> {
    phase: Phase,
    /// Came too early, by number.
    held: BTreeMap<u64, T>,
    /// In order by now, waiting to be popped.
    ready: VecDeque<T>,
    /// The greatest number heard of that was not held for want of room.
    heard: u64,
    /// Numbers up to the end may be missing without anything having told.
    open_end: bool,
}

/// Where the repair of a gap stands.
///
/// ```text
///                   number missing
///        +-------+ ---------------> +----------+ -- failed --> +---------------+
///        | Quiet |                  | Fetching |               | AwaitingRetry |
///        +-------+ <--------------- +----------+ <-- retry, -- +---------------+
///                    answered                    gap_possible
/// ```
/// An answer that leaves numbers missing leads straight into the next fetch. Before the baseline is known the stream is
/// `Quiet` whatever is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Quiet,
    Fetching(Fetch),
    AwaitingRetry,
}

impl<T> Default for Gap<T> {
    fn default() -> Self {
        Self {
            phase: Phase::Quiet,
            held: BTreeMap::new(),
            ready: VecDeque::new(),
            heard: 0,
            open_end: false,
        }
    }
}

impl<T> Sequencer<T> {
    /// A stream of which it is not known yet where it begins: everything offered is held until
    /// [`Sequencer::baseline`].
    pub fn unknown() -> Self {
        Self {
            last: None,
            gap: None,
        }
    }

    /// The last number that came out, or the baseline; `None` while that is unknown.
    pub fn last(&self) -> Option<u64> {
        self.last
    }

    /// Says where a stream that was [`Sequencer::unknown`] begins: what is held up to `last` is dropped, what follows
    /// becomes ready. Returns a fetch to start. Where the beginning is known and the store is further on than
    /// the stream, what lies between was lost, and is fetched.
    pub fn baseline(&mut self, last: u64) -> Option<Fetch> {
        if self.last.is_none() {
            self.last = Some(last);
            self.release(last);
        } else if self.last.is_some_and(|known| known < last) {
            let gap = self.gap.get_or_insert_default();
            gap.heard = gap.heard.max(last);
        }
        self.next_fetch()
    }

    /// Nobody will say where the stream begins: with the first number that is held, if one is.
    pub fn begin_with_held(&mut self) -> Option<Fetch> {
        let held = &self.gap.as_ref()?.held;
        let (first, _) = held.first_key_value()?;
        match self.last {
            None => self.baseline(first - 1),
            Some(_) => None,
        }
    }

    /// A push with the number `seq`. At most `limit` items are held; one too many is not kept, and fetched in its turn. Nor is
    /// one that is beyond belief.
    pub fn offer(&mut self, seq: u64, item: T, limit: usize) -> Offer<T> {
        if self.last.is_some_and(|last| seq <= last) {
            return Offer::Drop;
        }
        if self.last.is_some_and(|last| seq - last > FAR_AHEAD) {
            return Offer::Held {
                fetch: self.gap_possible(),
            };
        }
        let is_next = self.last.and_then(|last| last.checked_add(1)) == Some(seq);
        if is_next && self.nothing_ready() {
            self.release(seq);
            return Offer::Deliver(item);
        }
        let gap = self.gap.get_or_insert_default();
        if is_next {
            // The caller has not drained yet, so this one goes behind.
            gap.ready.push_back(item);
            self.release(seq);
        } else if gap.held.contains_key(&seq) {
            return Offer::Drop;
        } else if gap.held.len() < limit {
            gap.held.insert(seq, item);
        } else {
            gap.heard = gap.heard.max(seq);
        }
        Offer::Held {
            fetch: self.next_fetch(),
        }
    }

    /// The next item that is in order, for the caller to push.
    pub fn pop_ready(&mut self) -> Option<T> {
        let item = self.gap.as_mut()?.ready.pop_front();
        self.drop_empty_gap();
        item
    }

    /// The answer to `fetch`: its items in any order, and whether the store had `more` than fitted into the answer.
    /// Numbers it covers and does not contain are skipped from now on. Returns a fetch to start.
    ///
    /// An answer to another fetch than the one under way (from before the stream was set up anew) is ignored.
    pub fn fetched(
        &mut self,
        fetch: Fetch,
        items: impl IntoIterator<Item = (u64, T)>,
        more: bool,
    ) -> Option<Fetch> {
        let last = self.last?;
        let gap = self.gap.as_mut()?;
        if gap.phase != Phase::Fetching(fetch) {
            return None;
        }
        gap.phase = Phase::Quiet;
        let mut covered = fetch.after;
        for (seq, item) in items {
            covered = covered.max(seq);
            if seq > last {
                gap.held.entry(seq).or_insert(item);
            }
        }
        // "More" with nothing new in it would be asked for again and again.
        let complete = !more || covered == fetch.after;
        if complete {
            covered = covered.max(fetch.to);
        } else if fetch.to == 0 {
            gap.open_end = true;
        } else {
            gap.heard = gap.heard.max(fetch.to);
        }
        self.release(covered);
        self.next_fetch()
    }

    /// `fetch` did not work. Nothing is fetched for this stream until [`Sequencer::retry`], which the caller calls after a
    /// pause.
    pub fn fetch_failed(&mut self, fetch: Fetch) {
        if let Some(gap) = self.gap.as_mut()
            && gap.phase == Phase::Fetching(fetch)
        {
            gap.phase = Phase::AwaitingRetry;
            if fetch.to == 0 {
                gap.open_end = true;
            } else {
                gap.heard = gap.heard.max(fetch.to);
            }
        }
    }

    /// The pause after a failed fetch is over: the fetch to start now, if one is still needed.
    pub fn retry(&mut self) -> Option<Fetch> {
        if let Some(gap) = self.gap.as_mut()
            && gap.phase == Phase::AwaitingRetry
        {
            gap.phase = Phase::Quiet;
        }
        self.next_fetch()
    }

    /// Pushes may have been lost without a trace, since the bus was away: everything after the last number has to be
    /// fetched. Returns the fetch to start; while another is under way, or the beginning is not known, it comes after that.
    pub fn gap_possible(&mut self) -> Option<Fetch> {
        self.gap.get_or_insert_default().open_end = true;
        self.retry()
    }

    fn nothing_ready(&self) -> bool {
        self.gap.as_ref().is_none_or(|gap| gap.ready.is_empty())
    }

    /// Moves the last number on to `covered` at least, making ready what is held up to there and what follows without a
    /// hole.
    fn release(&mut self, covered: u64) {
        let mut last = self.last.map_or(covered, |last| last.max(covered));
        if let Some(gap) = self.gap.as_mut() {
            let floor = self.last.unwrap_or(covered);
            while let Some(entry) = gap.held.first_entry()
                && *entry.key() <= last.saturating_add(1)
            {
                let (seq, item) = entry.remove_entry();
                last = last.max(seq);
                if seq > floor {
                    gap.ready.push_back(item);
                }
            }
        }
        self.last = Some(last);
        self.drop_empty_gap();
    }

    /// Starts the fetch that is needed, if one is and may be started.
    fn next_fetch(&mut self) -> Option<Fetch> {
        let last = self.last?;
        let gap = self.gap.as_mut()?;
        if gap.phase != Phase::Quiet {
            return None;
        }
        let to = if gap.open_end {
            gap.open_end = false;
            0
        } else if let Some((first, _)) = gap.held.first_key_value() {
            first - 1
        } else if gap.heard > last {
            gap.heard
        } else {
            self.drop_empty_gap();
            return None;
        };
        let fetch = Fetch { after: last, to };
        gap.phase = Phase::Fetching(fetch);
        Some(fetch)
    }

    fn drop_empty_gap(&mut self) {
        let idle = self.gap.as_ref().is_some_and(|gap| {
            gap.phase == Phase::Quiet
                && gap.held.is_empty()
                && gap.ready.is_empty()
                && !gap.open_end
                && self.last.is_some_and(|last| gap.heard <= last)
        });
        if idle {
            self.gap = None;
        }
    }
}

#[cfg(test)]
mod tests;
