//! The gateway's side: claims its id, leases worker numbers, follows the instances, and tells what changed.
//!
//! Owns the course of one session after the other. In each, two things go on beside each other: being registered, and following
//! the table; so the table stays fresh while a registration has to wait. Nothing is told before the first registration.

use std::{
    cell::{Cell, RefCell},
    future::{pending, poll_fn},
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use log::{debug, info, warn};
use zookeeper_client as zk;

use super::{
    News, WatchError, WatchOptions,
    claim::{Claim, ClaimError},
    lease::{Held, LeaseError, Lessee},
    mark::RAISE_EVERY,
    pacing::{Complaints, ReadPacing},
    reading::{BrokenNodes, read},
    table::{PLACES, Place, Table},
    zookeeper::{Connection, Session, contained, ended, is_connected, pause},
};
use crate::{
    base::id::{FIRST_SERVICE_WORKER, IdLease},
    contract::{endpoints::Endpoints, methods::Service},
    metrics::discovery::Status,
};

/// How soon a registration that failed is tried again, and setting the watches.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// Changes of the table that are logged within [`LOG_WINDOW`]; more, as when an instance comes and goes all the time, are
/// logged at debug level.
const LOGGED_MAX: u32 = 10;

/// See [`LOGGED_MAX`].
const LOG_WINDOW: Duration = Duration::from_secs(30);

/// Follows ZooKeeper and tells the gateway what it finds, until `stop` is fulfilled; then closes the session, so that the
/// gateway's nodes vanish at once. Without ZooKeeper it tells what is configured, once. `answers` says whether calls to a
/// service succeed: then its instances are kept, whatever has become of their nodes.
///
/// # Errors
/// Only when another live gateway has the id: this one must not go on.
pub async fn watch(
    options: WatchOptions,
    status: Arc<Status>,
    tell: impl Fn(News),
    answers: impl Fn(Service) -> bool,
    stop: impl Future<Output = ()>,
) -> Result<(), WatchError> {
    let news = Bulletin::new(&options, &status, &tell);
    if options.zookeeper_hosts.is_empty() {
        let first = options.first_worker.unwrap_or(0);
        let numbers = (first..FIRST_SERVICE_WORKER).chain(0..first);
        let leases = numbers.cycle().take(options.cores).map(IdLease::endless);
        news.id_leases(leases.collect());
        news.offer(Table::new(options.static_instances.clone()).endpoints());
        stop.await;
        return Ok(());
    }
    let mut connection =
        Connection::new(&options.zookeeper_hosts, options.session_timeout, &status);
    let outcome = tokio::select! {
        error = sessions(&mut connection, &options, &status, &news, &answers) => Err(error),
        () = stop => Ok(()),
    };
    connection.close().await;
    outcome
}

async fn sessions(
    connection: &mut Connection<'_>,
    options: &WatchOptions,
    status: &Status,
    news: &Bulletin<'_>,
    answers: &dyn Fn(Service) -> bool,
) -> WatchError {
    let mut registration = Registration {
        claim: Claim::new(options),
        lessee: Lessee::new(&options.gateway_id),
        held: Vec::new(),
        options,
        status,
        news,
    };
    let mut follower = Follower::new(options, status, news, answers);
    loop {
        let session = connection.begin().await;
        let outcome = contained(async {
            tokio::select! {
                // First, so that the end of a session is no trouble of those that use it.
                biased;
                _ = ended(&session, status) => None,
                holder = registration.keep(&session) => Some(holder),
                () = follower.follow(&session) => None,
            }
        })
        .await;
        drop(session);
        if let Some(Some(holder)) = outcome {
            return WatchError::IdTaken {
                gateway_id: options.gateway_id.clone(),
                holder,
            };
        }
        connection.lost();
    }
}

/// What has been told, and what waits for the registration.
struct Bulletin<'a> {
    status: &'a Status,
    tell: &'a dyn Fn(News),
    leases: RefCell<Vec<IdLease>>,
    table: RefCell<Option<Arc<Endpoints>>>,
    told_table: Cell<bool>,
    /// When the window of [`LOGGED_MAX`] began, and how many were logged in it.
    logged: Cell<(Instant, u32)>,
}

impl<'a> Bulletin<'a> {
    fn new(options: &WatchOptions, status: &'a Status, tell: &'a dyn Fn(News)) -> Self {
        debug_assert!(options.cores > 0, "a gateway has workers");
        Self {
            status,
            tell,
            leases: RefCell::default(),
            table: RefCell::default(),
            told_table: Cell::new(false),
            logged: Cell::new((Instant::now(), 0)),
        }
    }

    /// These are the ids of the cores now. What waited for the first ones is told after them.
    fn id_leases(&self, leases: Vec<IdLease>) {
        if *self.leases.borrow() != leases {
            let numbers = |leases: &[IdLease]| leases.iter().map(|lease| lease.worker).collect();
            let now: Vec<u16> = numbers(&leases);
            let before: Vec<u16> = numbers(&self.leases.borrow());
            if now != before {
                info!("worker numbers: {now:?}");
            }
            self.leases.replace(leases.clone());
            (self.tell)(News::IdLeases(leases));
        }
        self.tell_table();
    }

    /// This is the table now.
    fn offer(&self, endpoints: Endpoints) {
        let is_news = self
            .table
            .borrow()
            .as_ref()
            .is_none_or(|table| **table != endpoints);
        if !is_news {
            return;
        }
        if self.may_log(Instant::now()) {
            info!("backends: {endpoints}");
        } else {
            debug!("backends: {endpoints}");
        }
        self.status.set_table(&endpoints);
        self.table.replace(Some(Arc::new(endpoints)));
        self.told_table.set(false);
        self.tell_table();
    }

    fn may_log(&self, now: Instant) -> bool {
        let (began, count) = self.logged.get();
        if now >= began + LOG_WINDOW {
            self.logged.set((now, 1));
            return true;
        }
        self.logged.set((began, count.saturating_add(1)));
        count < LOGGED_MAX
    }

    fn tell_table(&self) {
        let table = self.table.borrow().clone();
        if let Some(table) = table
            && !self.leases.borrow().is_empty()
            && !self.told_table.replace(true)
        {
            (self.tell)(News::Endpoints(table));
        }
    }
}

/// What makes this gateway the one of its id, over all sessions: its node, and its worker numbers.
struct Registration<'a> {
    claim: Claim,
    lessee: Lessee,
    held: Vec<Held>,
    options: &'a WatchOptions,
    status: &'a Status,
    news: &'a Bulletin<'a>,
}

impl Registration<'_> {
    /// Keeps the gateway registered for as long as the session lasts. Returns what the holder of the id says about himself
    /// when that is another gateway.
    async fn keep(&mut self, session: &Session) -> String {
        let mut states = session.client.state_watcher();
        loop {
            let problem = match self.claim.hold(session).await {
                Err(ClaimError::Taken(holder)) => return holder,
                Err(ClaimError::Zookeeper(error)) => Some(error.to_string()),
                Ok(()) => self
                    .lease(session)
                    .await
                    .err()
                    .map(|error| error.to_string()),
            };
            self.status.set_registered(problem.is_none());
            match problem {
                // Looked at again as often as everything is, and after each reconnection.
                None => {
                    self.status.unregistered.end();
                    pause(&mut states, self.options.interval.min(RAISE_EVERY)).await;
                }
                Some(problem) => {
                    if self.status.unregistered.report(&problem) {
                        warn!("the gateway is not registered: {problem}; trying on");
                    }
                    pause(&mut states, RETRY_INTERVAL).await;
                }
            }
        }
    }

    async fn lease(&mut self, session: &Session) -> Result<(), LeaseError> {
        let cores = self.options.cores;
        self.held = self.lessee.lease(session, cores, &self.held).await?;
        let leases = self.held.iter().map(|held| held.lease);
        self.news.id_leases(leases.collect());
        Ok(())
    }
}

/// Follows the instances, over all sessions.
struct Follower<'a> {
    interval: Duration,
    status: &'a Status,
    news: &'a Bulletin<'a>,
    table: Table,
    broken: BrokenNodes,
    complaints: Complaints,
    /// Whether calls to a service succeed.
    answers: &'a dyn Fn(Service) -> bool,
    /// Of services without an instance.
    deserted: Complaints,
}

impl<'a> Follower<'a> {
    fn new(
        options: &WatchOptions,
        status: &'a Status,
        news: &'a Bulletin<'a>,
        answers: &'a dyn Fn(Service) -> bool,
    ) -> Self {
        Self {
            answers,
            interval: options.interval,
            status,
            news,
            table: Table::new(options.static_instances.clone()),
            broken: BrokenNodes::default(),
            complaints: Complaints::default(),
            deserted: Complaints::default(),
        }
    }

    /// Follows until the session is of no more use.
    async fn follow(&mut self, session: &Session) {
        let mut states = session.client.state_watcher();
        // Watched before read: what changes in between is told.
        let mut watchers = loop {
            match Watchers::set(session).await {
                Ok(watchers) => break watchers,
                Err(error) => self.complain("watch", &error),
            }
            pause(&mut states, RETRY_INTERVAL).await;
        };
        let mut stale = [true; PLACES];
        let mut pacing = ReadPacing::default();
        pacing.changed(Instant::now());
        let mut next_full = Instant::now() + self.interval;
        loop {
            // Without a connection there is nothing to read, however much is due.
            let due = pacing
                .due()
                .filter(|_| is_connected(session.client.state()));
            let wake = [due, self.table.expires(), Some(next_full)];
            let wake = wake.into_iter().flatten().min().unwrap_or(next_full);
            tokio::select! {
                biased;
                state = states.changed() => {
                    if state.is_terminated() {
                        return;
                    }
                    if is_connected(state) {
                        // Events of the time between are lost.
                        stale = [true; PLACES];
                        pacing.changed(Instant::now());
                    }
                }
                () = tokio::time::sleep_until(wake.into()) => {}
                place = watchers.changed() => {
                    stale[place] = true;
                    pacing.changed(Instant::now());
                }
            }
            let now = Instant::now();
            if now >= next_full {
                next_full = now + self.interval;
                stale = [true; PLACES];
                pacing.changed(now);
            }
            if due.is_some_and(|due| due <= now) {
                self.read(session, &mut watchers, &mut stale).await;
                pacing.read(Instant::now());
                if stale.contains(&true) {
                    pacing.changed(Instant::now());
                }
                self.offer();
            }
            if self.table.expire(now, self.answers) {
                warn!("a service still has no instance in ZooKeeper; giving up those there were");
                self.offer();
            }
        }
    }

    fn offer(&self) {
        if self.table.is_complete() {
            self.news.offer(self.table.endpoints());
        }
    }

    /// Reads what is stale. What could not be read, or changed meanwhile, is stale afterwards.
    async fn read(
        &mut self,
        session: &Session,
        watchers: &mut Watchers,
        stale: &mut [bool; PLACES],
    ) {
        let mut all_well = true;
        for (number, place) in Place::ALL.into_iter().enumerate() {
            if !std::mem::take(&mut stale[number]) {
                continue;
            }
            self.status.service_read();
            // Events are taken while the answers are waited for: they queue without a bound.
            let mut reading = pin!(read(&session.client, place));
            let outcome = loop {
                tokio::select! {
                    biased;
                    outcome = &mut reading => break outcome,
                    changed = watchers.changed() => stale[changed] = true,
                }
            };
            match outcome {
                Ok(reading) => {
                    self.broken.found(number, &reading.broken, self.status);
                    let now = Instant::now();
                    let is_deserted = self.table.update(number, reading.found, now);
                    if is_deserted && self.deserted.may_say(place.name(), now) {
                        warn!(
                            "no instance of {} is registered any more; going on with those there were",
                            place.name()
                        );
                    }
                }
                Err(error) => {
                    all_well = false;
                    stale[number] = true;
                    self.complain(place.name(), &error);
                }
            }
        }
        if all_well {
            self.complaints.clear();
        }
    }

    fn complain(&mut self, what: &str, error: &zk::Error) {
        let problem = format!("cannot read backends from ZooKeeper ({what}): {error}");
        if self.complaints.may_say(&problem, Instant::now()) {
            warn!("{problem}; trying on");
        }
    }
}

/// One watch on each place and all below it.
struct Watchers {
    watchers: Vec<zk::PersistentWatcher>,
    /// The session has ended. The client's watchers must not be asked any more then.
    is_over: bool,
}

impl Watchers {
    async fn set(session: &Session) -> Result<Self, zk::Error> {
        let mut watchers = Vec::with_capacity(PLACES);
        for place in Place::ALL {
            // For others to register under. Not to be insisted on: a node that does not exist can be watched too.
            if let Err(error) = session.ensure(&place.path()).await {
                debug!("cannot create {}: {error}", place.path());
            }
            let mode = zk::AddWatchMode::PersistentRecursive;
            watchers.push(session.client.watch(&place.path(), mode).await?);
        }
        Ok(Self {
            watchers,
            is_over: false,
        })
    }

    /// The number of a place where something changed. Never returns once the session has ended.
    async fn changed(&mut self) -> usize {
        poll_fn(|context| self.poll_changed(context)).await
    }

    fn poll_changed(&mut self, context: &mut Context<'_>) -> Poll<usize> {
        for (place, watcher) in self.watchers.iter_mut().enumerate() {
            while !self.is_over {
                let event = match pin!(watcher.changed()).poll(context) {
                    Poll::Ready(event) => event,
                    Poll::Pending => break,
                };
                if event.event_type != zk::EventType::Session {
                    return Poll::Ready(place);
                }
                self.is_over = event.session_state.is_terminated();
            }
        }
        if self.is_over {
            return pin!(pending()).poll(context);
        }
        Poll::Pending
    }
}
