//! The timers of one core: who is to be woken when.
//!
//! Owns a moment and a waker for each pause under way. Told the time by the core's loop, which also
//! asks when the next one is due and waits no longer than that. Knows no clock.
//!
//! Invariant: a pause is over with the first [`Timers::advance`] that reaches its end, never
//! before.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Duration,
};

/// The timers of one core.
#[derive(Debug, Default)]
pub struct Timers {
    now_us: Cell<u64>,
    next_number: Cell<u64>,
    waiting: RefCell<BTreeMap<Timer, Waker>>,
}

/// One pause: when it ends, and a number that tells it from others that end then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Timer {
    due_us: u64,
    number: u64,
}

impl Timers {
    /// A pause of `length` that begins now.
    pub fn sleep(self: &Rc<Self>, length: Duration) -> Sleep {
        let length_us = u64::try_from(length.as_micros()).unwrap_or(u64::MAX);
        let number = self.next_number.get();
        self.next_number.set(number + 1);
        Sleep {
            timers: Rc::clone(self),
            timer: Timer {
                due_us: self.now_us.get().saturating_add(length_us),
                number,
            },
        }
    }

    /// Tells the time and wakes everybody whose pause is over.
    pub fn advance(&self, now_us: u64) {
        assert!(now_us >= self.now_us.get(), "time does not go back");
        self.now_us.set(now_us);
        loop {
            let waker = {
                let mut waiting = self.waiting.borrow_mut();
                match waiting.first_entry() {
                    Some(first) if first.key().due_us <= now_us => first.remove(),
                    _ => break,
                }
            };
            waker.wake();
        }
        debug_assert!(self.next_us().is_none_or(|due_us| due_us > now_us));
    }

    /// When the next pause ends.
    pub(super) fn next_us(&self) -> Option<u64> {
        let waiting = self.waiting.borrow();
        waiting.first_key_value().map(|(timer, _)| timer.due_us)
    }
}

/// A pause under way; dropping it ends it.
#[derive(Debug)]
pub struct Sleep {
    timers: Rc<Timers>,
    timer: Timer,
}

impl Future for Sleep {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        if self.timers.now_us.get() >= self.timer.due_us {
            return Poll::Ready(());
        }
        let mut waiting = self.timers.waiting.borrow_mut();
        waiting.insert(self.timer, context.waker().clone());
        Poll::Pending
    }
}

impl Drop for Sleep {
    fn drop(&mut self) {
        let waker = self.timers.waiting.borrow_mut().remove(&self.timer);
        // Outside the borrow: a waker may be the last of its task, which may own pauses.
        drop(waker);
    }
}

#[cfg(test)]
mod tests {
    use futures_lite::future::{block_on, poll_once};

    use super::*;

    const MS: u64 = 1000;

    fn is_over(pause: &mut Sleep) -> bool {
        block_on(poll_once(pause)).is_some()
    }

    #[test]
    fn a_pause_ends_at_its_time_and_not_before() {
        let timers = Rc::<Timers>::default();
        timers.advance(7 * MS);
        let mut short = timers.sleep(Duration::from_millis(3));
        let mut long = timers.sleep(Duration::from_millis(9));
        assert!(!is_over(&mut long) && !is_over(&mut short));
        assert_eq!(timers.next_us(), Some(10 * MS));
        timers.advance(10 * MS - 1);
        assert!(!is_over(&mut short));
        timers.advance(10 * MS);
        assert!(is_over(&mut short) && !is_over(&mut long));
        assert_eq!(timers.next_us(), Some(16 * MS));
    }

    #[test]
    fn pauses_that_end_together_all_end_and_one_that_was_given_up_wakes_nobody() {
        let timers = Rc::<Timers>::default();
        let mut pauses: Vec<Sleep> = (0..3)
            .map(|_| timers.sleep(Duration::from_millis(1)))
            .collect();
        pauses.iter_mut().for_each(|pause| assert!(!is_over(pause)));
        pauses.remove(1);
        assert_eq!(timers.waiting.borrow().len(), 2);
        timers.advance(MS);
        assert!(pauses.iter_mut().all(is_over));
        assert_eq!(timers.next_us(), None);
    }

    #[test]
    fn a_pause_longer_than_time_itself_never_ends() {
        let timers = Rc::<Timers>::default();
        timers.advance(1);
        let mut pause = timers.sleep(Duration::MAX);
        assert!(!is_over(&mut pause));
        timers.advance(u64::MAX - 1);
        assert!(!is_over(&mut pause));
    }
}
