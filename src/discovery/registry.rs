//! What discovery asks of the system that keeps what is registered.
//!
//! Owns the words for it: an entry has data, an owner and a version; a session owns the entries it
//! made, which vanish with it. Whose an entry is and what becomes of it is judged elsewhere, the
//! same over every registry. `zookeeper/` is one; over etcd a session is a lease, a version the
//! revisions of a key, and a claim a transaction that compares them.

use std::{panic::AssertUnwindSafe, time::Duration};

use futures_lite::FutureExt;

use crate::metrics::Discovery;

/// Makes one session after the other.
pub(super) trait Registry {
    /// What it is called in logs.
    const NAME: &'static str;
    /// A session with it.
    type Session: Session;

    /// A new session. Tries until there is one.
    async fn begin(&mut self) -> Self::Session;

    /// The session is lost, or of no more use: what it left is ours to clear away.
    fn lost(&mut self);

    /// Ends the session, so that its entries vanish at once and not after its time-out. The last
    /// [`Session`] must be gone.
    async fn close(self);
}

/// One session: what stands in the registry is read and written with it. Paths begin with `/`.
pub(super) trait Session {
    /// Tells of the session's states as they change.
    type States: States;
    /// Tells what changes under some paths.
    type Watch: Watch;

    /// How long entries stay after their session has fallen silent.
    fn timeout(&self) -> Duration;

    /// How it is now.
    fn state(&self) -> State;

    /// The same in the registry's own words.
    fn state_text(&self) -> String;

    /// How it will be.
    fn states(&self) -> Self::States;

    /// What stands at `path`; `None`: nothing.
    async fn read(&self, path: &str) -> Result<Option<Entry>, RegistryError>;

    /// What stands at each of `paths`, which are few, asked for all at one time.
    async fn read_all(&self, paths: &[String]) -> Result<Vec<Content>, RegistryError>;

    /// The names below `path`, of which there are none where nothing stands.
    async fn list(&self, path: &str) -> Result<Vec<String>, RegistryError>;

    /// Makes the folder at `path` and those above it, where a registry has folders.
    async fn ensure(&self, path: &str) -> Result<(), RegistryError>;

    /// Makes an entry of this session. Says whether the path was free.
    async fn create(&self, path: &str, data: &[u8]) -> Result<bool, RegistryError>;

    /// Puts an entry of this session at `path`, where `seen` stood when it was read (`None`:
    /// nothing), in one step. Says whether that was still so; if not, it has to be read and judged
    /// again. All entries of a folder have to be made by this, or none.
    async fn claim(
        &self,
        path: &str,
        seen: Option<Version>,
        data: &[u8],
    ) -> Result<bool, RegistryError>;

    /// Puts an entry of this session in the place of the one that was `seen`: nobody sees the path
    /// empty. Says whether that one was still there; one that came after it and was never written
    /// to may be taken for it. So this is for entries that a process may lose to another without
    /// harm; [`Self::claim`] is for those that it must not.
    async fn replace(&self, path: &str, seen: Version, data: &[u8]) -> Result<bool, RegistryError>;

    /// Has the session's own entry at `path` say something else.
    async fn rewrite(&self, path: &str, data: &[u8]) -> Result<(), RegistryError>;

    /// Writes an entry that outlives its session where `seen` stood when it was read (`None`:
    /// nothing). Says whether that was still so.
    async fn write(
        &self,
        path: &str,
        seen: Option<Version>,
        data: &[u8],
    ) -> Result<bool, RegistryError>;

    /// Watches everything at and below `paths`.
    async fn watch(&self, paths: &[String]) -> Result<Self::Watch, RegistryError>;
}

/// Changes under the paths that are watched.
pub(super) trait Watch {
    /// The number of a path under which something changed. Waits for ever once the session has
    /// ended; events of times without a connection are lost.
    async fn changed(&mut self) -> usize;
}

/// The states of a session from some time on.
pub(super) trait States {
    /// The next one.
    async fn changed(&mut self) -> State;
}

/// Whether a session can be asked anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// It can.
    Connected,
    /// Not now.
    Disconnected,
    /// Never again.
    Ended,
}

impl State {
    /// Whether a session can go from this state to `next`: it comes to life once and ends once.
    fn may_become(self, next: Self) -> bool {
        self != Self::Ended || next == Self::Ended
    }
}

/// What stands at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) data: Vec<u8>,
    pub(super) owner: Owner,
    pub(super) version: Version,
}

/// Tells an entry from those that stood at its path before, and its data from what it said before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Version {
    /// When the entry was made, as the registry counts.
    pub(super) made: i64,
    /// How it was written since.
    pub(super) written: i32,
}

/// Who owns an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// This session.
    Us,
    /// An earlier session of this process.
    UsBefore,
    /// Some other session, or none.
    Other,
}

/// What was found at one of several paths.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// This.
    Data(Vec<u8>),
    /// Nothing, any more.
    Missing,
    /// What may not be read, and why.
    Refused(String),
}

/// Why the registry did not do what it was asked.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RegistryError {
    /// The folder of the entry does not exist.
    #[error("its folder does not exist")]
    NoFolder,
    /// Asking again would not help.
    #[error("{0}")]
    Refused(String),
    /// It may do it when it is asked again.
    #[error("{0}")]
    Failed(String),
}

/// Follows the state of `session` into `metrics`. Returns when it has ended.
pub(super) async fn ended<R: Registry>(session: &R::Session, metrics: &Discovery) {
    let name = R::NAME;
    let mut states = session.states();
    let mut state = session.state();
    while state != State::Ended {
        metrics.set_connected(state == State::Connected);
        let next = states.changed().await;
        assert!(state.may_become(next), "{state:?} became {next:?}");
        state = next;
        match state {
            State::Connected => {
                metrics.disconnected.end();
                log::info!("{name}: connected again");
            }
            State::Disconnected => {
                let reason = format!("the connection to {name} is lost");
                if metrics.disconnected.report(&reason) {
                    log::warn!("{name}: connection lost");
                }
            }
            State::Ended => {
                let how = session.state_text();
                let reason = format!("the session with {name} has ended: {how}");
                metrics.disconnected.report(&reason);
                log::warn!("{name}: the session has ended: {how}");
            }
        }
    }
}

/// Waits until `length` is over or the state of the session has changed.
pub(super) async fn pause(states: &mut impl States, length: Duration) {
    // A state that has changed and the end of the wait are the same to the caller: look again.
    let _ = tokio::time::timeout(length, states.changed()).await;
}

/// Runs `work`, which uses the session. A panic in it, such as one of the
/// client's own assertions, ends the session and not the control thread: `None`.
pub(super) async fn contained<T>(name: &str, work: impl Future<Output = T>) -> Option<T> {
    match AssertUnwindSafe(work).catch_unwind().await {
        Ok(outcome) => Some(outcome),
        Err(_) => {
            log::error!("{name}: the session's work panicked; beginning another session");
            None
        }
    }
}
