//! The tasks of one core beside its loop: starting them, and letting them run until none is ready.
//!
//! Owns a count of how often tasks ran. The executor has one queue, first in, first out. A loop
//! that goes to its end and comes round without a task having run in between was alone in it:
//! nobody is ready, and only an event or the clock can change that. So the loop may block its
//! thread. A wake from the thread of another core is such an event: it comes by the inbox, as
//! [`CoreEvent::Wake`] (`cross_waker`).
//!
//! Invariant: every task of the executor but the loop is started here; `tests/layout.rs` sees to
//! that.

use std::{
    cell::Cell,
    future::{Future, poll_fn},
    pin::pin,
    rc::Rc,
    sync::Arc,
    task::Context,
};

use futures_lite::future::yield_now;

use super::cross_waker::TaskWaker;
use crate::handoff::{event::CoreEvent, inbox::Inbox};

/// Starts tasks on the executor of this thread.
pub struct Tasks {
    /// How often a task ran.
    runs: Rc<Cell<u64>>,
    /// By which other cores wake them.
    inbox: Arc<Inbox<CoreEvent>>,
}

impl Tasks {
    /// Tasks of the core with this inbox.
    pub(super) fn new(inbox: Arc<Inbox<CoreEvent>>) -> Self {
        Self {
            runs: Rc::default(),
            inbox,
        }
    }

    /// Starts `task`, which runs at once until it first waits.
    pub fn spawn(&self, task: impl Future<Output = ()> + 'static) {
        let (runs, inbox) = (Rc::clone(&self.runs), Arc::clone(&self.inbox));
        glommio::spawn_local(async move {
            let mut task = pin!(task);
            let mut waker = TaskWaker::default();
            poll_fn(|context| {
                runs.set(runs.get() + 1);
                let waker = waker.of(context, &inbox);
                task.as_mut().poll(&mut Context::from_waker(waker))
            })
            .await;
        })
        .detach();
    }

    /// Lets each task run that is ready; `false`: none was.
    pub(super) async fn give_way(&self) -> bool {
        let before = self.runs.get();
        yield_now().await;
        self.runs.get() != before
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use glommio::LocalExecutorBuilder;

    use super::*;

    fn tasks() -> Tasks {
        Tasks::new(Arc::new(Inbox::new(16).expect("an inbox")))
    }

    /// What a task waits for.
    struct Bell {
        rung: Cell<bool>,
        waker: Cell<Option<Waker>>,
    }

    impl Bell {
        fn new() -> Rc<Self> {
            Rc::new(Self {
                rung: Cell::new(false),
                waker: Cell::new(None),
            })
        }

        fn ring(&self) {
            self.rung.set(true);
            if let Some(waker) = self.waker.take() {
                waker.wake();
            }
        }

        async fn wait(&self) {
            poll_fn(|context| {
                if self.rung.replace(false) {
                    return std::task::Poll::Ready(());
                }
                self.waker.set(Some(context.waker().clone()));
                std::task::Poll::Pending
            })
            .await;
        }
    }

    #[test]
    fn nobody_is_ready_when_the_loop_came_round_alone() {
        const LINKS: usize = 20;
        let executor = LocalExecutorBuilder::default().make().expect("an executor");
        executor.run(async {
            let tasks = tasks();
            let bells: Vec<_> = (0..=LINKS).map(|_| Bell::new()).collect();
            for link in (0..LINKS).rev() {
                let (own, next) = (Rc::clone(&bells[link]), Rc::clone(&bells[link + 1]));
                tasks.spawn(async move {
                    loop {
                        own.wait().await;
                        next.ring();
                    }
                });
            }
            assert!(!tasks.give_way().await, "all wait");
            for _ in 0..3 {
                bells[0].ring();
                let mut rounds = 0;
                while tasks.give_way().await {
                    rounds += 1;
                }
                assert!(bells[LINKS].rung.replace(false), "the last one was woken");
                assert_eq!(rounds, LINKS, "one link a round");
                assert!(!tasks.give_way().await, "and it stays so");
            }
        });
    }

    #[test]
    fn a_task_that_wakes_itself_is_always_ready() {
        let executor = LocalExecutorBuilder::default().make().expect("an executor");
        executor.run(async {
            let tasks = tasks();
            let restless = Rc::new(Cell::new(true));
            let stop = Rc::clone(&restless);
            tasks.spawn(async move {
                while restless.get() {
                    yield_now().await;
                }
            });
            for _ in 0..100 {
                assert!(tasks.give_way().await);
            }
            stop.set(false);
            assert!(tasks.give_way().await);
            assert!(!tasks.give_way().await);
        });
    }

    #[test]
    fn a_task_that_another_thread_wakes_is_ready_once_the_inbox_is_emptied() {
        let executor = LocalExecutorBuilder::default().make().expect("an executor");
        executor.run(async {
            let inbox = Arc::new(Inbox::new(16).expect("an inbox"));
            let tasks = Tasks::new(Arc::clone(&inbox));
            let lock = Arc::new(async_lock::Mutex::new(()));
            let (held, done) = (lock.lock_arc().await, Rc::new(Cell::new(false)));
            let told = Rc::clone(&done);
            tasks.spawn(async move {
                lock.lock().await;
                told.set(true);
            });
            assert!(!tasks.give_way().await, "it waits for the lock");
            assert!(inbox.arm(), "nothing is in it");
            let other = std::thread::spawn(move || drop(held));
            other.join().expect("the lock is given back");
            let mut events = Vec::new();
            inbox.take_all(&mut events);
            let Some(CoreEvent::Wake(waker)) = events.pop() else {
                panic!("the core was not woken");
            };
            waker.wake();
            assert!(tasks.give_way().await);
            assert!(done.get());
        });
    }
}
