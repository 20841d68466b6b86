//! Puts the pushes of one stream in order: a user's direct messages, or a group's messages, on one
//! core.
//!
//! Owns the last number pushed, what came out lately, what came too early, and the knowledge of
//! what has to be fetched. Never fetches by itself and looks at an item's id alone. A push is a
//! hint and the store is the truth: the bus may lose, repeat, reorder and forge, and still every
//! number after the baseline comes out once and in order.
//!
//! - **A number that the store does not have is never skipped to or waited for.** What comes too
//!   early is held until the store has said what lies up to it, that number included; what it does
//!   not know of is dropped. A hole is skipped only where the store has something behind it: that
//!   message was confirmed and swept.
//! - **The next number is believed at once**: to ask the store first would cost a call for each
//!   message. Where the real message comes later under the same number, its id is another: the
//!   store is asked who is right, and what did not come out does.
//! - **What was believed of a number may be wrong**, as after a forged push or when an older
//!   database was put back. Where the store ends before the last number, the stream steps back to
//!   where it ends, or to the number that raised the doubt.
//!
//! # The caller's loop
//! ```text
//! push from the bus      match sequencer.offer(seq, item, limit) {
//!                            Deliver(item) => push it
//!                            Drop          => count a duplicate
//!                            Held { fetch: Some(f) } => start f
//!                            Held { fetch: None }    => nothing: a fetch is under way, or the baseline is not known
//!                        };  drain pop_ready()
//! baseline known         if let Some(f) = sequencer.baseline(last) { start f };  drain pop_ready()
//! fetch answered         let f = sequencer.fetched(fetch, answer);  take_step_back();  drain pop_ready();  start f if Some
//! fetch failed           sequencer.fetch_failed(fetch);  later: if let Some(f) = sequencer.retry() { start f }
//! the bus was away       if let Some(f) = sequencer.gap_possible() { start f }
//! ```
//! A message without a number (`seq` 0) does not belong here: the caller pushes it as it comes.
//!
//! Invariants: at most one fetch is under way; nothing held is the next number, but while what came
//! out is in doubt; what comes out grows strictly, but for what a step back makes good; nothing
//! comes out twice under one number and id as far as that is remembered, and as a repeat beyond.

#[cfg(any(test, debug_assertions))]
mod invariants;
mod recent;
mod store;

use std::collections::{BTreeMap, VecDeque};

use self::recent::{Recent, Seen};
pub(super) use self::store::StepBack;
pub use self::store::{Answer, Fetch, Numbered, Offer};
use crate::base::{
    id::MessageId,
    mutation::{Mutation, is_seeded},
};

/// The farthest step back, and the most numbers that are compared with the store's at one time.
const STEP_BACK: u64 = 1_000;
const COMPARED: u64 = 64;

/// The order of one stream. Small while everything comes in order.
#[derive(Debug)]
pub(super) struct Sequencer<T> {
    position: Position,
    recent: Recent,
    gap: Option<Box<Gap<T>>>,
}

/// How far a stream has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Position {
    /// The baseline is not known yet.
    Unknown,
    /// Nobody will tell the baseline: the first number that comes is the beginning.
    Anywhere,
    /// The last number that came out, or the baseline.
    After(u64),
}

/// What a stream needs only while something is missing or in doubt.
#[derive(Debug)]
struct Gap<T> {
    phase: Phase,
    /// Came too early, by number.
    held: BTreeMap<u64, Held<T>>,
    /// In order by now, waiting to be popped.
    ready: VecDeque<T>,
    /// Numbers up to the end may be missing without anything having told.
    open_end: bool,
    /// The lowest number up to the last one that came with an id that did not come out under it.
    doubted: Option<u64>,
    /// Up to here, what is not remembered may have come out before.
    repeats_to: u64,
    step_back: Option<StepBack>,
    /// Nothing comes out and nothing is fetched until [`Sequencer::resume`].
    is_paused: bool,
}

#[derive(Debug)]
struct Held<T> {
    item: T,
    /// The fetch under way asks for its number.
    is_asked: bool,
}

/// Where the repair of a gap stands.
///
/// ```text
///              number missing, or doubted
///        +-------+ ---------------> +----------+ -- failed --> +---------------+
///        | Quiet |                  | Fetching |               | AwaitingRetry |
///        +-------+ <--------------- +----------+ <-- retry, -- +---------------+
///                    answered                    gap_possible
/// ```
/// An answer that leaves numbers missing leads straight into the next fetch. Before the baseline is
/// known the stream is
/// `Quiet` whatever is missing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Quiet,
    Fetching {
        fetch: Fetch,
        /// What is asked for came out, and this number is doubted.
        doubted: Option<u64>,
    },
    AwaitingRetry,
}

impl<T> Default for Gap<T> {
    fn default() -> Self {
        Self {
            phase: Phase::Quiet,
            held: BTreeMap::new(),
            ready: VecDeque::new(),
            open_end: false,
            doubted: None,
            repeats_to: 0,
            step_back: None,
            is_paused: false,
        }
    }
}

impl<T: Numbered> Sequencer<T> {
    /// A stream of which it is not known yet where it begins: everything offered is held until
    /// [`Sequencer::baseline`].
    pub fn unknown() -> Self {
        Self {
            position: Position::Unknown,
            recent: Recent::default(),
            gap: None,
        }
    }

    /// The last number that came out, or the baseline; `None` while that is unknown.
    pub fn last(&self) -> Option<u64> {
        match self.position {
            Position::After(last) => Some(last),
            Position::Unknown | Position::Anywhere => None,
        }
    }

    /// Up to which number what comes out may have come out before: the stream went back.
    pub(super) fn repeats_to(&self) -> u64 {
        self.gap.as_ref().map_or(0, |gap| gap.repeats_to)
    }

    /// Whether number `seq` has had its turn, and not with another message than `id` as far as is
    /// remembered.
    pub(super) fn has_passed(&self, seq: u64, id: MessageId) -> bool {
        self.last().is_some_and(|last| seq <= last) && self.recent.of(seq, id) != Seen::Other
    }

    /// Says where a stream that was [`Sequencer::unknown`] begins: what is held up to `last` is
    /// dropped, what follows becomes ready. Returns a fetch to start. Where the beginning is known
    /// and the store is further on than the stream, what lies between was lost, and is fetched;
    /// where it is not that far, it said so a moment ago.
    pub fn baseline(&mut self, last: u64) -> Option<Fetch> {
        match self.last() {
            None => {
                self.position = Position::After(last);
                self.release(last);
            }
            Some(known) if known < last => self.gap.get_or_insert_default().open_end = true,
            // Of two logins at one time, the answer to the later one came first: the other is owed
            // what lies between.
            Some(known) if known > last && self.recent.oldest().is_none() => {
                self.position = Position::After(last);
                let gap = self.gap.get_or_insert_default();
                gap.open_end = true;
                // What was asked for begins too late.
                gap.phase = Phase::Quiet;
            }
            Some(_) => {}
        }
        self.next_fetch()
    }

    /// Nobody will say where the stream begins: with the first number that is held, or else the
    /// first that comes.
    pub(super) fn begin_anywhere(&mut self) -> Option<Fetch> {
        if self.last().is_some() {
            return None;
        }
        self.position = Position::Anywhere;
        let held = &self.gap.as_ref()?.held;
        let (first, _) = held.first_key_value()?;
        self.baseline(first - 1)
    }

    /// A push with the number `seq`. At most `limit` items are held; one too many is not kept, and
    /// fetched in its turn.
    pub fn offer(&mut self, seq: u64, item: T, limit: usize) -> Offer<T> {
        if self.position == Position::Anywhere && seq > 0 {
            self.begin_with(seq);
        }
        match self.last() {
            _ if seq == 0 => return Offer::Drop,
            Some(last) if seq == last && is_seeded(Mutation::NumberComesOutTwice) => {
                return Offer::Deliver(item);
            }
            Some(last) if seq <= last => return self.offer_passed(seq, &item),
            Some(_) if is_seeded(Mutation::GapIsOverlooked) => return self.offer_next(seq, item),
            Some(last) if seq - last == 1 && !self.is_in_doubt() => {
                return self.offer_next(seq, item);
            }
            _ => {}
        }
        let gap = self.gap.get_or_insert_default();
        let is_asked = false;
        let has_room = gap.held.len() < limit;
        match gap.held.get_mut(&seq) {
            Some(held) if held.item.id() == item.id() => return Offer::Drop,
            // The store will say which of the two it has.
            Some(held) => *held = Held { item, is_asked },
            None if has_room => {
                gap.held.insert(seq, Held { item, is_asked });
            }
            None => gap.open_end = true,
        }
        Offer::Held {
            fetch: self.next_fetch(),
        }
    }

    /// Number `seq` is the first one that comes. What may have been missed before it cannot be
    /// named.
    fn begin_with(&mut self, seq: u64) {
        self.position = Position::After(seq - 1);
        if let Some(gap) = &mut self.gap {
            debug_assert!(gap.held.is_empty(), "the first one held was the beginning");
            gap.open_end = false;
        }
    }

    /// The number has had its turn. A late or repeated push is most likely, but the turn may have
    /// been another message's.
    fn offer_passed(&mut self, seq: u64, item: &T) -> Offer<T> {
        if self.recent.of(seq, item.id()) == Seen::Same {
            return Offer::Drop;
        }
        self.doubt(seq);
        Offer::Held {
            fetch: self.next_fetch(),
        }
    }

    /// Whether what came out under some number may not be what the store has, or the stream is
    /// paused: what comes behind waits, to keep the order.
    fn is_in_doubt(&self) -> bool {
        self.gap.as_ref().is_some_and(|gap| {
            let is_compared = matches!(
                gap.phase,
                Phase::Fetching {
                    doubted: Some(_),
                    ..
                }
            );
            is_compared || gap.doubted.is_some() || gap.is_paused
        })
    }

    fn offer_next(&mut self, seq: u64, item: T) -> Offer<T> {
        let is_first = self.gap.as_ref().is_none_or(|gap| gap.ready.is_empty());
        let item = self.let_out(seq, item);
        if let (Some(gap), false) = (&mut self.gap, is_first) {
            // The caller has not drained yet, so this one goes behind.
            gap.ready.extend(item);
            self.release(seq);
            return Offer::Held {
                fetch: self.next_fetch(),
            };
        }
        self.release(seq);
        item.map_or(Offer::Drop, Offer::Deliver)
    }

    /// The next item that is in order, for the caller to push.
    pub(super) fn pop_ready(&mut self) -> Option<T> {
        let item = self.gap.as_mut()?.ready.pop_front();
        self.drop_empty_gap();
        item
    }

    /// The answer to `fetch`. What came out and is there under another id is looked into; what was
    /// asked for and is not there is dropped. Returns a fetch to start.
    ///
    /// An answer to another fetch than the one under way (from before the stream was set up anew)
    /// is ignored.
    pub fn fetched(&mut self, fetch: Fetch, answer: Answer<T>) -> Option<Fetch> {
        let gap = self.gap.as_mut()?;
        let Phase::Fetching {
            fetch: own,
            doubted,
        } = gap.phase
        else {
            return None;
        };
        if own != fetch {
            return None;
        }
        gap.phase = Phase::Quiet;
        match doubted {
            Some(doubted) => self.compared(fetch, doubted, answer),
            None => self.filled(fetch, answer),
        }
    }

    /// A stream that has stepped back since this was asked last: where to.
    pub(super) fn take_step_back(&mut self) -> Option<StepBack> {
        let step_back = self.gap.as_mut()?.step_back.take();
        self.drop_empty_gap();
        step_back
    }

    /// What the store has of numbers that had not come out when it was asked.
    fn filled(&mut self, fetch: Fetch, answer: Answer<T>) -> Option<Fetch> {
        let last = self.last()?;
        let covered = covered(fetch, &answer.items);
        // "More" with nothing new in it would be asked for again and again.
        let is_complete = !answer.more || covered == fetch.after;
        let gap = self.gap.get_or_insert_default();
        let mut pushed = std::mem::take(&mut gap.held);
        let mut doubted = None;
        for (seq, mut item) in answer.items {
            if seq > last {
                if let Some(held) = pushed.remove(&seq)
                    && held.item.id() == item.id()
                {
                    item.adopt(&held.item);
                }
                let is_asked = false;
                gap.held.insert(seq, Held { item, is_asked });
            } else if self.recent.of(seq, item.id()) == Seen::Other {
                // The next number was believed while the store was asked, and was another
                // message's.
                doubted = Some(doubted.map_or(seq, |known: u64| known.min(seq)));
            }
        }
        // What the store was asked for and does not have never was; what came since is still to be
        // asked for.
        pushed.retain(|seq, held| *seq > covered && !(is_complete && held.is_asked));
        gap.held.append(&mut pushed);
        if !is_complete {
            gap.open_end |= fetch.to == 0;
        }
        if let Some(doubted) = doubted {
            self.doubt(doubted);
        }
        if let Some(end) = answer.end.filter(|end| *end < fetch.after) {
            let from = self.gap.as_ref().and_then(|gap| gap.doubted);
            self.step_back(from.unwrap_or(u64::MAX).saturating_sub(1).min(end), end);
        } else if !self.is_in_doubt() {
            self.release(covered.max(last));
        }
        self.next_fetch()
    }

    /// What the store has of numbers that came out, one of which is doubted.
    fn compared(&mut self, fetch: Fetch, doubted: u64, answer: Answer<T>) -> Option<Fetch> {
        let covered = covered(fetch, &answer.items);
        let wrong = answer
            .items
            .iter()
            .filter(|(seq, item)| self.recent.of(*seq, item.id()) == Seen::Other)
            .map(|(seq, _)| *seq)
            .min();
        let end = answer.end.unwrap_or(fetch.to);
        if wrong.is_some() || end < fetch.to {
            let from = doubted.min(wrong.unwrap_or(doubted)) - 1;
            self.step_back(from.min(end), end);
        } else if answer.more && covered > fetch.after && covered < fetch.to {
            // The page ended before what was asked for did.
            let after = covered;
            return self.start(Fetch { after, ..fetch }, Some(doubted));
        } else if !self.is_in_doubt() {
            self.release(fetch.to);
        }
        self.next_fetch()
    }

    /// `fetch` did not work. Nothing is fetched for this stream until [`Sequencer::retry`], which
    /// the caller calls after a pause.
    pub(super) fn fetch_failed(&mut self, failed: Fetch) {
        let Some(gap) = self.gap.as_mut() else {
            return;
        };
        match gap.phase {
            Phase::Fetching { fetch, doubted } if fetch == failed => {
                gap.phase = Phase::AwaitingRetry;
                match doubted {
                    Some(doubted) => self.doubt(doubted),
                    None => gap.open_end |= fetch.to == 0,
                }
            }
            _ => {}
        }
    }

    /// The pause after a failed fetch is over: the fetch to start now, if one is still needed.
    pub(super) fn retry(&mut self) -> Option<Fetch> {
        if let Some(gap) = self.gap.as_mut()
            && gap.phase == Phase::AwaitingRetry
        {
            gap.phase = Phase::Quiet;
        }
        self.next_fetch()
    }

    /// Pushes may have been lost without a trace, since the bus was away: everything after the last
    /// number has to be fetched. Returns the fetch to start; while another is under way, or the
    /// beginning is not known, it comes after that.
    ///
    /// A stream that begins anywhere, and of which nothing came, misses nothing that could be
    /// named.
    pub(super) fn gap_possible(&mut self) -> Option<Fetch> {
        if self.position == Position::Anywhere {
            return None;
        }
        self.gap.get_or_insert_default().open_end = true;
        self.retry()
    }

    /// Who is to get what comes is not known: all of it is held, and what is fetched meanwhile,
    /// too.
    pub fn pause(&mut self) {
        self.gap.get_or_insert_default().is_paused = true;
    }

    /// It is known again. What may have been missed has to be fetched, as after any gap: what is
    /// held comes out behind it.
    pub fn resume(&mut self) {
        if let Some(gap) = &mut self.gap {
            gap.is_paused = false;
        }
        self.drop_empty_gap();
    }

    fn doubt(&mut self, seq: u64) {
        let gap = self.gap.get_or_insert_default();
        gap.doubted = Some(gap.doubted.map_or(seq, |known| known.min(seq)));
    }

    /// The store ends at `end`, or has another message than came out: from here on what it has
    /// comes out, as far as that did not.
    fn step_back(&mut self, to: u64, end: u64) {
        let last = self.last().unwrap_or(end);
        let to = to.max(end.saturating_sub(STEP_BACK)).min(last);
        self.position = Position::After(to);
        let gap = self.gap.get_or_insert_default();
        gap.doubted = None;
        gap.repeats_to = end.min(last);
        gap.open_end = true;
        gap.step_back = Some(StepBack { to, end });
    }

    /// Moves the last number on to `covered` at least, making ready what is held up to there and
    /// what follows without a hole.
    fn release(&mut self, covered: u64) {
        let floor = self.last().unwrap_or(covered);
        let mut last = floor.max(covered);
        while let Some(gap) = &mut self.gap
            && !gap.is_paused
            && let Some(entry) = gap.held.first_entry()
            && *entry.key() <= last.saturating_add(1)
        {
            let (seq, held) = entry.remove_entry();
            last = last.max(seq);
            if seq > floor && !is_seeded(Mutation::HeldPushIsDropped) {
                let item = self.let_out(seq, held.item);
                self.gap.get_or_insert_default().ready.extend(item);
            }
        }
        self.position = Position::After(last);
        self.drop_empty_gap();
    }

    /// The turn of number `seq` has come; `None`: this very message came out under it before.
    fn let_out(&mut self, seq: u64, mut item: T) -> Option<T> {
        let id = item.id();
        match self.recent.of(seq, id) {
            Seen::Same => return None,
            Seen::Other => {}
            Seen::Never => {
                if self.gap.as_ref().is_some_and(|gap| seq <= gap.repeats_to) {
                    item.mark_repeat();
                }
            }
        }
        self.recent.note(seq, id);
        Some(item)
    }

    /// Starts the fetch that is needed, if one is and may be started.
    fn next_fetch(&mut self) -> Option<Fetch> {
        let last = self.last()?;
        let gap = self.gap.as_mut()?;
        if gap.phase != Phase::Quiet || gap.is_paused {
            return None;
        }
        if let Some(doubted) = gap.doubted.take() {
            if doubted <= last {
                let oldest = self.recent.oldest().unwrap_or(last).min(last);
                let after = doubted.max(oldest) - 1;
                let after = after.max(last.saturating_sub(COMPARED));
                return self.start(Fetch { after, to: last }, Some(doubted));
            }
            // The stream has stepped back before it since.
            gap.open_end = true;
        }
        let to = if std::mem::take(&mut gap.open_end) {
            0
        } else if let Some((greatest, _)) = gap.held.last_key_value() {
            *greatest
        } else {
            self.drop_empty_gap();
            return None;
        };
        for held in gap.held.values_mut() {
            held.is_asked = true;
        }
        self.start(Fetch { after: last, to }, None)
    }

    fn start(&mut self, fetch: Fetch, doubted: Option<u64>) -> Option<Fetch> {
        self.gap.get_or_insert_default().phase = Phase::Fetching { fetch, doubted };
        Some(fetch)
    }

    fn drop_empty_gap(&mut self) {
        let idle = self.gap.as_ref().is_some_and(|gap| {
            gap.phase == Phase::Quiet
                && gap.held.is_empty()
                && gap.ready.is_empty()
                && !gap.open_end
                && gap.doubted.is_none()
                && gap.step_back.is_none()
                && !gap.is_paused
                && self.last().is_some_and(|last| gap.repeats_to <= last)
        });
        if idle {
            self.gap = None;
        }
    }
}

/// Up to which number an answer says what the store has.
fn covered<T>(fetch: Fetch, items: &[(u64, T)]) -> u64 {
    let numbers = items.iter().map(|(seq, _)| *seq);
    numbers.max().unwrap_or(0).max(fetch.after)
}

#[cfg(test)]
mod tests;
