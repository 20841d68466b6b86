//! Hashing and checking of passwords on a few threads of their own, behind a bounded queue.
//!
//! Argon2id takes some fifteen milliseconds and 19 MiB, so it happens neither on a core nor on the store thread. A job carries
//! what its verdict needs to find its way back; the verdict goes to the store thread, which answers.
//! Never logs or keeps a password.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    thread::{self, JoinHandle},
};

use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::phc::{Output, ParamsString, PasswordHash, Salt},
};
use crossbeam_channel::{Receiver, Sender, TrySendError};

use super::ReplySink;
use crate::{
    error::{ExitCode, StartupError},
    id::UserId,
    metrics,
};

/// OWASP's minimum for Argon2id: 19 MiB, two passes, one lane.
const MEMORY_KIB: u32 = 19 * 1024;
const PASSES: u32 = 2;
const LANES: u32 = 1;

/// What an unknown user's password is checked against, so that it takes the time of a known one's. No password matches it
/// but by chance, and its verdict is "wrong" in any case.
const NOBODY: &str = "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5LXNhbHQtMTIzNA$\
                      AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8";

/// What a password thread is asked.
#[derive(Clone)]
pub(super) enum Task {
    /// Is this the password of `account`: its number and the hash in its row; `None`: there is no such account.
    Verify {
        account: Option<(UserId, String)>,
        password: Vec<u8>,
    },
    /// The hash of a new account's password.
    Hash { name: String, password: Vec<u8> },
}

/// A task and whom its answer is for.
pub(super) struct Job {
    pub(super) call_id: u64,
    pub(super) sink: Arc<dyn ReplySink>,
    pub(super) task: Task,
}

/// What came of a task.
#[derive(Clone, Debug)]
pub(super) enum Verdict {
    /// A log-in: the user whose password it was, or `None` if it was not.
    Login(Option<UserId>),
    /// A registration: the new account's name and hash.
    Hashed { name: String, hash: String },
    /// A log-in could not be checked.
    LoginFailed,
    /// A password could not be hashed.
    HashFailed,
}

/// A verdict and whom it is for.
pub(super) struct Judged {
    pub(super) call_id: u64,
    pub(super) sink: Arc<dyn ReplySink>,
    pub(super) verdict: Verdict,
}

/// The threads and the queue before them. They end when the pool is dropped and the queue is empty.
pub(super) struct PasswordPool {
    jobs: Sender<Job>,
    threads: Vec<JoinHandle<()>>,
    metrics: Arc<metrics::Store>,
}

impl PasswordPool {
    /// Starts `thread_count` threads behind a queue for `queue_length` jobs; `deliver` takes each verdict.
    pub(super) fn start(
        thread_count: usize,
        queue_length: usize,
        metrics: Arc<metrics::Store>,
        deliver: impl Fn(Judged) + Send + Clone + 'static,
    ) -> Result<Self, StartupError> {
        let (jobs, queue) = crossbeam_channel::bounded(queue_length.max(1));
        let mut threads = Vec::new();
        for number in 0..thread_count.max(1) {
            let queue = queue.clone();
            let deliver = deliver.clone();
            let metrics = Arc::clone(&metrics);
            let thread = thread::Builder::new()
                .name(format!("password-{number}"))
                .spawn(move || work(&queue, &metrics, deliver))
                .map_err(|error| {
                    StartupError::new(
                        ExitCode::Preflight,
                        "cannot start a password thread",
                        error,
                        "raise the limit on threads for this user",
                    )
                })?;
            threads.push(thread);
        }
        Ok(Self {
            jobs,
            threads,
            metrics,
        })
    }

    /// Queues a job, or gives it back when the queue is full.
    pub(super) fn submit(&self, job: Job) -> Result<(), Box<Job>> {
        self.metrics.password_queue_depth.inc();
        self.jobs.try_send(job).map_err(|refused| {
            self.metrics.password_queue_depth.dec();
            match refused {
                TrySendError::Full(job) | TrySendError::Disconnected(job) => Box::new(job),
            }
        })
    }

    /// Lets the threads finish their queue and waits for them.
    pub(super) fn stop(self) {
        drop(self.jobs);
        for thread in self.threads {
            if thread.join().is_err() {
                log::error!("a password thread panicked");
            }
        }
    }
}

fn work(queue: &Receiver<Job>, metrics: &metrics::Store, deliver: impl Fn(Judged)) {
    let mut memory = Vec::new();
    for job in queue {
        let failed = match &job.task {
            Task::Verify { .. } => Verdict::LoginFailed,
            Task::Hash { .. } => Verdict::HashFailed,
        };
        let verdict = catch_unwind(AssertUnwindSafe(|| judge(job.task, &mut memory)));
        let verdict = match verdict {
            Ok(Ok(verdict)) => verdict,
            Ok(Err(error)) => {
                log::error!("a password could not be hashed: {error}");
                failed
            }
            Err(_) => {
                memory = Vec::new();
                failed
            }
        };
        deliver(Judged {
            call_id: job.call_id,
            sink: job.sink,
            verdict,
        });
        metrics.password_queue_depth.dec();
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
        Task::Verify { account, password } => {
            let (user_id, hash) = account.unzip();
            let matches = verify(&password, hash.as_deref().unwrap_or(NOBODY), memory)?;
            Ok(Verdict::Login(user_id.filter(|_| matches)))
        }
        Task::Hash { name, password } => {
            let hash = hash(&password, &Salt::generate(), memory)?;
            Ok(Verdict::Hashed { name, hash })
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
mod tests {
    use super::*;

    #[test]
    fn a_hash_names_its_algorithm_and_cost_and_verifies_only_its_own_password() {
        let mut memory = Vec::new();
        let stored = hash(b"secret-1", &Salt::generate(), &mut memory).expect("hash");
        assert!(
            stored.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
            "{stored}"
        );
        assert!(verify(b"secret-1", &stored, &mut memory).expect("verify"));
        assert!(!verify(b"secret-2", &stored, &mut memory).expect("verify"));
    }

    #[test]
    fn an_unknown_user_is_checked_at_the_full_cost_and_refused() {
        let mut memory = Vec::new();
        let task = Task::Verify {
            account: None,
            password: b"anything".to_vec(),
        };
        let verdict = judge(task, &mut memory).expect("the fixed hash is well formed");
        assert!(matches!(verdict, Verdict::Login(None)));
        assert_eq!(memory.len(), MEMORY_KIB as usize);
    }

    #[test]
    fn a_damaged_stored_hash_is_an_error_and_not_a_match() {
        for stored in [
            "",
            "x",
            "$argon2id$v=19$m=19456,t=2,p=1$bm9ib2R5",
            "$scrypt$a$b",
        ] {
            assert!(verify(b"secret-1", stored, &mut Vec::new()).is_err());
        }
    }
}
