//! Waking a task of a core from the thread of another one.
//!
//! Cores share locks that tasks wait for, such as permits of calls that come one at a time. Whoever
//! gives one back wakes the next task on whatever core it is. The executor of that core would hear
//! of it through its ring, at which a core that waits in its own epoll set does not look: so the
//! wake goes through the core's inbox, like everything that crosses threads.

use std::{
    sync::Arc,
    task::{Context, Wake, Waker},
    thread::{self, ThreadId},
};

use crate::handoff::{event::CoreEvent, inbox::Inbox};

/// Wakes one task, from whatever thread.
struct CrossWaker {
    /// The executor's own, which is for its thread.
    local: Waker,
    home: ThreadId,
    inbox: Arc<Inbox<CoreEvent>>,
}

impl Wake for CrossWaker {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if thread::current().id() == self.home {
            self.local.wake_by_ref();
        } else {
            self.inbox.push_all([CoreEvent::Wake(self.local.clone())]);
        }
    }
}

/// The waker of one task, made once for all its polls.
#[derive(Default)]
pub(super) struct TaskWaker(Option<(Waker, Waker)>);

impl TaskWaker {
    /// What wakes the task that is polled with `context` on this thread.
    pub(super) fn of(&mut self, context: &Context<'_>, inbox: &Arc<Inbox<CoreEvent>>) -> &Waker {
        let is_new = !self
            .0
            .as_ref()
            .is_some_and(|(local, _)| local.will_wake(context.waker()));
        if is_new {
            self.0 = None;
        }
        let (_, crossing) = self.0.get_or_insert_with(|| {
            let local = context.waker().clone();
            let crossing = Arc::new(CrossWaker {
                local: local.clone(),
                home: thread::current().id(),
                inbox: Arc::clone(inbox),
            });
            (local, Waker::from(crossing))
        });
        crossing
    }
}
