//! A core's inbox: everything that other threads hand to it, in order, with one wake-up per batch.
//!
//! Bounded for pushes: past the bound they are dropped and the core is told that there is a gap,
//! which it closes from the store. Replies are never dropped: there are no more of them than calls
//! the core itself has under way.

use std::{
    io, mem,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
};

use rustix::event::{EventfdFlags, eventfd};

/// An inbox for items of type `T`.
pub struct Inbox<T> {
    queue: Mutex<Queue<T>>,
    /// The core is about to sleep: the next one to add something must wake it.
    armed: AtomicBool,
    wake: OwnedFd,
    capacity: usize,
}

struct Queue<T> {
    items: Vec<T>,
    dropped: usize,
}

impl<T> Inbox<T> {
    /// An inbox that takes droppable items up to `capacity`.
    ///
    /// # Errors
    /// Where no descriptor is free.
    pub fn new(capacity: usize) -> io::Result<Self> {
        Ok(Self {
            queue: Mutex::new(Queue {
                items: Vec::new(),
                dropped: 0,
            }),
            armed: AtomicBool::new(false),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            capacity,
        })
    }

    /// Adds items that must arrive.
    pub fn push_all(&self, items: impl IntoIterator<Item = T>) {
        self.lock().items.extend(items);
        self.wake();
    }

    /// Adds items as long as there is room; the rest is dropped and remembered as a gap. Wakes
    /// nobody: [`Self::wake`] or what must arrive does, so that both come with one wake-up.
    pub fn offer_all(&self, items: impl IntoIterator<Item = T>) {
        let mut queue = self.lock();
        for item in items {
            if queue.items.len() < self.capacity {
                queue.items.push(item);
            } else {
                queue.dropped += 1;
            }
        }
    }

    /// Moves everything into the empty vector `into`; says how many were dropped since the last
    /// time.
    pub fn take_all(&self, into: &mut Vec<T>) -> usize {
        debug_assert!(into.is_empty());
        let mut queue = self.lock();
        mem::swap(&mut queue.items, into);
        mem::take(&mut queue.dropped)
    }

    /// Announces that the core is going to sleep; `false`: do not, there is something to take.
    pub fn arm(&self) -> bool {
        self.armed.store(true, Ordering::SeqCst);
        let idle = {
            let queue = self.lock();
            queue.items.is_empty() && queue.dropped == 0
        };
        if !idle {
            self.armed.store(false, Ordering::SeqCst);
        }
        idle
    }

    /// Announces that the core is awake and will look by itself.
    pub fn disarm(&self) {
        self.armed.store(false, Ordering::SeqCst);
    }

    /// Wakes the core if it sleeps.
    pub fn wake(&self) {
        if self.armed.swap(false, Ordering::SeqCst) {
            // It fails only where the counter is full, and then the core is woken anyway.
            let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Queue<T>> {
        // A panic elsewhere cannot leave a vector half changed.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> AsFd for Inbox<T> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.wake.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_arrive_in_order_and_what_does_not_fit_is_reported_once() {
        let inbox = Inbox::new(3).expect("an inbox");
        inbox.push_all([1, 2]);
        inbox.offer_all([3, 4, 5]);
        // What must arrive is taken past the bound.
        inbox.push_all([6]);
        let mut items = Vec::new();
        assert_eq!(inbox.take_all(&mut items), 2);
        assert_eq!(items, [1, 2, 3, 6]);
        items.clear();
        assert_eq!(inbox.take_all(&mut items), 0);
        assert!(items.is_empty());
    }

    #[test]
    fn a_core_that_wants_to_sleep_is_told_of_what_came_before() {
        let inbox = Inbox::new(3).expect("an inbox");
        assert!(inbox.arm());
        inbox.disarm();
        inbox.push_all([1]);
        assert!(!inbox.arm());
    }

    #[test]
    fn one_wake_up_is_sent_for_all_that_is_added_after_arming() {
        let inbox = Inbox::new(3).expect("an inbox");
        assert!(inbox.arm());
        inbox.offer_all([1]);
        let mut counter = [0; 8];
        rustix::io::read(&inbox.wake, &mut counter).expect_err("no wake-up yet");
        inbox.push_all([2]);
        inbox.push_all([3]);
        inbox.wake();
        rustix::io::read(&inbox.wake, &mut counter).expect("a wake-up");
        assert_eq!(u64::from_ne_bytes(counter), 1);
    }
}
