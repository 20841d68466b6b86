//! The reference services, User, Presence, Message and Group, over one SQLite file, which several
//! processes can share.
//!
//! Owns the threads that serve them and the way in and out: a bounded queue of [`Call`]s, a
//! [`ReplySink`] per caller, a [`Publisher`] for pushes. Never knows a session or a socket.
//!
//! ```text
//! core ── Call ──▶ queue ──▶ store thread: fair queue → batch → transaction → commit → publish pushes → complete replies
//!                    ▲                            │ login, registration
//!                    └──── verdict ── password threads ◀──┘
//! ```
//!
//! Invariants: what is answered or published is committed; pushes of a commit go out before its
//! replies; calls of one caller in one user's name are carried out in the order submitted (logins
//! and registrations wait for a password thread and may be overtaken).
//!
//! Where to look: `thread` gathers batches, `waiting` with `fair_queue` says whose turn it is,
//! `engine` carries them out, `store` keeps the transaction and what is remembered, `store/storage`
//! says what is asked of a storage and `store/sqlite` has all SQL; `user`, `presence` with
//! `routes`, `message`, `inbox` and `group` serve one subject each, `password` on threads of its
//! own; `sweep` deletes what everybody has confirmed, `health` tells whether writing works;
//! `cursor` and `range_set` are the pure arithmetic of who has confirmed what.

pub mod backup;
mod clock;
mod cursor;
pub mod embedded;
mod engine;
mod fair_queue;
mod friends;
mod group;
mod health;
mod inbox;
mod invariants;
mod message;
mod password;
mod presence;
mod range_set;
mod route_table;
mod sessions;
mod store;
mod sweep;
#[cfg(test)]
mod tests;
mod thread;
mod user;
mod waiting;

use std::{
    error::Error,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{Builder, JoinHandle},
    time::{Duration, Instant},
};

use crossbeam_channel::{Sender, TrySendError};

pub use self::health::FailureReport;
pub(crate) use self::inbox::PAGE_BYTES;
use self::{
    clock::Clock,
    engine::Engine,
    password::PasswordPool,
    store::{
        Failure, Store,
        sqlite::Sqlite,
        storage::{Accounts, Messages, Routes},
    },
    thread::{Envelope, StoreThread},
    waiting::Waiting,
};
use crate::{
    base::{
        error::{ExitCode, StartupError},
        id::{MessageId, MessageIds},
        names::Alphabet,
    },
    contract::{
        bus::Publisher,
        methods::{Request, Response},
    },
    metrics,
    service::route_table::Presence,
};

/// Calls that may wait for the store thread to take them up; more are refused. It takes up as many
/// again, in turns.
const QUEUE_CALLS: usize = 32_768;

/// Where the replies of one caller go.
pub trait ReplySink: Send + Sync {
    /// Takes the replies of one commit, each with the id of its call. Called on the store thread,
    /// so it must not block.
    fn complete(&self, replies: Vec<(u64, Response)>);
}

/// One question and whom to answer.
pub struct Call {
    /// What is asked.
    pub request: Request,
    /// The caller's own number of it, handed back with the reply.
    pub call_id: u64,
    /// Who gets the reply.
    pub sink: Arc<dyn ReplySink>,
    /// When the caller stops waiting: past it the call is refused rather than begun. `None`: the
    /// caller does not say.
    pub deadline: Option<Instant>,
}

/// How the services are set up.
#[derive(Clone, Debug)]
pub struct ServiceOptions {
    /// The directory of the store; created where missing.
    pub data_dir: PathBuf,
    /// Most unconfirmed messages of a user's inbox, and of any one member of a group.
    pub inbox_limit: u64,
    /// Threads that hash passwords.
    pub password_threads: usize,
    /// Logins that may wait for them, and as many registrations; more are refused as unavailable.
    pub password_queue: usize,
    /// The worker number in message ids given by the services themselves (ten bits); must not be
    /// that of a core.
    pub own_worker_id: u16,
    /// Whether accounts are kept elsewhere: every positive number may be a user's.
    pub foreign_users: bool,
    /// What new users may be called.
    pub names: Alphabet,
    /// Who else uses the file, and where routes live.
    pub storage: StorageMode,
}

/// How the services share the file, and where routes live.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageMode {
    /// The only process, as part of a gateway: routes live in memory, and die with it.
    Embedded,
    /// `im-gateway backend`: routes live in the file, since the connections they name outlive this
    /// process, and expire.
    Backend {
        /// Whether this is the only process over the file: then what was read once is remembered
        /// for good.
        exclusive: bool,
        /// How long a route counts after it was bound or last refreshed.
        route_lifetime: Duration,
    },
}

impl StorageMode {
    /// Whether other processes use the file, too, and the table of routes.
    fn parts(self) -> (bool, Presence) {
        match self {
            Self::Embedded => (false, Presence::in_memory()),
            Self::Backend {
                exclusive,
                route_lifetime,
            } => (!exclusive, Presence::in_storage(route_lifetime)),
        }
    }
}

/// The running services. Dropped without [`Services::stop`], they end by themselves, and nobody
/// waits for that.
pub struct Services {
    client: ServiceClient,
    last_message_id: MessageId,
    contents: String,
    thread: Option<JoinHandle<()>>,
}

/// A caller's end of the queue.
#[derive(Clone)]
pub struct ServiceClient {
    queue: Sender<Envelope>,
}

/// Opens the store and starts the threads. `report` is told when the store begins to fail and when
/// it works again.
///
/// # Errors
/// A store that cannot be opened or read, a thread that cannot be started.
pub fn start(
    options: ServiceOptions,
    publisher: Arc<dyn Publisher>,
    metrics: Arc<metrics::Store>,
    report: FailureReport,
) -> Result<Services, StartupError> {
    let (is_shared, presence) = options.storage.parts();
    let is_new = !has_database(&options.data_dir);
    let mut storage = Sqlite::open(&options.data_dir, is_shared)?;
    if !presence.is_in_storage() {
        forget_routes(&mut storage);
    }
    let clock = Clock::of(&mut storage);
    let last_message_id = storage.last_message_id().map_err(|error| {
        StartupError::new(
            ExitCode::Preflight,
            format!("cannot read the store in {}", options.data_dir.display()),
            error,
            "move it away, or restore it from a copy",
        )
    })?;
    let contents = contents(is_new, storage.user_count());
    let engine = Engine::new(
        Store::new(storage, is_shared, options.inbox_limit.max(1))
            .with_foreign_users(options.foreign_users),
        presence,
        MessageIds::starting_after(options.own_worker_id, last_message_id),
        Arc::clone(&metrics),
        Arc::clone(&report),
    )
    .naming(options.names);
    let (sender, queue) = crossbeam_channel::bounded(QUEUE_CALLS);
    let verdicts = sender.clone();
    let passwords = PasswordPool::start(
        options.password_threads,
        options.password_queue,
        Arc::clone(&metrics),
        // Only a thread that has ended does not take it, and then nobody waits for it any more.
        move |judged| drop(verdicts.send(Envelope::Judged(judged))),
    )?;
    let store_thread = StoreThread {
        engine,
        clock,
        queue,
        waiting: Waiting::new(),
        verdicts_awaited: 0,
        passwords,
        publisher,
        metrics,
    };
    let thread = Builder::new()
        .name("store".to_owned())
        .spawn(move || thread::main(store_thread, &report))
        .map_err(|error| {
            StartupError::new(
                ExitCode::Preflight,
                "cannot start the store thread",
                error,
                "raise the limit on threads for this user",
            )
        })?;
    Ok(Services {
        client: ServiceClient { queue: sender },
        last_message_id,
        contents,
        thread: Some(thread),
    })
}

/// What the store in `data_dir` holds, in a line for people; `None`: there is none. Changes
/// nothing.
///
/// # Errors
/// A file that cannot be read, or that a newer program wrote.
pub fn describe_store(data_dir: &Path) -> Result<Option<String>, StartupError> {
    store::sqlite::schema::describe(data_dir)
}

/// See [`Services::contents`]. Accounts that cannot be counted may still be served.
fn contents(is_new: bool, accounts: Result<u64, Failure>) -> String {
    match accounts {
        _ if is_new => "new".to_owned(),
        Ok(1) => "1 account".to_owned(),
        Ok(accounts) => format!("{accounts} accounts"),
        Err(error) => {
            log::error!("the accounts cannot be counted: {error}");
            "accounts that cannot be counted".to_owned()
        }
    }
}

/// Routes that backends left in the file: the gateways they name have lost their services, and this
/// one does not look at them. Back as backends, the services must not take them up where other
/// routes have come and gone.
fn forget_routes(storage: &mut Sqlite) {
    let done = storage.first_expiry_ms().and_then(|first| match first {
        Some(_) => storage.delete_all_routes(),
        None => Ok(()),
    });
    if let Err(error) = done {
        // They expire anyway. A full disk must not keep a gateway from serving what it has.
        log::warn!("cannot delete the routes that backends left: {error}");
    }
}

impl Services {
    /// A way in for one caller.
    pub fn client(&self) -> ServiceClient {
        self.client.clone()
    }

    /// The greatest id of a message that was stored when the services started; 0 if there was none.
    ///
    /// Who makes ids goes on after it: with a clock that is behind, ids would else repeat, and a
    /// new message be taken for an old one.
    pub fn last_message_id(&self) -> MessageId {
        self.last_message_id
    }

    /// What the store held when the services started, in a word or two: that it is new, or how many
    /// accounts there are.
    pub fn contents(&self) -> &str {
        &self.contents
    }

    /// Carries out what is queued, answers it, writes everything to the main file, and waits for
    /// the threads to end.
    pub fn stop(mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        if self.client.queue.send(Envelope::Stop).is_err() {
            log::error!("the store thread had already ended");
        }
        if thread.join().is_err() {
            log::error!("the store thread panicked while it ended");
        }
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        if self.thread.take().is_some() && self.client.queue.try_send(Envelope::Stop).is_err() {
            log::warn!("the store thread could not be told to stop");
        }
    }
}

/// The file of the store in `data_dir`.
fn database_file(data_dir: &Path) -> PathBuf {
    data_dir.join(store::sqlite::schema::FILE_NAME)
}

/// Whether there is a store in `data_dir`, and more than an empty file.
pub fn has_database(data_dir: &Path) -> bool {
    std::fs::metadata(database_file(data_dir)).is_ok_and(|file| file.len() > 0)
}

/// Copies the store in `data_dir`, which nobody has alone, to the empty file `target`, as it is at
/// one moment.
///
/// # Errors
/// What SQLite says.
fn copy_database(data_dir: &Path, target: &Path) -> Result<(), Box<dyn Error>> {
    Ok(store::sqlite::copy::copy(data_dir, target)?)
}

/// As long as it lasts the main file is to stay as it is, with all in it that was committed when it
/// began.
#[must_use = "the file may change when this is dropped"]
struct FileHold {
    held: Arc<AtomicBool>,
    queue: Sender<Envelope>,
}

impl FileHold {
    /// Lets go; `true`: the file was as it is until now.
    pub fn end(self) -> bool {
        self.held.load(Ordering::Acquire)
    }
}

impl Drop for FileHold {
    fn drop(&mut self) {
        // A store that has ended holds nothing. A queue that is full is worked off.
        let _ = self.queue.send(Envelope::LetGo);
    }
}

impl ServiceClient {
    /// Has the main file of the store stay as it is, for a process that has it alone. Waits for the
    /// store.
    ///
    /// # Errors
    /// Why that cannot be, in words.
    fn hold_file(&self) -> Result<FileHold, String> {
        const OVER: &str = "the store has ended";
        let (answer, answered) = crossbeam_channel::bounded(1);
        let asked = self.queue.send(Envelope::Hold(answer));
        asked.map_err(|_| OVER.to_owned())?;
        let held = answered.recv().map_err(|_| OVER.to_owned())??;
        Ok(FileHold {
            held,
            queue: self.queue.clone(),
        })
    }

    /// Queues a call, or gives it back when the queue is full or the services have ended.
    #[allow(
        clippy::result_large_err,
        reason = "the caller goes on with the call itself"
    )]
    pub fn submit(&self, call: Call) -> Result<(), Call> {
        self.queue
            .try_send(Envelope::Call(call))
            .map_err(|refused| match refused {
                TrySendError::Full(Envelope::Call(call))
                | TrySendError::Disconnected(Envelope::Call(call)) => call,
                TrySendError::Full(_) | TrySendError::Disconnected(_) => {
                    unreachable!("a call was sent")
                }
            })
    }
}
