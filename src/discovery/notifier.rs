//! What discovery has told the gateway, and what waits to be told.
//!
//! Owns the order (worker numbers before the first table) and how much of it is logged.

use std::{
    cell::{Cell, RefCell},
    sync::Arc,
    time::{Duration, Instant},
};

use log::{debug, info};

use super::{Event, WatchOptions};
use crate::{base::id::IdLease, contract::endpoints::Endpoints, metrics::Discovery};

/// Changes of the table that are logged within [`LOG_WINDOW`]; more, as when an instance comes and
/// goes all the time, are logged at debug level.
const LOGGED_MAX: u32 = 10;

/// See [`LOGGED_MAX`].
const LOG_WINDOW: Duration = Duration::from_secs(30);

/// What has been told, and what waits for the registration.
pub(super) struct Notifier<'a> {
    metrics: &'a Discovery,
    tell: &'a dyn Fn(Event),
    leases: RefCell<Vec<IdLease>>,
    table: RefCell<Option<Arc<Endpoints>>>,
    told_table: Cell<bool>,
    /// When the window of [`LOGGED_MAX`] began, and how many were logged in it.
    logged: Cell<(Instant, u32)>,
}

impl<'a> Notifier<'a> {
    pub(super) fn new(
        options: &WatchOptions,
        metrics: &'a Discovery,
        tell: &'a dyn Fn(Event),
    ) -> Self {
        debug_assert!(options.cores > 0, "a gateway has workers");
        Self {
            metrics,
            tell,
            leases: RefCell::default(),
            table: RefCell::default(),
            told_table: Cell::new(false),
            logged: Cell::new((Instant::now(), 0)),
        }
    }

    /// These are the ids of the cores now. What waited for the first ones is told after them.
    pub(super) fn id_leases(&self, leases: Vec<IdLease>) {
        assert!(!leases.is_empty(), "a gateway has workers");
        if *self.leases.borrow() != leases {
            let numbers = |leases: &[IdLease]| leases.iter().map(|lease| lease.worker).collect();
            let now: Vec<u16> = numbers(&leases);
            let before: Vec<u16> = numbers(&self.leases.borrow());
            if now != before {
                info!("worker numbers: {now:?}");
            }
            self.leases.replace(leases.clone());
            (self.tell)(Event::IdLeases(leases));
        }
        self.tell_table();
    }

    /// This is the table now.
    pub(super) fn offer(&self, endpoints: Endpoints) {
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
        self.metrics.set_table(&endpoints);
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
            assert!(
                !self.leases.borrow().is_empty(),
                "worker numbers come before the first table"
            );
            (self.tell)(Event::Endpoints(table));
        }
    }
}
