//! Everything a command of one core can reach: the shard, the backends, the bus, and what the cores
//! share.

use std::{
    cell::{RefCell, RefMut},
    net::IpAddr,
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use async_lock::{Semaphore, SemaphoreGuard};
use futures_lite::FutureExt;

use super::{
    known_users::{KnownUsers, Note},
    route_locks::RouteLocks,
};
use crate::{
    base::{
        id::{RouteId, UserId},
        names::Alphabet,
        repeat::Waits,
        time::Pause,
    },
    contract::mpim::Concessions,
    limits::{Admission, Exempt, Held, LoginGuard, LoginOutcome, Registrations},
    proto::NetworkMemory,
    shard::{FETCHES, Now, Shard},
    token::{Tokens, opaque::OpaqueTokens},
};

/// What all cores of a gateway share. Nothing of it is touched on the path of a message.
pub struct Gateway {
    /// Login tokens.
    pub tokens: Tokens,
    /// Login tokens that the User Service alone can read.
    pub(super) opaque_tokens: OpaqueTokens,
    /// Devices a user may be logged in on.
    pub max_devices: u32,
    /// Addresses to which limits by address and rate do not apply.
    exempt: Exempt,
    /// Locks to change the one route of a user.
    pub(super) route_locks: RouteLocks,
    /// What services that are MPIM's are conceded.
    pub concessions: Concessions,
    /// What new users may be called.
    pub names: Alphabet,
    login_guard: Mutex<LoginGuard>,
    /// `None`: nobody may register.
    registrations: Option<Mutex<Registrations>>,
    logins_waiting: AtomicUsize,
    networks_remembered: AtomicBool,
    admission: Mutex<Admission>,
    known_users: Mutex<KnownUsers>,
    /// Told of each name that is new.
    note_user: Option<Note>,
    /// When it may be said again that clocks differ, in ms since the process began.
    clock_warning_due_ms: AtomicU64,
}

/// A client with a token from the future tries again and again.
const CLOCK_WARNING_EVERY_MS: u64 = 60_000;

/// Logins of all cores that may stand behind others of their network or name at one time.
const LOGINS_WAITING: usize = 1024;

impl Gateway {
    /// Puts the shared parts together.
    pub fn new(
        tokens: Tokens,
        max_devices: u32,
        exempt: Exempt,
        concessions: Concessions,
        login_guard: LoginGuard,
        registrations: Option<Registrations>,
        admission: Admission,
    ) -> Self {
        Self {
            tokens,
            opaque_tokens: OpaqueTokens::default(),
            max_devices,
            exempt,
            route_locks: RouteLocks::new(concessions.empty_route_unbinds),
            concessions,
            names: Alphabet::default(),
            login_guard: Mutex::new(login_guard),
            registrations: registrations.map(Mutex::new),
            logins_waiting: AtomicUsize::new(0),
            networks_remembered: AtomicBool::new(false),
            admission: Mutex::new(admission),
            known_users: Mutex::default(),
            clock_warning_due_ms: AtomicU64::new(0),
            note_user: None,
        }
    }

    /// The same, where new users are called by `names`.
    #[must_use]
    pub fn naming(self, names: Alphabet) -> Self {
        Self { names, ..self }
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

    /// What a connection from `ip` is counted by; `None`: it is exempt.
    pub fn counted(&self, ip: IpAddr) -> Option<IpAddr> {
        (!self.exempt.contains(ip)).then_some(ip)
    }

    /// Whether the log is to say now that clocks differ: not more often than once a minute.
    pub(super) fn may_warn_of_clocks(&self, now_ms: u64) -> bool {
        let next = now_ms + CLOCK_WARNING_EVERY_MS;
        self.clock_warning_due_ms
            .try_update(Relaxed, Relaxed, |due_ms| {
                (due_ms <= now_ms).then_some(next)
            })
            .is_ok()
    }

    /// Remembers whose name `name` is, for a service that may refuse the next login without
    /// saying.
    pub(super) fn remember_user(&self, name: &str, user: UserId) {
        let is_news = self.known_users().learn(name, user);
        if let Some(note) = &self.note_user
            && is_news
        {
            note(name, user);
        }
    }

    /// Whose name `name` is, if it is remembered.
    pub(super) fn known_user(&self, name: &str) -> Option<UserId> {
        self.known_users().number_of(name)
    }

    fn known_users(&self) -> MutexGuard<'_, KnownUsers> {
        self.known_users
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins an attempt to log in, or says why not. `ip` is `None` for an exempt address.
    pub(super) fn begin_login(
        &self,
        ip: Option<IpAddr>,
        user: &str,
        now_ms: u64,
    ) -> Result<LoginAttempt<'_>, Held> {
        self.login_guard().begin(ip, user, now_ms)?;
        Ok(LoginAttempt::new(self, ip, user))
    }

    /// The same for an address of which somebody else finds out, before the password is looked at,
    /// that the user logged in from there.
    pub(super) fn begin_login_as_known(
        &self,
        ip: IpAddr,
        user: &str,
        now_ms: u64,
    ) -> Result<LoginAttempt<'_>, Held> {
        self.login_guard().begin_as_known(ip, user, now_ms)?;
        Ok(LoginAttempt::new(self, Some(ip), user))
    }

    /// A place for a login that stands behind others; `None`: there are as many as may wait. It is
    /// given back when dropped.
    pub(super) fn place_to_wait(&self) -> Option<PlaceToWait<'_>> {
        if self.logins_waiting.fetch_add(1, Relaxed) < LOGINS_WAITING {
            return Some(PlaceToWait(self));
        }
        self.logins_waiting.fetch_sub(1, Relaxed);
        None
    }

    /// The User Service said whether it remembers the networks that users log in from.
    pub(super) fn hear_of_networks(&self, memory: NetworkMemory) {
        let remembers = memory != NetworkMemory::NetworkNotRemembered;
        self.networks_remembered.store(remembers, Relaxed);
    }

    /// Whether the User Service remembers the networks that users log in from, as it last said.
    pub(super) fn service_remembers_networks(&self) -> bool {
        self.networks_remembered.load(Relaxed)
    }

    /// Begins a registration, or says why not. `ip` is `None` for an exempt address.
    pub(super) fn begin_registration(
        &self,
        ip: Option<IpAddr>,
        now_ms: u64,
    ) -> Result<Registration<'_>, RegistrationHeld> {
        let registrations = self
            .registrations
            .as_ref()
            .ok_or(RegistrationHeld::Closed)?;
        lock(registrations)
            .begin(ip, now_ms)
            .map_err(RegistrationHeld::For)?;
        Ok(Registration { registrations, ip })
    }

    fn login_guard(&self) -> MutexGuard<'_, LoginGuard> {
        lock(&self.login_guard)
    }

    /// How many connections there are, in all and by address.
    pub fn admission(&self) -> MutexGuard<'_, Admission> {
        self.admission
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// An attempt to log in, under way. It ends when it is dropped: whatever becomes of its flow, it
/// does not count for ever.
#[must_use = "the attempt ends when this is dropped"]
pub(super) struct LoginAttempt<'a> {
    gateway: &'a Gateway,
    ip: Option<IpAddr>,
    user: String,
    outcome: (LoginOutcome, u64),
}

impl<'a> LoginAttempt<'a> {
    fn new(gateway: &'a Gateway, ip: Option<IpAddr>, user: &str) -> Self {
        Self {
            gateway,
            ip,
            user: user.to_owned(),
            outcome: (LoginOutcome::Faulted, 0),
        }
    }

    /// There is a verdict. Without one, the attempt never happened.
    pub fn judged(mut self, outcome: LoginOutcome, now_ms: u64) {
        self.outcome = (outcome, now_ms);
    }
}

impl Drop for LoginAttempt<'_> {
    fn drop(&mut self) {
        let (outcome, now_ms) = self.outcome;
        let mut guard = self.gateway.login_guard();
        guard.end(self.ip, &self.user, outcome, now_ms);
    }
}

/// The place of a login that stands behind others.
pub(super) struct PlaceToWait<'a>(&'a Gateway);

impl Drop for PlaceToWait<'_> {
    fn drop(&mut self) {
        self.0.logins_waiting.fetch_sub(1, Relaxed);
    }
}

/// Why nobody may register now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum RegistrationHeld {
    /// Nobody ever may here.
    Closed,
    /// This network may again in so many milliseconds.
    For(u64),
}

/// A registration under way, which counts unless it is said to have come to nothing.
pub struct Registration<'a> {
    registrations: &'a Mutex<Registrations>,
    ip: Option<IpAddr>,
}

impl Registration<'_> {
    /// It certainly made no account, and told nothing of names: it does not count.
    pub(super) fn came_to_nothing(self, now_ms: u64) {
        lock(self.registrations).give_back(self.ip, now_ms);
    }
}

/// What is behind these locks is whole after each call, and a panic elsewhere cannot change that.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
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
    fetches: Semaphore,
    hand_outs: Semaphore,
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
            fetches: Semaphore::new(FETCHES),
            hand_outs: Semaphore::new(1),
        }
    }

    /// Waits for a permit to fetch from the store, so that many fetches come one after another; it
    /// lasts until it is dropped.
    pub(super) async fn fetch_permit(&self) -> SemaphoreGuard<'_> {
        self.fetches.acquire().await
    }

    /// Waits for the permit to hand out what was pulled; it lasts until it is dropped.
    pub(super) async fn permit_to_hand_out(&self) -> SemaphoreGuard<'_> {
        self.hand_outs.acquire().await
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

    /// Lets the next of `waits` pass.
    pub(super) async fn wait(&self, waits: &mut Waits) {
        self.pause(Duration::from_millis(waits.next_ms())).await;
    }

    /// What `flow` comes to, if it does within `length`.
    pub(super) async fn within<T>(
        &self,
        length: Duration,
        flow: impl Future<Output = T>,
    ) -> Option<T> {
        let too_long = async {
            self.pause(length).await;
            None
        };
        async { Some(flow.await) }.or(too_long).await
    }
}
