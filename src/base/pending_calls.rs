//! Calls under way: who waits for which answer, and until when.
//!
//! Owns the numbers of calls. A number is a slot and, above it, a generation, so that an answer
//! that comes late, twice or under a wrong number finds nothing. Knows no transport and no clock.
//!
//! Invariant: each call ends once, with the first outcome that finds it.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    task::{Poll, Waker},
};

use slab::Slab;

/// The calls of one core; `O` is how a call ends.
pub struct Calls<O> {
    waiting: RefCell<Slab<Waiting<O>>>,
    generation: RefCell<u32>,
    /// No call under way has a deadline before this one; `u64::MAX`: none has any.
    next_deadline_ms: Cell<u64>,
}

struct Waiting<O> {
    generation: u32,
    /// Over which connection it went, as far as there are several.
    connection_id: u64,
    deadline_ms: u64,
    waker: Option<Waker>,
    outcome: Option<O>,
}

impl<O> Default for Calls<O> {
    fn default() -> Self {
        Self {
            waiting: RefCell::default(),
            generation: RefCell::default(),
            next_deadline_ms: Cell::new(u64::MAX),
        }
    }
}

/// A call under way; dropping it gives it up.
pub struct Ticket<'a, O> {
    calls: &'a Calls<O>,
    number: u64,
}

impl<O> Calls<O> {
    /// Begins a call that goes over `connection_id` and ends at `deadline_ms`.
    pub fn begin(&self, connection_id: u64, deadline_ms: u64) -> Ticket<'_, O> {
        let mut generation = self.generation.borrow_mut();
        // Never 0, so that no number is 0; 31 bits, so that half of all numbers are free for
        // others.
        *generation = (*generation % (u32::MAX >> 1)) + 1;
        let slot = self.waiting.borrow_mut().insert(Waiting {
            generation: *generation,
            connection_id,
            deadline_ms,
            waker: None,
            outcome: None,
        });
        assert!(slot <= u32::MAX as usize, "a slot is half a number");
        let next_deadline_ms = self.next_deadline_ms.get().min(deadline_ms);
        self.next_deadline_ms.set(next_deadline_ms);
        Ticket {
            calls: self,
            number: u64::from(*generation) << 32 | slot as u64,
        }
    }

    /// How many calls are under way.
    pub fn len(&self) -> usize {
        self.waiting.borrow().len()
    }

    /// Whether no call is under way.
    pub fn is_empty(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Call `number`, which was to go over `connection_id`, goes over `other` instead.
    pub fn redirect(&self, number: u64, connection_id: u64, other: u64) {
        if let Some(call) = self.waiting.borrow_mut().get_mut(slot(number))
            && call.is(number, connection_id)
        {
            call.connection_id = other;
        }
    }

    /// Whether an answer to call `number` that came over `connection_id` would be taken.
    pub fn is_open(&self, number: u64, connection_id: u64) -> bool {
        self.waiting
            .borrow()
            .get(slot(number))
            .is_some_and(|call| call.is(number, connection_id))
    }

    /// Ends call `number`, which went over `connection_id`; `false`: there is no such call, or it
    /// has ended.
    pub fn finish(&self, number: u64, connection_id: u64, outcome: O) -> bool {
        let waker = {
            let mut waiting = self.waiting.borrow_mut();
            let Some(call) = waiting
                .get_mut(slot(number))
                .filter(|call| call.is(number, connection_id))
            else {
                return false;
            };
            assert!(call.outcome.is_none(), "a call ends once");
            call.outcome = Some(outcome);
            call.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
        true
    }

    /// Ends every call that went over `connection_id`.
    pub fn finish_all(&self, connection_id: u64, outcome: impl Fn() -> O) {
        self.finish_where(|call| call.connection_id == connection_id, outcome);
    }

    /// Ends every call whose deadline has come. Looks at all of them only where one may have: with
    /// calls that are answered in time, once in as long as they may take.
    pub fn expire(&self, now_ms: u64, outcome: impl Fn() -> O) {
        if now_ms < self.next_deadline_ms.get() {
            return;
        }
        self.finish_where(|call| call.deadline_ms <= now_ms, outcome);
        let waiting = self.waiting.borrow();
        let open = waiting.iter().filter(|(_, call)| call.outcome.is_none());
        let next_ms = open.map(|(_, call)| call.deadline_ms).min();
        self.next_deadline_ms.set(next_ms.unwrap_or(u64::MAX));
        assert!(
            self.next_deadline_ms.get() > now_ms,
            "all that are due ended"
        );
    }

    /// When the next deadline comes, at the earliest; `None`: there is none.
    pub fn next_deadline_ms(&self) -> Option<u64> {
        let deadline_ms = self.next_deadline_ms.get();
        (deadline_ms < u64::MAX).then_some(deadline_ms)
    }

    fn finish_where(&self, is_meant: impl Fn(&Waiting<O>) -> bool, outcome: impl Fn() -> O) {
        let wakers: Vec<Waker> = self
            .waiting
            .borrow_mut()
            .iter_mut()
            .filter(|(_, call)| call.outcome.is_none() && is_meant(call))
            .filter_map(|(_, call)| {
                call.outcome = Some(outcome());
                call.waker.take()
            })
            .collect();
        wakers.into_iter().for_each(Waker::wake);
    }
}

impl<O> Waiting<O> {
    fn is(&self, number: u64, connection_id: u64) -> bool {
        u64::from(self.generation) == number >> 32
            && self.connection_id == connection_id
            && self.outcome.is_none()
    }
}

fn slot(number: u64) -> usize {
    number as u32 as usize
}

impl<O> Ticket<'_, O> {
    /// The call's number; never 0.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Waits for the end of the call.
    pub async fn outcome(self) -> O {
        poll_fn(|context| {
            let mut waiting = self.calls.waiting.borrow_mut();
            // The ticket keeps the slot.
            let call = &mut waiting[slot(self.number)];
            assert_eq!(
                u64::from(call.generation),
                self.number >> 32,
                "its own call"
            );
            match call.outcome.take() {
                Some(outcome) => Poll::Ready(outcome),
                None => {
                    call.waker = Some(context.waker().clone());
                    Poll::Pending
                }
            }
        })
        .await
    }
}

impl<O> Drop for Ticket<'_, O> {
    fn drop(&mut self) {
        let ended = self
            .calls
            .waiting
            .borrow_mut()
            .try_remove(slot(self.number));
        debug_assert!(
            ended.is_some_and(|call| u64::from(call.generation) == self.number >> 32),
            "a ticket keeps its own slot"
        );
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;

    #[test]
    fn a_call_ends_once_and_only_under_its_own_number_and_connection() {
        let calls = Calls::default();
        let ticket = calls.begin(7, 100);
        let number = ticket.number();
        assert!(!calls.finish(number ^ 1 << 32, 7, "wrong generation"));
        assert!(!calls.finish(number, 8, "wrong connection"));
        assert!(!calls.finish(number + 1, 7, "wrong slot"));
        assert!(calls.finish(number, 7, "right"));
        assert!(!calls.finish(number, 7, "twice"));
        assert_eq!(block_on(ticket.outcome()), "right");
        assert!(!calls.finish(number, 7, "late"));
        assert!(calls.is_empty());
    }

    #[test]
    fn the_next_tenant_of_a_slot_gets_no_answer_of_the_last_one() {
        let calls = Calls::default();
        let first = calls.begin(0, 100).number();
        let second = calls.begin(0, 100);
        assert_eq!(slot(first), slot(second.number()));
        assert!(!calls.finish(first, 0, "late"));
        assert!(calls.finish(second.number(), 0, "mine"));
    }

    #[test]
    fn deadlines_and_lost_connections_end_the_calls_they_concern() {
        let calls = Calls::default();
        let (early, late, other) = (calls.begin(1, 10), calls.begin(1, 20), calls.begin(2, 20));
        calls.expire(10, || "late");
        calls.finish_all(1, || "lost");
        assert_eq!(block_on(early.outcome()), "late");
        assert_eq!(block_on(late.outcome()), "lost");
        assert_eq!(block_on(poll_once(other.outcome())), None);
        assert!(calls.is_empty(), "a dropped call is given up");
    }

    #[test]
    fn the_next_deadline_is_never_later_than_that_of_any_call() {
        let calls = Calls::default();
        assert_eq!(calls.next_deadline_ms(), None);
        let (late, early) = (calls.begin(0, 30), calls.begin(0, 10));
        assert_eq!(calls.next_deadline_ms(), Some(10));
        assert!(calls.finish(early.number(), 0, "in time"));
        calls.expire(9, || "late");
        assert_eq!(calls.next_deadline_ms(), Some(10), "not looked for yet");
        calls.expire(10, || "late");
        assert_eq!(calls.next_deadline_ms(), Some(30));
        calls.expire(31, || "late");
        assert_eq!(calls.next_deadline_ms(), None);
        assert_eq!(block_on(late.outcome()), "late");
    }
}
