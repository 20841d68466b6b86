//! What the tasks of one core run on.

use std::{rc::Rc, sync::Arc};

use super::{poller::Poller, tasks::Tasks, timers::Timers, upstream::Upstreams};
use crate::handoff::{event::CoreEvent, inbox::Inbox};

/// Starts tasks, lets them pause, and opens sockets for them. Whatever wakes a task is here, or is
/// another task, or comes by the core's inbox: so the loop knows of everything that can.
pub struct Runtime {
    /// The tasks beside the loop.
    pub tasks: Tasks,
    /// Their pauses.
    pub timers: Rc<Timers>,
    /// The sockets they opened.
    pub(super) upstreams: Rc<Upstreams>,
}

impl Runtime {
    /// Of the core that waits in `poller` and has this `inbox`.
    pub fn new(poller: &Poller, inbox: Arc<Inbox<CoreEvent>>) -> Rc<Self> {
        let timers = Rc::<Timers>::default();
        Rc::new(Self {
            tasks: Tasks::new(inbox),
            upstreams: Upstreams::new(poller.set(), Rc::clone(&timers)),
            timers,
        })
    }
}
