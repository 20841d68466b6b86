//! Everything a command of one core can reach: the shard, the backends, the bus, and what the cores share.

use std::{
    cell::{RefCell, RefMut},
    net::IpAddr,
    pin::Pin,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::Waker,
    time::Duration,
};

use async_lock::{Semaphore, SemaphoreGuard};
use futures_lite::FutureExt;

use super::{
    Now, Shard,
    known_users::{KnownUsers, Note},
};
use crate::{
    backend::mpim::Concessions,
    id::{RouteId, UserId},
    limits::{Admission, Exempt, LoginGuard, LoginOutcome},
    token::Tokens,
};

/// What all cores of a gateway share. Nothing of it is touched on the path of a message.
pub struct Gateway {
    /// Log-in tokens.
    pub tokens: Tokens,
    /// Devices a user may be logged in on.
    pub max_devices: u32,
    /// Addresses to which limits by address and rate do not apply.
    pub exempt: Exempt,
    /// What services that are MPIM's are conceded.
    pub concessions: Concessions,
    login_guard: Mutex<LoginGuard>,
    admission: Mutex<Admission>,
    known_users: Mutex<KnownUsers>,
    /// Told of each name that is new.
    note_user: Option<Note>,
    /// When it may be said again that clocks differ, in ms since the process began.
    clock_warning_due_ms: AtomicU64,
}

/// A client with a token from the future tries again and again.
const CLOCK_WARNING_EVERY_MS: u64 = 60_000;

/// Fetches of one core from the store at one time: after the bus was away, everybody's messages are looked for.
pub(super) const FETCHES: usize = 64;

impl Gateway {
    /// Puts the shared parts together.
    pub fn new(
        tokens: Tokens,
        max_devices: u32,
        exempt: Exempt,
        concessions: Concessions,
        login_guard: LoginGuard,
        admission: Admission,
    ) -> Self {
        Self {
            tokens,
            max_devices,
            exempt,
            concessions,
            login_guard: Mutex::new(login_guard),
            admission: Mutex::new(admission),
            known_users: Mutex::default(),
            clock_warning_due_ms: AtomicU64::new(0),
            note_user: None,
        }
    }

    /// The same, where these users are known from before, and `note` is told of those that are new.
    #[must_use]
    pub fn knowing(self, users: KnownUsers, note: Note) -> Self {
        Self {
            known_users: Mutex::new(users),
            note_user: Some(note),
            ..self
        }
    }

    /// Whether the log is to say now that clocks differ: not more often than once a minute.
    pub fn may_warn_of_clocks(&self, now_ms: u64) -> bool {
        let next = now_ms + CLOCK_WARNING_EVERY_MS;
        self.clock_warning_due_ms
            .try_update(Relaxed, Relaxed, |due_ms| {
                (due_ms <= now_ms).then_some(next)
            })
            .is_ok()
    }

    /// Remembers whose name `name` is, for a service that may refuse the next log-in without saying.
    pub fn remember_user(&self, name: &str, user: UserId) {
        let is_news = self.known_users().learn(name, user);
        if let Some(note) = &self.note_user
            && is_news
        {
            note(name, user);
        }
    }

    /// Whose name `name` is, if it is remembered.
    pub fn known_user(&self, name: &str) -> Option<UserId> {
        self.known_users().number_of(name)
    }

    fn known_users(&self) -> MutexGuard<'_, KnownUsers> {
        self.known_users
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an attempt to log in, or says in how many milliseconds one may be made. `None` is an exempt address.
    pub fn begin_login<'a>(
        &'a self,
        ip: Option<IpAddr>,
        user: &'a str,
        now_ms: u64,
    ) -> Result<LoginAttempt<'a>, u64> {
        self.login_guard().begin(ip, user, now_ms)?;
        Ok(LoginAttempt {
            gateway: self,
            ip,
            user: Some(user),
            outcome: (LoginOutcome::Faulted, now_ms),
        })
    }

    /// Begins a registration, or says in how many milliseconds one may be made.
    pub fn begin_registration(&self, ip: Option<IpAddr>) -> Result<LoginAttempt<'_>, u64> {
        self.login_guard().begin_registration(ip)?;
        Ok(LoginAttempt {
            gateway: self,
            ip,
            user: None,
            outcome: (LoginOutcome::Faulted, 0),
        })
    }

    fn login_guard(&self) -> MutexGuard<'_, LoginGuard> {
        self.login_guard
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// How many connections there are, in all and by address.
    pub fn admission(&self) -> MutexGuard<'_, Admission> {
        self.admission
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// A pause under way.
pub type Pause = Pin<Box<dyn Future<Output = ()>>>;

/// An attempt to log in, or a registration, under way. It ends when it is dropped: whatever becomes of its flow, it does
/// not count for ever.
#[must_use = "the attempt ends when this is dropped"]
pub struct LoginAttempt<'a> {
    gateway: &'a Gateway,
    ip: Option<IpAddr>,
    /// `None`: a registration.
    user: Option<&'a str>,
    outcome: (LoginOutcome, u64),
}

impl LoginAttempt<'_> {
    /// There is a verdict. Without one, the attempt never happened.
    pub fn judged(mut self, outcome: LoginOutcome, now_ms: u64) {
        self.outcome = (outcome, now_ms);
    }
}

impl Drop for LoginAttempt<'_> {
    fn drop(&mut self) {
        let mut guard = self.gateway.login_guard();
        let (outcome, now_ms) = self.outcome;
        match self.user {
            Some(user) => guard.end(self.ip, user, outcome, now_ms),
            None => guard.end_registration(self.ip),
        }
    }
}

/// One core.
pub struct Core<B, P> {
    /// The way to the services.
    pub backend: B,
    /// The core's end of the push bus.
    pub bus: P,
    /// What the cores share.
    pub gateway: std::sync::Arc<Gateway>,
    /// The name under which its users' pushes are published.
    pub route: RouteId,
    clock: Box<dyn Fn() -> Now>,
    pause: Box<dyn Fn(Duration) -> Pause>,
    shard: RefCell<Shard>,
    loop_waker: RefCell<Option<Waker>>,
    fetches: Semaphore,
}

impl<B, P> Core<B, P> {
    /// Puts a core together; `clock` tells the time and `pause` lets some pass.
    pub fn new(
        shard: Shard,
        backend: B,
        bus: P,
        gateway: std::sync::Arc<Gateway>,
        route: RouteId,
        clock: impl Fn() -> Now + 'static,
        pause: impl Fn(Duration) -> Pause + 'static,
    ) -> Self {
        Self {
            backend,
            bus,
            gateway,
            route,
            clock: Box::new(clock),
            pause: Box::new(pause),
            shard: RefCell::new(shard),
            loop_waker: RefCell::default(),
            fetches: Semaphore::new(FETCHES),
        }
    }

    /// Waits for the turn to fetch from the store, so that many fetches come one after another; it lasts until it is
    /// dropped.
    pub async fn turn_to_fetch(&self) -> SemaphoreGuard<'_> {
        self.fetches.acquire().await
    }

    /// The shard. The borrow must not live across an `.await`.
    pub fn shard(&self) -> RefMut<'_, Shard> {
        self.shard.borrow_mut()
    }

    /// Tells the shard the present time, which it takes for now until the next call.
    pub fn advance_clock(&self) -> Now {
        let now = (self.clock)();
        self.shard().set_now(now);
        now
    }

    /// Lets `length` pass.
    pub fn pause(&self, length: Duration) -> Pause {
        (self.pause)(length)
    }

    /// What `flow` comes to, if it does within `length`.
    pub async fn within<T>(&self, length: Duration, flow: impl Future<Output = T>) -> Option<T> {
        let too_long = async {
            self.pause(length).await;
            None
        };
        async { Some(flow.await) }.or(too_long).await
    }

    /// The core's loop waits: `waker` wakes it.
    pub fn set_loop_waker(&self, waker: &Waker) {
        let mut current = self.loop_waker.borrow_mut();
        if !current
            .as_ref()
            .is_some_and(|current| current.will_wake(waker))
        {
            *current = Some(waker.clone());
        }
    }

    /// There is something new to send or to do: wakes the core's loop if it waits.
    pub fn notify(&self) {
        if let Some(waker) = &*self.loop_waker.borrow() {
            waker.wake_by_ref();
        }
    }
}
