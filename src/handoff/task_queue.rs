//! From other threads to one task: items in order, and one wake-up for all that came while the task
//! slept.
//!
//! Owns the crossing and its bound. Never blocks: what is offered and does not fit is refused, and
//! the task is told that something was. A core's own queue is the [`inbox`](super::inbox), for a
//! core that sleeps is woken by an event in its epoll set.

use std::{
    collections::VecDeque,
    mem,
    sync::{Mutex, MutexGuard, PoisonError},
    task::Waker,
};

/// See the module's description.
pub struct TaskQueue<T> {
    state: Mutex<State<T>>,
    /// What an item counts in `capacity`.
    weight: fn(&T) -> usize,
    capacity: usize,
}

struct State<T> {
    items: VecDeque<T>,
    weight: usize,
    is_open: bool,
    has_refused: bool,
    is_finished: bool,
    /// Set while the task sleeps; taken by whoever wakes it.
    waker: Option<Waker>,
}

/// Why an item was not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// Nothing is taken at present.
    Closed,
    /// There is no room.
    Full,
}

/// What the task finds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Found {
    /// Items were refused, or dropped, since the last time.
    pub has_lost: bool,
    /// Nothing is left, and nothing will follow.
    pub is_finished: bool,
}

impl<T> TaskQueue<T> {
    /// An open queue for items that weigh no more than `capacity` together.
    pub fn new(capacity: usize, weight: fn(&T) -> usize) -> Self {
        let state = State {
            items: VecDeque::new(),
            weight: 0,
            is_open: true,
            has_refused: false,
            is_finished: false,
            waker: None,
        };
        Self {
            state: Mutex::new(state),
            weight,
            capacity,
        }
    }

    /// The same, closed: it refuses what it is offered until [`open`](Self::open).
    pub fn closed(capacity: usize, weight: fn(&T) -> usize) -> Self {
        let queue = Self::new(capacity, weight);
        queue.lock().is_open = false;
        queue
    }

    /// Takes an item.
    ///
    /// # Errors
    /// Why it is dropped instead.
    pub fn offer(&self, item: T) -> Result<(), Refused> {
        let weight = (self.weight)(&item);
        let mut state = self.lock();
        let refused = if !state.is_open {
            Some(Refused::Closed)
        } else if weight > self.capacity - state.weight {
            Some(Refused::Full)
        } else {
            None
        };
        if let Some(refused) = refused {
            state.has_refused = true;
            return Err(refused);
        }
        state.weight += weight;
        state.items.push_back(item);
        self.wake(state);
        Ok(())
    }

    /// Takes items of which there are never more than fit, as each answers something that is
    /// counted elsewhere.
    pub fn push_all(&self, items: Vec<T>) {
        let weight: usize = items.iter().map(self.weight).sum();
        let mut state = self.lock();
        state.weight += weight;
        if state.items.is_empty() {
            state.items = items.into();
        } else {
            state.items.extend(items);
        }
        self.wake(state);
    }

    /// From now on items are taken; what was refused before is forgotten.
    pub fn open(&self) {
        let mut state = self.lock();
        assert!(state.items.is_empty(), "what is closed keeps nothing");
        state.is_open = true;
        state.has_refused = false;
    }

    /// From now on items are refused; gives back what waits, which counts as refused.
    pub fn close(&self) -> VecDeque<T> {
        let mut state = self.lock();
        state.is_open = false;
        state.weight = 0;
        let items = mem::take(&mut state.items);
        state.has_refused |= !items.is_empty();
        self.check(&state);
        items
    }

    /// Nothing will follow.
    pub fn finish(&self) {
        let mut state = self.lock();
        state.is_finished = true;
        self.wake(state);
    }

    /// Moves the oldest items into the empty `into`, up to the one that makes them weigh `room` or
    /// more, and has `waker` woken when further ones come.
    pub fn take(&self, room: usize, into: &mut VecDeque<T>, waker: &Waker) -> Found {
        assert!(into.is_empty(), "what was taken is dealt with");
        let mut state = self.lock();
        if state.weight <= room {
            mem::swap(&mut state.items, into);
            state.weight = 0;
        } else {
            let rest = state.weight - room;
            while state.weight > rest
                && let Some(item) = state.items.pop_front()
            {
                state.weight -= (self.weight)(&item);
                into.push_back(item);
            }
        }
        self.check(&state);
        wake_later(&mut state.waker, waker);
        Found {
            has_lost: mem::take(&mut state.has_refused),
            is_finished: state.is_finished && state.items.is_empty(),
        }
    }

    /// Whether nothing will follow; if not yet, `waker` is woken then.
    pub fn is_finished(&self, waker: &Waker) -> bool {
        let mut state = self.lock();
        wake_later(&mut state.waker, waker);
        state.is_finished
    }

    /// Wakes the task, if it sleeps, once the lock is free.
    fn wake(&self, mut state: MutexGuard<'_, State<T>>) {
        self.check(&state);
        let waker = state.waker.take();
        drop(state);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn check(&self, state: &State<T>) {
        debug_assert!(state.is_open || state.items.is_empty());
        debug_assert!(
            state.weight <= self.capacity,
            "{} weigh too much",
            state.weight
        );
        debug_assert_eq!(
            state.weight,
            state.items.iter().map(self.weight).sum::<usize>()
        );
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        // A panic elsewhere cannot leave the state half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake_later(place: &mut Option<Waker>, waker: &Waker) {
    match place {
        Some(known) => known.clone_from(waker),
        none => *none = Some(waker.clone()),
    }
}

#[cfg(test)]
mod tests {
    use std::{
        sync::{
            Arc,
            atomic::{AtomicUsize, Ordering},
        },
        task::Wake,
    };

    use super::*;

    /// A queue of numbers that weigh what they say.
    fn queue() -> TaskQueue<usize> {
        TaskQueue::new(10, |number| *number)
    }

    fn take(queue: &TaskQueue<usize>, room: usize) -> (Vec<usize>, Found) {
        let mut taken = VecDeque::new();
        let found = queue.take(room, &mut taken, Waker::noop());
        (taken.into(), found)
    }

    #[test]
    fn what_waits_is_taken_in_order_and_no_more_than_there_is_room_for() {
        let queue = queue();
        queue.push_all(vec![1, 2]);
        queue.push_all(vec![3]);
        assert_eq!(queue.offer(4), Ok(()));
        queue.finish();
        let last = Found {
            is_finished: true,
            ..Found::default()
        };
        assert_eq!(take(&queue, 1), (vec![1], Found::default()));
        assert_eq!(take(&queue, 4), (vec![2, 3], Found::default()));
        assert_eq!(take(&queue, 100), (vec![4], last));
    }

    #[test]
    fn what_does_not_fit_is_refused_and_told_once() {
        let queue = queue();
        assert_eq!(queue.offer(7), Ok(()));
        assert_eq!(queue.offer(4), Err(Refused::Full));
        assert_eq!(queue.offer(3), Ok(()));
        let (taken, found) = take(&queue, 100);
        assert_eq!((taken, found.has_lost), (vec![7, 3], true));
        assert!(!take(&queue, 100).1.has_lost);
    }

    #[test]
    fn what_is_closed_takes_and_keeps_nothing() {
        let queue = TaskQueue::closed(10, |number: &usize| *number);
        assert_eq!(queue.offer(1), Err(Refused::Closed));
        queue.open();
        assert_eq!(queue.offer(2), Ok(()));
        assert_eq!(queue.close(), [2]);
        assert_eq!(queue.offer(3), Err(Refused::Closed));
        let (taken, found) = take(&queue, 100);
        assert_eq!((taken, found.has_lost), (vec![], true));
    }

    #[test]
    fn a_task_is_woken_once_for_all_that_comes_while_it_sleeps() {
        struct Count(AtomicUsize);
        impl Wake for Count {
            fn wake(self: Arc<Self>) {
                self.0.fetch_add(1, Ordering::Relaxed);
            }
        }
        let count = Arc::new(Count(AtomicUsize::new(0)));
        let waker = Waker::from(Arc::clone(&count));
        let queue = queue();
        assert!(!queue.is_finished(&waker));
        queue.push_all(vec![1]);
        queue.push_all(vec![2]);
        assert_eq!(count.0.load(Ordering::Relaxed), 1);
        queue.take(100, &mut VecDeque::new(), &waker);
        queue.finish();
        assert_eq!(count.0.load(Ordering::Relaxed), 2);
    }
}
