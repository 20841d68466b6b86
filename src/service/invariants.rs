//! What must always hold in the services, by number.
//!
//! - **S1** The ranges of a set ascend, neither overlap nor touch, and are as long together as the
//!   set says.
//! - **S2** A cursor's membership begins no later than its floor, and its floor is as high as it
//!   can be: what is confirmed above it does not adjoin it. Nothing up to it counts as handed out.
//! - **S3** A session of a user is bound once. Where routes live in memory, a user of the table has
//!   one for each device, and none expires.
//! - **S4** The text of a route is shared once, and of so many routes at most.
//! - **S5** Of a batch that is over nothing is left: nothing to be taken back, nothing counted.
//! - **S6** Each departure that is to be told stands in the order of time; so many at most.
//! - **S7** As many items wait in a fair queue as in its lanes, in none more than may; a key that
//!   has some and is not being served has one turn, and nobody else has.
//! - **S8** A network with passwords waiting has one turn, and nobody else has.
//!
//! In debug builds S1 and S2 are checked where a cursor has changed, S3 to S6 after each batch
//! while there are few users, S7 and S8 with each change while few wait. The property tests and
//! those of the engine check them after every step.

use super::{engine::Engine, store::Storage};

/// How many users, departures or items one check may cost to look at.
#[cfg(debug_assertions)]
pub(super) const CHECKED: usize = 256;

impl<S: Storage> Engine<S> {
    /// A batch is over: in debug builds, what must always hold is checked.
    pub(super) fn check_invariants(&self) {
        #[cfg(debug_assertions)]
        if self.presence.len().max(self.departures.len()) <= CHECKED {
            self.assert_invariants();
        }
    }

    /// Checks what must always hold between two batches; takes as long as there are users.
    ///
    /// # Panics
    /// If something does not.
    #[cfg(any(test, debug_assertions))]
    pub(super) fn assert_invariants(&self) {
        self.presence.assert_invariants();
        self.departures.assert_invariants();
        assert_eq!(
            (self.stored_messages, self.swept_messages),
            (0, 0),
            "S5: counted, and not committed"
        );
    }
}
