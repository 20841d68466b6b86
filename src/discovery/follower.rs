//! Follows the instances, over all sessions: watches, reads what changed, offers the table.

use std::{
    pin::pin,
    time::{Duration, Instant},
};

use log::warn;

use super::{
    WatchOptions,
    notifier::Notifier,
    pacing::ReadPacing,
    reading::{BrokenNodes, read},
    registry::{RegistryError, Session, State, States, Watch, pause},
    table::{PLACES, Place, Table},
};
use crate::{
    base::back_off::BackOff,
    contract::methods::Service,
    machine::random_seed::random,
    metrics::{Discovery, outage::Outage},
};

/// Follows the instances, over all sessions.
pub(super) struct Follower<'a> {
    interval: Duration,
    metrics: &'a Discovery,
    notifier: &'a Notifier<'a>,
    table: Table,
    broken: BrokenNodes,
    unread: Outage,
    /// Whether calls to a service succeed.
    answers: &'a dyn Fn(Service) -> bool,
    /// Of each place, that it has no instance.
    empty: [Outage; PLACES],
}

impl<'a> Follower<'a> {
    pub(super) fn new(
        options: &WatchOptions,
        metrics: &'a Discovery,
        notifier: &'a Notifier<'a>,
        answers: &'a dyn Fn(Service) -> bool,
    ) -> Self {
        Self {
            answers,
            interval: options.interval,
            metrics,
            notifier,
            table: Table::new(options.static_instances.clone()),
            broken: BrokenNodes::default(),
            unread: Outage::default(),
            empty: Default::default(),
        }
    }

    /// Follows until the session is of no more use.
    pub(super) async fn follow(&mut self, session: &impl Session) {
        let mut states = session.states();
        // Watched before read: what changes in between is told.
        let paths = Place::ALL.map(Place::path);
        let mut back_off = BackOff::connecting(random());
        let mut watch = loop {
            match session.watch(&paths).await {
                Ok(watch) => break watch,
                Err(error) => self.report("watch", &error),
            }
            pause(&mut states, Duration::from_millis(back_off.next_ms())).await;
        };
        let mut stale = [true; PLACES];
        let mut pacing = ReadPacing::default();
        pacing.changed(Instant::now());
        let mut next_full = Instant::now() + self.interval;
        loop {
            // Without a connection there is nothing to read, however much is due.
            let due = pacing.due().filter(|_| session.state() == State::Connected);
            let wake = [due, self.table.expires(), Some(next_full)];
            let wake = wake.into_iter().flatten().min().unwrap_or(next_full);
            tokio::select! {
                biased;
                state = states.changed() => {
                    if state == State::Ended {
                        return;
                    }
                    if state == State::Connected {
                        // Events of the time between are lost.
                        stale = [true; PLACES];
                        pacing.changed(Instant::now());
                    }
                }
                () = tokio::time::sleep_until(wake.into()) => {}
                place = watch.changed() => {
                    assert!(place < PLACES, "there is no place {place}");
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
                self.read(session, &mut watch, &mut stale).await;
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
        // A table with places that were never read would take away what is there.
        if self.table.is_complete() {
            self.notifier.offer(self.table.endpoints());
        }
    }

    /// Reads what is stale. What could not be read, or changed meanwhile, is stale afterwards.
    async fn read(
        &mut self,
        session: &impl Session,
        watch: &mut impl Watch,
        stale: &mut [bool; PLACES],
    ) {
        let mut all_well = true;
        for (number, place) in Place::ALL.into_iter().enumerate() {
            if !std::mem::take(&mut stale[number]) {
                continue;
            }
            self.metrics.service_read();
            // Events are taken while the answers are waited for: they queue without a bound.
            let mut reading = pin!(read(session, place));
            let outcome = loop {
                tokio::select! {
                    biased;
                    outcome = &mut reading => break outcome,
                    changed = watch.changed() => stale[changed] = true,
                }
            };
            match outcome {
                Ok(reading) => {
                    self.broken.found(number, &reading.broken, self.metrics);
                    let now = Instant::now();
                    let is_empty = self.table.update(number, reading.found, now);
                    let problem = format!("no instance of {} is registered any more", place.name());
                    if is_empty && self.empty[number].report(&problem) {
                        warn!("{problem}; going on with those there were");
                    }
                }
                Err(error) => {
                    all_well = false;
                    stale[number] = true;
                    self.report(place.name(), &error);
                }
            }
        }
        if all_well {
            self.unread.end();
        }
    }

    fn report(&self, what: &str, error: &RegistryError) {
        let problem = format!("cannot read backends from ZooKeeper ({what}): {error}");
        if self.unread.report(&problem) {
            warn!("{problem}; trying on");
        }
    }
}
