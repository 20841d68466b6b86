//! Hashing and checking of passwords on a few threads of their own, behind a bounded queue.
//!
//! Argon2id takes some fifteen milliseconds and 19 MiB, so it happens neither on a core nor on the
//! store thread. A job carries what its verdict needs to find its way back; the verdict goes to the
//! store thread, which answers. Never logs or keeps a password.
//!
//! Logins and registrations wait in lanes of their own, and each lane serves networks in turn
//! ([`lanes`]), so that nobody waits for what somebody else piled up. A lane is no longer than can
//! be hashed before its jobs' deadlines, by the time that hashes have taken lately; what is late
//! all the same is not hashed.

mod lanes;

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};

use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::phc::{Output, ParamsString, PasswordHash, Salt},
};

use self::lanes::{Lane, Lanes};
use super::{ReplySink, sessions::Credential};
use crate::{
    base::{
        error::{ExitCode, StartupError},
        id::UserId,
    },
    contract::methods::Response,
    metrics::{self, PasswordLoss},
    proto,
};

/// OWASP's minimum for Argon2id: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// A new account is inserted only so long before its caller gives up that the commit and the reply
/// are there in time, too: a quarter of what the caller waits, and no more than this. A machine
/// that has too much to do takes that long, and an account whose caller was told of failure is a
/// trap.
const INSERT_MARGIN_MAX: Duration = Duration::from_millis(500);

/// What an unknown user's password is checked against, so that it takes the time of a known one's.
/// No password matches it but by chance, and its verdict is "wrong" in any case.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5LXNhbHQtMTIzNA$\
                      AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

/// Where a call comes from, as far as its user's known networks are concerned.
#[derive(Clone, Debug, Default)]
pub(super) struct Origin {
    /// The network's key; empty: nobody's.
    pub(super) network: Vec<u8>,
    /// The user has logged in from there before.
    pub(super) is_known: bool,
    /// Should the password be right, this is worth writing down.
    pub(super) is_news: bool,
    /// The user's epoch when the hash was read that the password is checked against.
    pub(super) epoch: u64,
}

/// Whose password is changed, and by whom.
#[derive(Clone, Debug)]
pub(super) struct Change {
    pub(super) user: UserId,
    /// The session that goes on.
    pub(super) session: Credential,
    pub(super) network: Vec<u8>,
}

/// An account that somebody wants to log in to.
#[derive(Clone)]
pub(super) struct Account {
    pub(super) user: UserId,
    /// The password's, as its row has it.
    pub(super) hash: String,
    /// The name as it was registered.
    pub(super) registered: String,
}

/// What a password thread is asked.
#[derive(Clone)]
pub(super) enum Task {
    /// Is this the password of `account`; `None`: there is no such account.
    Verify {
        account: Option<Account>,
        password: Vec<u8>,
        origin: Origin,
    },
    /// The hash of a new account's password.
    Hash {
        name: String,
        password: Vec<u8>,
        network: Vec<u8>,
    },
    /// The hash of another password of an account that there is.
    Rehash { change: Change, password: Vec<u8> },
}

impl Task {
    fn purpose(&self) -> Purpose {
        match self {
            Self::Rehash { .. } => Purpose::Change,
            Self::Verify { .. } => Purpose::Login,
            Self::Hash { .. } => Purpose::Registration,
        }
    }

    fn network(&self) -> &[u8] {
        match self {
            Self::Verify { origin, .. } => &origin.network,
            Self::Hash { network, .. } => network,
            Self::Rehash { change, .. } => &change.network,
        }
    }
}

/// What a password is hashed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Purpose {
    Login,
    Registration,
    Change,
}

impl Purpose {
    fn lane(self) -> Lane {
        match self {
            Self::Login | Self::Change => Lane::Logins,
            Self::Registration => Lane::Registrations,
        }
    }

    /// The answer to such a call that carries nothing but `result`.
    pub(super) fn failed(self, result: proto::Result) -> Response {
        let result = Some(result);
        match self {
            Self::Login => Response::Login(proto::LoginResponse {
                result,
                ..Default::default()
            }),
            Self::Registration => Response::Register(proto::RegisterResponse {
                result,
                ..Default::default()
            }),
            Self::Change => Response::ChangePassword(proto::ChangePasswordResponse {
                result,
                ..Default::default()
            }),
        }
    }
}

/// A task and whom its answer is for.
pub(super) struct Job {
    pub(super) call_id: u64,
    pub(super) sink: Arc<dyn ReplySink>,
    /// When the caller gives up.
    pub(super) deadline: Option<Instant>,
    pub(super) task: Task,
}

impl Job {
    pub(super) fn purpose(&self) -> Purpose {
        self.task.purpose()
    }
}

/// What came of a task.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// A login: the user whose password it was, with the name as registered, or `None` if it was
    /// not.
    Login {
        user: Option<(UserId, String)>,
        origin: Origin,
    },
    /// A registration: the new account's name and hash.
    Hashed {
        name: String,
        hash: String,
        network: Vec<u8>,
    },
    /// A change: the hash of the new password.
    Rehashed { change: Change, hash: String },
    /// The caller had given up before the password's turn came.
    TooLate(Purpose),
    /// The password could not be checked or hashed.
    Failed(Purpose),
}

impl Verdict {
    pub(super) fn purpose(&self) -> Purpose {
        match self {
            Self::Login { .. } => Purpose::Login,
            Self::Hashed { .. } => Purpose::Registration,
            Self::Rehashed { .. } => Purpose::Change,
            Self::TooLate(purpose) | Self::Failed(purpose) => *purpose,
        }
    }
}

/// A verdict and whom it is for.
pub(super) struct Judged {
    pub(super) call_id: u64,
    pub(super) sink: Arc<dyn ReplySink>,
    pub(super) verdict: Verdict,
    /// Past this moment nothing more may come of it: the caller would be told that it failed.
    pub(super) act_before: Option<Instant>,
}

/// The threads and the lanes before them. They end when the pool is dropped and the lanes are
/// empty.
pub(super) struct PasswordPool {
    shared: Arc<Shared>,
    threads: Vec<JoinHandle<()>>,
}

struct Shared {
    waiting: Mutex<Waiting>,
    /// There is a job, or there will be none any more.
    news: Condvar,
    thread_count: usize,
    lane_limit: usize,
    metrics: Arc<metrics::Store>,
}

struct Waiting {
    lanes: Lanes<Queued>,
    /// How long a hash takes at present; `None`: not known yet.
    hash_time: Option<Duration>,
    is_closed: bool,
}

/// A job, and since when it waits.
struct Queued {
    job: Job,
    since: Instant,
}

impl Queued {
    /// When the job's result must be acted upon at the latest.
    fn act_before(&self) -> Option<Instant> {
        let deadline = self.job.deadline?;
        let margin = (deadline.saturating_duration_since(self.since) / 4).min(INSERT_MARGIN_MAX);
        deadline.checked_sub(margin)
    }

    /// From when on the password is not worth hashing: nothing would come of it.
    fn begin_before(&self) -> Option<Instant> {
        match self.job.purpose() {
            Purpose::Login => self.job.deadline,
            Purpose::Registration | Purpose::Change => self.act_before(),
        }
    }
}

impl PasswordPool {
    /// Starts `thread_count` threads, with room for `lane_limit` jobs in either lane; `deliver`
    /// takes each verdict.
    pub(super) fn start(
        thread_count: usize,
        lane_limit: usize,
        metrics: Arc<metrics::Store>,
        deliver: impl Fn(Judged) + Send + Clone + 'static,
    ) -> Result<Self, StartupError> {
        let thread_count = thread_count.max(1);
        let mut pool = Self {
            shared: Arc::new(Shared {
                waiting: Mutex::new(Waiting {
                    lanes: Lanes::default(),
                    hash_time: None,
                    is_closed: false,
                }),
                news: Condvar::new(),
                thread_count,
                lane_limit: lane_limit.max(1),
                metrics,
            }),
            threads: Vec::new(),
        };
        for number in 0..thread_count {
            let shared = Arc::clone(&pool.shared);
            let deliver = deliver.clone();
            let thread = thread::Builder::new()
                .name(format!("password-{number}"))
                .spawn(move || shared.work(deliver))
                .map_err(|error| {
                    StartupError::new(
                        ExitCode::Preflight,
                        "cannot start a password thread",
                        error,
                        "raise the limit on threads for this user",
                    )
                })?;
            pool.threads.push(thread);
        }
        Ok(pool)
    }

    /// Queues a job. Where there is no room for one more, the job is handed back that loses its
    /// place: this one, or the last of the network that has the most.
    pub(super) fn submit(&self, job: Job) -> Option<Box<Job>> {
        let since = Instant::now();
        let purpose = job.purpose();
        let network = job.task.network().to_vec();
        self.shared.metrics.password_queue_depth.inc();
        let lost = {
            let mut waiting = self.shared.waiting();
            let time_left = job
                .deadline
                .map(|deadline| deadline.saturating_duration_since(since));
            let room = self.shared.room(&waiting, purpose, time_left);
            waiting
                .lanes
                .push(purpose.lane(), network, room, Queued { job, since })
        };
        self.shared.news.notify_one();
        let lost = lost?;
        self.shared.metrics.password_queue_depth.dec();
        self.shared
            .metrics
            .passwords_unhashed
            .at(PasswordLoss::NoRoom)
            .inc();
        Some(Box::new(lost.job))
    }

    /// Lets the threads finish what waits, and waits for them.
    pub(super) fn stop(mut self) {
        self.shared.close();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                log::error!("a password thread panicked");
            }
        }
    }
}

impl Drop for PasswordPool {
    fn drop(&mut self) {
        self.shared.close();
    }
}

impl Shared {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn close(&self) {
        self.waiting().is_closed = true;
        self.news.notify_all();
    }

    /// How many jobs for `purpose` may wait, if the last of them is to be done in `time_left`.
    /// Never fewer than there are threads: one hash that took for ever must not keep out those that
    /// would show that it was an exception.
    fn room(&self, waiting: &Waiting, purpose: Purpose, time_left: Option<Duration>) -> usize {
        let (Some(hash_time), Some(time_left)) = (waiting.hash_time, time_left) else {
            return self.lane_limit;
        };
        let each = time_left.as_micros() / hash_time.as_micros().max(1);
        let in_time = usize::try_from(each)
            .unwrap_or(usize::MAX)
            .saturating_mul(self.thread_count);
        let share = if waiting.lanes.is_other_empty(purpose.lane()) {
            in_time
        } else {
            in_time / 2
        };
        share.max(self.thread_count).min(self.lane_limit)
    }

    /// The next job; `None`: there will be none any more.
    fn next(&self) -> Option<Queued> {
        let mut waiting = self.waiting();
        loop {
            if let Some(queued) = waiting.lanes.pop() {
                return Some(queued);
            }
            if waiting.is_closed {
                return None;
            }
            waiting = self
                .news
                .wait(waiting)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Counts one more hash into the present time of a hash: an eighth of it, so that one odd hash
    /// changes little.
    fn hash_took(&self, time: Duration) {
        let mut waiting = self.waiting();
        waiting.hash_time = Some(match waiting.hash_time {
            Some(known) => (known * 7 + time) / 8,
            None => time,
        });
    }

    fn work(&self, deliver: impl Fn(Judged)) {
        let mut memory = Vec::new();
        while let Some(queued) = self.next() {
            let (act_before, begin_before) = (queued.act_before(), queued.begin_before());
            let Job {
                call_id,
                sink,
                task,
                ..
            } = queued.job;
            let began = Instant::now();
            let verdict = if begin_before.is_some_and(|end| end <= began) {
                self.metrics
                    .passwords_unhashed
                    .at(PasswordLoss::TooLate)
                    .inc();
                Verdict::TooLate(task.purpose())
            } else {
                let verdict = judge_safely(task, &mut memory);
                self.hash_took(began.elapsed());
                verdict
            };
            deliver(Judged {
                call_id,
                sink,
                verdict,
                act_before,
            });
            self.metrics.password_queue_depth.dec();
        }
    }
}

/// Does the task, whatever is in it.
fn judge_safely(task: Task, memory: &mut Vec<Block>) -> Verdict {
    let purpose = task.purpose();
    match catch_unwind(AssertUnwindSafe(|| judge(task, memory))) {
        Ok(Ok(verdict)) => verdict,
        Ok(Err(error)) => {
            log::error!("a password could not be hashed: {error}");
            Verdict::Failed(purpose)
        }
        Err(_) => {
            *memory = Vec::new();
            Verdict::Failed(purpose)
        }
    }
}

/// A hash could not be made or read.
#[derive(Debug, thiserror::Error)]
enum HashError {
    #[error("argon2: {0}")]
    Argon2(#[from] argon2::Error),
    #[error("stored hash: {0}")]
    Phc(#[from] argon2::password_hash::phc::Error),
    #[error("stored hash: a part is missing")]
    Incomplete,
}

/// Does the task. `memory` is Argon2's working memory, kept from job to job.
fn judge(task: Task, memory: &mut Vec<Block>) -> Result<Verdict, HashError> {
    match task {
        Task::Verify {
            account,
            password,
            origin,
        } => {
            let hash = account.as_ref().map_or(NOBODY, |account| &account.hash);
            let matches = verify(&password, hash, memory)?;
            let account = account.filter(|_| matches);
            Ok(Verdict::Login {
                user: account.map(|account| (account.user, account.registered)),
                origin,
            })
        }
        Task::Hash {
            name,
            password,
            network,
        } => {
            let hash = hash(&password, &Salt::generate(), memory)?;
            Ok(Verdict::Hashed {
                name,
                hash,
                network,
            })
        }
        Task::Rehash { change, password } => {
            let hash = hash(&password, &Salt::generate(), memory)?;
            Ok(Verdict::Rehashed { change, hash })
        }
    }
}

fn hash(password: &[u8], salt: &Salt, memory: &mut Vec<Block>) -> Result<String, HashError> {
    let params = Params::new(MEMORY_KIB, PASSES, LANES, None)?;
    let params_text = ParamsString::try_from(&params).map_err(|_| HashError::Incomplete)?;
    let mut output = [0; Params::DEFAULT_OUTPUT_LEN];
    derive(params, Version::V0x13, password, salt, &mut output, memory)?;
    let hash = PasswordHash {
        algorithm: Algorithm::Argon2id.ident(),
        version: Some(Version::V0x13.into()),
        params: params_text,
        salt: Some(*salt),
        hash: Some(Output::new(&output)?),
    };
    Ok(hash.to_string())
}

fn verify(password: &[u8], stored: &str, memory: &mut Vec<Block>) -> Result<bool, HashError> {
    let stored = PasswordHash::new(stored)?;
    let (Some(salt), Some(expected)) = (stored.salt, stored.hash) else {
        return Err(HashError::Incomplete);
    };
    if stored.algorithm != Algorithm::Argon2id.ident() {
        return Err(HashError::Incomplete);
    }
    let params = Params::try_from(&stored).map_err(|_| HashError::Incomplete)?;
    let version = match stored.version {
        Some(number) => Version::try_from(number)?,
        None => Version::V0x13,
    };
    let mut output = vec![0; expected.len()];
    derive(params, version, password, &salt, &mut output, memory)?;
    // `Output` compares in constant time.
    Ok(Output::new(&output)? == expected)
}

fn derive(
    params: Params,
    version: Version,
    password: &[u8],
    salt: &Salt,
    output: &mut [u8],
    memory: &mut Vec<Block>,
) -> Result<(), HashError> {
    let block_count = params.block_count();
    if memory.len() < block_count {
        memory.resize(block_count, Block::default());
    }
    Argon2::new(Algorithm::Argon2id, version, params).hash_password_into_with_memory(
        password,
        salt,
        output,
        &mut memory[..block_count],
    )?;
    Ok(())
}

#[cfg(test)]
mod tests;
