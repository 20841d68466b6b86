//! The gateway's side: claims its id, leases worker numbers, follows the instances, and tells what
//! changed.
//!
//! Owns the course of one session after the other. In each, two things go on beside each other:
//! being registered, and following the table; so the table stays fresh while a registration has to
//! wait. Nothing is told before the first registration.

use std::{sync::Arc, time::Duration};

use log::warn;

use super::{
    Event, WatchError, WatchOptions,
    claim::{Claim, ClaimError},
    follower::Follower,
    lease::{Held, LeaseError, Lessee},
    mark::RAISE_EVERY,
    notifier::Notifier,
    registry::{Registry, Session, contained, ended, pause},
    table::Table,
    zookeeper::Zookeeper,
};
use crate::{
    base::{
        back_off::BackOff,
        id::{FIRST_SERVICE_WORKER, IdLease},
    },
    contract::methods::Service,
    machine::random_seed::random,
    metrics::Discovery,
};

/// Follows ZooKeeper and tells the gateway what it finds, until `stop` is fulfilled; then closes
/// the session, so that the gateway's nodes vanish at once. Without ZooKeeper it tells what is
/// configured, once. `answers` says whether calls to a service succeed: then its instances are
/// kept, whatever has become of their nodes.
///
/// # Errors
/// Only when another live gateway has the id: this one must not go on.
pub async fn watch(
    options: WatchOptions,
    metrics: Arc<Discovery>,
    tell: impl Fn(Event),
    answers: impl Fn(Service) -> bool,
    stop: impl Future<Output = ()>,
) -> Result<(), WatchError> {
    let notifier = Notifier::new(&options, &metrics, &tell);
    if options.zookeeper_hosts.is_empty() {
        let first = options.first_worker.unwrap_or(0);
        let numbers = (first..FIRST_SERVICE_WORKER).chain(0..first);
        let leases = numbers.cycle().take(options.cores).map(IdLease::endless);
        notifier.id_leases(leases.collect());
        notifier.offer(Table::new(options.static_instances.clone()).endpoints());
        stop.await;
        return Ok(());
    }
    let registry = Zookeeper::new(&options.zookeeper_hosts, options.session_timeout, &metrics);
    follow(registry, &options, &metrics, &notifier, &answers, stop).await
}

/// [`watch`] over any registry.
pub(super) async fn follow(
    mut registry: impl Registry,
    options: &WatchOptions,
    metrics: &Discovery,
    notifier: &Notifier<'_>,
    answers: &dyn Fn(Service) -> bool,
    stop: impl Future<Output = ()>,
) -> Result<(), WatchError> {
    let outcome = tokio::select! {
        error = sessions(&mut registry, options, metrics, notifier, answers) => Err(error),
        () = stop => Ok(()),
    };
    registry.close().await;
    outcome
}

async fn sessions<R: Registry>(
    registry: &mut R,
    options: &WatchOptions,
    metrics: &Discovery,
    notifier: &Notifier<'_>,
    answers: &dyn Fn(Service) -> bool,
) -> WatchError {
    let mut registration = Registration {
        claim: Claim::new(options),
        lessee: Lessee::new(&options.gateway_id),
        held: Vec::new(),
        options,
        metrics,
        notifier,
    };
    let mut follower = Follower::new(options, metrics, notifier, answers);
    loop {
        let session = registry.begin().await;
        let outcome = contained(R::NAME, async {
            tokio::select! {
                // First, so that the end of a session is no trouble of those that use it.
                biased;
                () = ended::<R>(&session, metrics) => None,
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
        registry.lost();
    }
}

/// What makes this gateway the one of its id, over all sessions: its node, and its worker numbers.
struct Registration<'a> {
    claim: Claim,
    lessee: Lessee,
    held: Vec<Held>,
    options: &'a WatchOptions,
    metrics: &'a Discovery,
    notifier: &'a Notifier<'a>,
}

impl Registration<'_> {
    /// Keeps the gateway registered for as long as the session lasts. Returns what the holder of
    /// the id says about himself when that is another gateway.
    async fn keep(&mut self, session: &impl Session) -> String {
        let mut states = session.states();
        let mut back_off = BackOff::connecting(random());
        loop {
            let problem = match self.claim.hold(session).await {
                Err(ClaimError::Taken(holder)) => return holder,
                Err(ClaimError::Registry(error)) => Some(error.to_string()),
                Ok(()) => self
                    .lease(session)
                    .await
                    .err()
                    .map(|error| error.to_string()),
            };
            self.metrics.set_registered(problem.is_none());
            match problem {
                // Looked at again as often as everything is, and after each reconnection.
                None => {
                    self.metrics.unregistered.end();
                    back_off.reset();
                    pause(&mut states, self.options.interval.min(RAISE_EVERY)).await;
                }
                Some(problem) => {
                    if self.metrics.unregistered.report(&problem) {
                        warn!("the gateway is not registered: {problem}; trying on");
                    }
                    pause(&mut states, Duration::from_millis(back_off.next_ms())).await;
                }
            }
        }
    }

    async fn lease(&mut self, session: &impl Session) -> Result<(), LeaseError> {
        let cores = self.options.cores;
        self.held = self.lessee.lease(session, cores, &self.held).await?;
        let leases = self.held.iter().map(|held| held.lease);
        self.notifier.id_leases(leases.collect());
        Ok(())
    }
}
