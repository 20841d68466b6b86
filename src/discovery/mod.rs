//! How gateways and backends find each other: ZooKeeper, or instances that are configured.
//!
//! Owns the layout under ZooKeeper's root path, what is registered there and for how long, and the
//! table of instances that follows from it. Never calls an instance, never waits for a core, and
//! needs nothing of ZooKeeper to be there already. Everything here runs on the control thread's
//! runtime; what it has to tell leaves as [`Event`].
//!
//! ```text
//!   /UserService/instances/NAME     a backend's record (JSON); ephemeral           watched
//!   /UserService/Login              "IP:PORT", one process for each method; ephemeral    watched
//!   /HealthService/…                the same two, for HealthService.Ping           watched
//!   /im-gateway/instances/ID        a gateway's record (JSON); ephemeral           claimed
//!   /im-gateway/workers/N           the gateway that has worker number N; ephemeral      leased
//!   /im-gateway/marks/N             up to when ids of number N may have been made; stays  raised
//! ```
//!
//! - [`watch`] is the gateway's side: it claims its id, leases worker numbers and follows the
//!   instances (`follower`); what it finds goes through `notifier`.
//! - [`register`] is the backend's side: it keeps its entries in place.
//! - `registry` is what both ask of the system that keeps entries; `zookeeper` is the one there is.
//! - `table` and `pacing` are the rules, in values and times: what the table is made of, what
//!   outlives an outage, and how often is read. `claim`, `lease` and `process` judge whose an entry
//!   is; `mark` keeps ids from coming twice; `reading` judges what stands under a service.
//! - [`survey`] looks once, for `im-gateway doctor`.
//!
//! Invariants: a table that was told is replaced by a newer one, never by none, so ZooKeeper may go
//! away at any time; worker numbers are told before the first table; what is broken under a service
//! is counted and left out, whatever it is.

mod claim;
mod follower;
mod lease;
mod mark;
mod notifier;
mod pacing;
mod process;
mod reading;
mod register;
mod registry;
mod survey;
mod table;
#[cfg(test)]
mod tests;
mod watch;
mod zookeeper;

use std::{
    collections::HashSet,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

pub use self::{
    register::{RegisterOptions, register},
    survey::{Registered, survey},
    watch::watch,
};

use crate::{
    base::{
        error::{ExitCode, StartupError},
        id::IdLease,
    },
    config::settings::Settings,
    contract::{
        endpoints::{Endpoints, Instance},
        methods::Service,
    },
};

/// What discovery tells the gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The instances there are now.
    Endpoints(Arc<Endpoints>),
    /// The ids of each worker, in order. Comes before the first table, again whenever a lease is
    /// extended, and if numbers were lost to others while ZooKeeper was away.
    IdLeases(Vec<IdLease>),
}

/// What [`watch`] works with.
#[derive(Clone, Debug)]
pub struct WatchOptions {
    /// `host:port` separated by commas, and a root path if there is one; empty: no ZooKeeper.
    pub zookeeper_hosts: String,
    /// How long ZooKeeper keeps what this process registered after it has fallen silent. The server
    /// may raise it.
    session_timeout: Duration,
    /// How often everything is read again.
    pub interval: Duration,
    /// Instances that are always in the table.
    pub static_instances: Vec<(Service, Instance)>,
    /// The id this gateway claims.
    pub gateway_id: String,
    /// Where its line protocol listens.
    pub line_address: SocketAddr,
    /// Where its operations listen; `None`: nowhere.
    pub ops_address: Option<SocketAddr>,
    /// How many worker numbers it needs.
    pub cores: usize,
    /// The first of its worker numbers where there is no ZooKeeper, which is when it is there.
    pub first_worker: Option<u16>,
}

impl WatchOptions {
    /// What `settings` say, for a gateway of `cores` workers that listens on these addresses.
    pub fn new(
        settings: &Settings,
        line_address: SocketAddr,
        ops_address: Option<SocketAddr>,
        cores: usize,
    ) -> Self {
        let discovery = &settings.service_discovery;
        Self {
            zookeeper_hosts: discovery.zookeeper_hosts.clone(),
            session_timeout: discovery.zookeeper_session_timeout,
            interval: discovery.service_discovery_interval,
            static_instances: discovery.static_instances.clone(),
            gateway_id: settings.gateway_service.gateway_id.clone(),
            line_address,
            ops_address,
            cores,
            first_worker: settings.gateway_service.first_worker,
        }
    }
}

/// The addresses of registered gateways, as far as they are known: [`register`] writes them, who
/// serves calls reads them.
#[derive(Debug, Default)]
pub struct Gateways(Mutex<Option<Arc<HashSet<IpAddr>>>>);

impl Gateways {
    /// Those that were registered when last looked; `None`: they are not known.
    pub fn addresses(&self) -> Option<Arc<HashSet<IpAddr>>> {
        let addresses = self.0.lock();
        addresses.unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set(&self, addresses: Option<HashSet<IpAddr>>) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *known = addresses.map(Arc::new);
    }
}

/// Why a gateway cannot go on.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WatchError {
    /// Another gateway that is alive has this one's id.
    #[error("another live gateway has the id {gateway_id:?}: {holder}")]
    IdTaken {
        /// The id.
        gateway_id: String,
        /// What the other one says about itself.
        holder: String,
    },
}

impl From<WatchError> for StartupError {
    fn from(error: WatchError) -> Self {
        let remedy = "give each gateway a gateway_service.gateway_id of its own";
        Self::new(ExitCode::Backend, "cannot register", error, remedy)
    }
}
