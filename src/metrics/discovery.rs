//! How discovery is doing, for `/readyz` and `/metrics`.
//!
//! Owns the numbers. Written by the control thread, read by whoever wants to know.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use crate::{
    contract::{endpoints::Endpoints, methods::Service},
    metrics::outage::Outage,
};

/// How discovery is doing. All zero and false until this process watches or registers.
#[derive(Debug, Default)]
pub struct Discovery {
    connected: AtomicBool,
    registered: AtomicBool,
    sessions: AtomicU64,
    expirations: AtomicU64,
    bad_records: AtomicU64,
    bad_records_total: AtomicU64,
    reads_total: AtomicU64,
    instances: [AtomicU64; Service::ALL.len()],
    /// Why there is no connection.
    pub(crate) disconnected: Outage,
    /// Why this process is not registered although there is one.
    pub(crate) unregistered: Outage,
}

impl Discovery {
    /// Whether there is a connection to ZooKeeper now.
    pub fn is_connected(&self) -> bool {
        self.connected.load(Relaxed)
    }

    /// Whether this process stands in ZooKeeper, as far as is known.
    pub fn is_registered(&self) -> bool {
        self.registered.load(Relaxed)
    }

    /// What is wrong now with ZooKeeper or with what this process wants of it; `None`: nothing, as
    /// far as is known.
    pub fn trouble(&self) -> Option<String> {
        let disconnected = self.disconnected.reason();
        disconnected.or_else(|| self.unregistered.reason())
    }

    /// Sessions begun.
    pub fn sessions(&self) -> u64 {
        self.sessions.load(Relaxed)
    }

    /// Sessions that were lost.
    pub fn expirations(&self) -> u64 {
        self.expirations.load(Relaxed)
    }

    /// Nodes under the services that cannot be read as what they should be, now.
    pub fn bad_records(&self) -> u64 {
        self.bad_records.load(Relaxed)
    }

    /// Such nodes since the start; one that stays as it is counts once.
    pub fn bad_records_total(&self) -> u64 {
        self.bad_records_total.load(Relaxed)
    }

    /// Times a service was read.
    pub fn reads_total(&self) -> u64 {
        self.reads_total.load(Relaxed)
    }

    /// Instances of `service` in the table.
    pub fn instances(&self, service: Service) -> u64 {
        self.instances[service as usize].load(Relaxed)
    }

    pub(crate) fn set_connected(&self, connected: bool) {
        self.connected.store(connected, Relaxed);
    }

    pub(crate) fn set_registered(&self, registered: bool) {
        self.registered.store(registered, Relaxed);
    }

    pub(crate) fn session_begun(&self) {
        self.sessions.fetch_add(1, Relaxed);
    }

    pub(crate) fn session_lost(&self) {
        self.expirations.fetch_add(1, Relaxed);
    }

    pub(crate) fn service_read(&self) {
        self.reads_total.fetch_add(1, Relaxed);
    }

    /// `now` bad nodes stand there, `unseen` of them for the first time.
    pub(crate) fn bad_records_found(&self, now: u64, unseen: u64) {
        self.bad_records.store(now, Relaxed);
        self.bad_records_total.fetch_add(unseen, Relaxed);
    }

    pub(crate) fn set_table(&self, endpoints: &Endpoints) {
        for service in Service::ALL {
            self.instances[service as usize].store(endpoints.of(service).len() as u64, Relaxed);
        }
    }
}
