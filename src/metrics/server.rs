//! The numbers of `im-gateway backend`: calls answered for gateways, and publishes on Redis.
//!
//! Owns the labels that only these have. One thread, the one that serves, writes all of them,
//! except where a cell is shared.

use super::{Counter, Gauge, Label, PerLabel, SharedCounter, label::labels};
use crate::{contract::methods::Service, metrics::outage::Outage};

/// What a caller asked for, as far as a label may tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Called {
    /// One of the services of the contract.
    Service(Service),
    /// Whether the process answers.
    Health,
    /// A name that is no service.
    Unknown,
}

/// How a call ended, as the server sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallOutcome {
    /// The service answered, whatever it said.
    Answered,
    /// There is no such method here.
    UnknownMethod,
    /// The arguments do not parse.
    BadRequest,
    /// The services had no room for it.
    Overloaded,
}

/// Why the server closed a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServerRefusal {
    /// There are as many as there may be.
    MaxConnections,
    /// There are as many of its address as there may be.
    PerAddress,
    /// The places that are left are for the addresses of gateways.
    Strangers,
    /// It showed no certificate of the cluster.
    Handshake,
    /// What came was no call.
    Framing,
    /// It did not read its replies, or never finished a call.
    Stalled,
    /// Nothing came of it for long, and nothing was under way.
    Idle,
    /// Its half-sent call was too much beside those of others.
    HalfSent,
}

/// Why a push was not published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PublishDrop {
    /// There was no connection to Redis.
    Disconnected,
    /// Redis was too slow, and too much was waiting.
    QueueFull,
}

/// The numbers of one backend process.
#[derive(Debug, Default)]
pub struct Server {
    /// Open connections of gateways.
    pub connections: Gauge,
    calls: PerLabel<Called, Outcomes, { <Called as Label>::ALL.len() }>,
    closed: PerLabel<ServerRefusal, Counter, { <ServerRefusal as Label>::ALL.len() }>,
    /// Publishes that Redis has taken.
    pub publishes: Counter,
    /// Publishes that Redis refused or never answered.
    pub publish_failures: Counter,
    /// Pushes that were never handed to Redis; the store's thread counts as well.
    dropped: PerLabel<PublishDrop, SharedCounter, { <PublishDrop as Label>::ALL.len() }>,
    /// 1 while Redis takes publishes.
    pub publisher_connected: Gauge,
    /// Why Redis takes none, or why it refused one lately.
    pub publisher_outage: Outage,
}

/// The outcomes of calls to one service.
type Outcomes = PerLabel<CallOutcome, Counter, { <CallOutcome as Label>::ALL.len() }>;

impl Server {
    /// All zero.
    pub fn new() -> Self {
        Self::default()
    }

    /// A call was dealt with.
    #[inline]
    pub fn call(&self, called: Called, outcome: CallOutcome) {
        self.calls.at(called).at(outcome).inc();
    }

    /// A connection was turned away or given up.
    pub fn closed(&self, reason: ServerRefusal) {
        self.closed.at(reason).inc();
    }

    /// `count` pushes were not published. Any thread may tell.
    pub fn push_dropped(&self, reason: PublishDrop, count: u64) {
        self.dropped.at(reason).add(count);
    }

    /// Every service and outcome with its count.
    pub fn calls(&self) -> impl Iterator<Item = (&'static str, &'static str, u64)> {
        self.calls.iter().flat_map(|(service, outcomes)| {
            let outcomes = outcomes.iter();
            outcomes.map(move |(outcome, count)| (service, outcome, count.get()))
        })
    }

    /// Every reason to close a connection, with its count.
    pub fn closes(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.closed
            .iter()
            .map(|(reason, count)| (reason, count.get()))
    }

    /// Every reason not to publish, with its count.
    pub fn drops(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.dropped
            .iter()
            .map(|(reason, count)| (reason, count.get()))
    }
}

impl Label for Called {
    const ALL: &'static [Self] = &[
        Self::Service(Service::User),
        Self::Service(Service::Presence),
        Self::Service(Service::Message),
        Self::Service(Service::Group),
        Self::Health,
        Self::Unknown,
    ];
    fn index(self) -> usize {
        match self {
            Self::Service(service) => service as usize,
            Self::Health => Service::ALL.len(),
            Self::Unknown => Service::ALL.len() + 1,
        }
    }
    fn word(self) -> &'static str {
        match self {
            Self::Service(service) => service.name(),
            Self::Health => "HealthService",
            Self::Unknown => "unknown",
        }
    }
}

labels! {
    CallOutcome {
        Answered => "answered",
        UnknownMethod => "unknown_method",
        BadRequest => "bad_request",
        Overloaded => "overloaded",
    }
    ServerRefusal {
        MaxConnections => "max_connections",
        PerAddress => "per_address",
        Strangers => "strangers",
        Handshake => "handshake",
        Framing => "framing",
        Stalled => "stalled",
        Idle => "idle",
        HalfSent => "half_sent",
    }
    PublishDrop {
        Disconnected => "disconnected",
        QueueFull => "queue_full",
    }
}

#[cfg(test)]
mod tests {
    use super::{super::label::tests::indexes_and_words_are_unique, *};

    #[test]
    fn each_label_value_has_its_own_cell_and_word() {
        indexes_and_words_are_unique::<Called>();
        indexes_and_words_are_unique::<CallOutcome>();
        indexes_and_words_are_unique::<ServerRefusal>();
        indexes_and_words_are_unique::<PublishDrop>();
    }
}
