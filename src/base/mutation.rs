//! Rules that a test breaks on purpose, to see that something notices.
//!
//! Each rule asks at the place where it is kept whether its breach is seeded. Only the unit tests
//! of a build with `test-hooks` can seed one; everywhere else the answer is a constant `false`, so
//! that the question is gone from what is built.

/// A breach of one rule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutation {
    /// A repeated push of the last number goes out again.
    NumberComesOutTwice,
    /// What came too early is dropped when its turn has come.
    HeldPushIsDropped,
    /// What comes early is taken for the next number.
    GapIsOverlooked,
    /// A message that comes again is not marked as a repeat.
    RepeatIsUnmarked,
    /// What the kernel took counts as acknowledged by the peer.
    SentCountsAsAcknowledged,
    /// What was pulled ahead of its push is pushed as well.
    PulledIsPushedAgain,
    /// A logout is answered, and the user stays logged in.
    LogoutKeepsLogin,
    /// Who has left a group still gets its messages.
    LeaverStaysMember,
    /// The route of a session that is gone stays bound.
    RouteStaysBound,
    /// The next command is taken up while one is out.
    CommandsOvertake,
    /// The baseline is what the inbox ended at before the route was bound.
    BaselineBeforeBinding,
}

#[cfg(all(test, feature = "test-hooks"))]
thread_local! {
    static SEEDED: std::cell::Cell<Option<Mutation>> = const { std::cell::Cell::new(None) };
}

/// Whether `mutation` is seeded in this thread.
#[cfg(all(test, feature = "test-hooks"))]
pub fn is_seeded(mutation: Mutation) -> bool {
    SEEDED.get() == Some(mutation)
}

/// Whether `mutation` is seeded: never here.
#[cfg(not(all(test, feature = "test-hooks")))]
pub const fn is_seeded(_: Mutation) -> bool {
    false
}

/// Seeds `mutation`, or none, in this thread.
#[cfg(all(test, feature = "test-hooks"))]
pub(crate) fn seed(mutation: Option<Mutation>) {
    SEEDED.set(mutation);
}
