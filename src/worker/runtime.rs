//! What the tasks of one core run on.

use std::{rc::Rc, sync::Arc};

use super::{outbound::OutboundConnections, poller::Poller, tasks::Tasks, timers::Timers};
use crate::handoff::{event::CoreEvent, inbox::Inbox};

/// Starts tasks, lets them pause, and opens sockets for them. Whatever wakes a task is here, or is
/// another task, or comes by the core's inbox: so the loop knows of everything that can.
pub struct Runtime {
    /// The tasks beside the loop.
    pub tasks: Tasks,
    /// Their pauses.
    pub timers: Rc<Timers>,
    /// The sockets they opened.
    pub(super) outbound: Rc<OutboundConnections>,
}

impl Runtime {
    /// Of the core that waits in `poller` and has this `inbox`.
    pub fn new(poller: &Poller, inbox: Arc<Inbox<CoreEvent>>) -> Rc<Self> {
        let timers = Rc::<Timers>::default();
        Rc::new(Self {
            tasks: Tasks::new(inbox),
            outbound: OutboundConnections::new(poller.set(), Rc::clone(&timers)),
            timers,
        })
    }
}
