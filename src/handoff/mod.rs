//! All that crosses threads: to a core what is an [`event`] by its [`inbox`], and to a task of
//! another thread anything by a [`task_queue`].
//!
//! A core never waits for another thread. It is handed things in order, and woken once for all that
//! came since it looked.

pub mod event;
pub mod inbox;
pub mod task_queue;
