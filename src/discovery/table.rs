//! The table of instances: what is configured, what stands in ZooKeeper, and what is kept although
//! it stands there no more.
//!
//! Owns the rule of grace. Nodes may vanish although their processes answer: after an outage of
//! ZooKeeper everybody's sessions may have ended together, and somebody may delete too much. So a
//! service that is found empty keeps the instances it had until one is back, and for [`GRACE`] at
//! most unless calls to them succeed; whoever has really ended refuses connections, which costs no
//! more than having nobody to call. A service that is merely smaller than before is taken as found.
//!
//! Pure: the time is handed in.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use crate::contract::{
    endpoints::{Endpoints, EndpointsBuilder, Instance},
    methods::{METHODS, Service},
};

/// How long the last instances of a service outlive their nodes: longer than a backend takes to
/// register again.
const GRACE: Duration = Duration::from_secs(30);

/// What is looked for: a service, or who answers `HealthService.Ping`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// The instances of a service.
    Service(Service),
    /// Those that answer pings.
    Health,
}

impl Place {
    /// All of them.
    pub(super) const ALL: [Self; PLACES] = [
        Self::Service(Service::User),
        Self::Service(Service::Presence),
        Self::Service(Service::Message),
        Self::Service(Service::Group),
        Self::Health,
    ];

    /// Its name on the wire and in ZooKeeper.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Service(service) => service.name(),
            Self::Health => "HealthService",
        }
    }

    /// The methods that may have a node of their own there.
    pub(super) fn methods(self) -> impl Iterator<Item = &'static str> {
        let of_service = METHODS
            .iter()
            .filter(move |(service, _)| self == Self::Service(*service))
            .map(|(_, name)| *name);
        of_service.chain((self == Self::Health).then_some("Ping"))
    }

    /// Its node below the root.
    pub(super) fn path(self) -> String {
        format!("/{}", self.name())
    }
}

/// How many places there are.
pub(super) const PLACES: usize = Service::ALL.len() + 1;

/// What stands under one place and can be read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// From records.
    pub(super) instances: Vec<Instance>,
    /// From nodes of single methods.
    pub(super) methods: Vec<(&'static str, SocketAddr)>,
}

impl Found {
    fn is_empty(&self) -> bool {
        self.instances.is_empty() && self.methods.is_empty()
    }
}

/// What is known of one place.
#[derive(Debug, Default)]
struct Known {
    /// `None`: never read.
    found: Option<Found>,
    /// It was found empty, and is kept as it was until then.
    kept_until: Option<Instant>,
}

/// Everything that is known.
#[derive(Debug)]
pub(super) struct Table {
    configured: Vec<(Service, Instance)>,
    known: [Known; PLACES],
}

impl Table {
    /// A table that knows what is configured.
    pub(super) fn new(configured: Vec<(Service, Instance)>) -> Self {
        Self {
            configured,
            known: Default::default(),
        }
    }

    /// Place number `place` was read. Says whether it was found empty for the first time and is
    /// kept as it was.
    pub(super) fn update(&mut self, place: usize, found: Found, now: Instant) -> bool {
        assert!(place < PLACES, "there is no place {place}");
        let known = &mut self.known[place];
        let had_some = known.found.as_ref().is_some_and(|found| !found.is_empty());
        if !found.is_empty() || !had_some {
            *known = Known {
                found: Some(found),
                kept_until: None,
            };
            self.assert_invariants();
            return false;
        }
        let is_first = known.kept_until.is_none();
        known.kept_until.get_or_insert(now + GRACE);
        self.assert_invariants();
        is_first
    }

    /// Drops what was kept for long enough, and does not answer. Says whether there was any.
    pub(super) fn expire(&mut self, now: Instant, answers: impl Fn(Service) -> bool) -> bool {
        let mut dropped = false;
        for (place, known) in Place::ALL.into_iter().zip(&mut self.known) {
            if known.kept_until.is_some_and(|until| until <= now) {
                let is_of_use = match place {
                    Place::Service(service) => answers(service),
                    Place::Health => Service::ALL.into_iter().any(&answers),
                };
                if is_of_use {
                    known.kept_until = Some(now + GRACE);
                    continue;
                }
                *known = Known {
                    found: Some(Found::default()),
                    kept_until: None,
                };
                dropped = true;
            }
        }
        self.assert_invariants();
        assert!(
            self.expires().is_none_or(|next| next > now),
            "what expired is gone or kept anew"
        );
        dropped
    }

    /// What is kept is something, and was found before it was missing.
    fn assert_invariants(&self) {
        for known in self.known.iter().filter(|known| known.kept_until.is_some()) {
            let kept = known.found.as_ref();
            assert!(
                kept.is_some_and(|found| !found.is_empty()),
                "nothing is kept"
            );
        }
    }

    /// When [`expire`](Self::expire) will have something to drop.
    pub(super) fn expires(&self) -> Option<Instant> {
        self.known.iter().filter_map(|known| known.kept_until).min()
    }

    /// Whether every place has been read, so that what is missing is known to be missing.
    pub(super) fn is_complete(&self) -> bool {
        self.known.iter().all(|known| known.found.is_some())
    }

    /// The table as the cores get it.
    pub(super) fn endpoints(&self) -> Endpoints {
        let mut builder = EndpointsBuilder::default();
        for (service, instance) in &self.configured {
            builder.instance(*service, instance.clone());
        }
        for (place, known) in Place::ALL.into_iter().zip(&self.known) {
            if let Some(found) = &known.found {
                add(&mut builder, place, found);
            }
        }
        builder.build()
    }
}

fn add(builder: &mut EndpointsBuilder, place: Place, found: &Found) {
    match place {
        Place::Service(service) => {
            for instance in &found.instances {
                builder.instance(service, instance.clone());
            }
            for (method, address) in &found.methods {
                builder.method(service, method, *address);
            }
        }
        Place::Health => {
            for instance in &found.instances {
                builder.health(instance.address);
            }
            for (_, address) in &found.methods {
                builder.health(*address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::endpoints::{MethodSet, Wire};

    const USER: usize = 0;
    const HEALTH: usize = PLACES - 1;

    fn address(port: u16) -> SocketAddr {
        ([127, 0, 0, 1], port).into()
    }

    fn instance(port: u16) -> Instance {
        Instance {
            address: address(port),
            wire: Wire::WithIds,
            weight: Instance::USUAL_WEIGHT,
            methods: MethodSet::all_of(Service::User),
        }
    }

    fn found(ports: &[u16]) -> Found {
        Found {
            instances: ports.iter().map(|port| instance(*port)).collect(),
            methods: Vec::new(),
        }
    }

    fn nobody(_: Service) -> bool {
        false
    }

    fn users(table: &Table) -> Vec<u16> {
        let endpoints = table.endpoints();
        let ports = endpoints.of(Service::User).iter();
        ports.map(|instance| instance.address.port()).collect()
    }

    #[test]
    fn configured_instances_are_always_there() {
        let start = Instant::now();
        let mut table = Table::new(vec![(Service::User, instance(1))]);
        assert_eq!(users(&table), [1]);
        table.update(USER, found(&[2]), start);
        assert_eq!(users(&table), [1, 2]);
        table.update(USER, found(&[]), start);
        table.expire(start + GRACE, nobody);
        assert_eq!(users(&table), [1]);
    }

    #[test]
    fn a_table_is_complete_once_every_place_was_read() {
        let mut table = Table::new(Vec::new());
        for place in 0..PLACES {
            assert!(!table.is_complete());
            table.update(place, Found::default(), Instant::now());
        }
        assert!(table.is_complete());
    }

    #[test]
    fn a_service_found_empty_is_kept_until_one_is_back() {
        let start = Instant::now();
        let mut table = Table::new(Vec::new());
        assert!(!table.update(USER, found(&[]), start));
        assert!(!table.update(USER, found(&[1, 2]), start));
        assert!(table.update(USER, found(&[]), start));
        assert_eq!(users(&table), [1, 2]);
        assert_eq!(table.expires(), Some(start + GRACE));
        let later = start + Duration::from_secs(5);
        assert!(!table.update(USER, found(&[]), later));
        assert!(!table.expire(later, nobody));
        assert_eq!(users(&table), [1, 2]);
        assert_eq!(table.expires(), Some(start + GRACE));
        table.update(USER, found(&[3]), later);
        assert_eq!(users(&table), [3]);
        assert_eq!(table.expires(), None);
    }

    #[test]
    fn a_service_that_stays_empty_loses_its_instances_when_the_grace_is_over() {
        let start = Instant::now();
        let mut table = Table::new(Vec::new());
        table.update(USER, found(&[1]), start);
        table.update(USER, found(&[]), start);
        assert!(!table.expire(start + Duration::from_secs(29), nobody));
        assert_eq!(users(&table), [1]);
        assert!(table.expire(start + GRACE, nobody));
        assert_eq!(users(&table), [0u16; 0]);
        assert!(!table.expire(start + GRACE, nobody));
        table.update(USER, found(&[]), start + GRACE);
        assert_eq!(table.expires(), None);
    }

    #[test]
    fn a_service_that_answers_keeps_its_instances_for_as_long_as_it_does() {
        let start = Instant::now();
        let mut table = Table::new(Vec::new());
        table.update(USER, found(&[1]), start);
        table.update(HEALTH, found(&[1]), start);
        table.update(USER, found(&[]), start);
        table.update(HEALTH, found(&[]), start);
        let answers = |service| service == Service::User;
        assert!(!table.expire(start + GRACE, answers));
        assert_eq!(users(&table), [1]);
        assert!(table.endpoints().answers_ping(address(1)));
        assert_eq!(table.expires(), Some(start + GRACE * 2));
        assert!(table.expire(start + GRACE * 2, nobody));
        assert_eq!(users(&table), [0u16; 0]);
    }

    #[test]
    fn a_smaller_service_is_taken_as_found() {
        let start = Instant::now();
        let mut table = Table::new(Vec::new());
        table.update(USER, found(&[1, 2, 3]), start);
        table.update(USER, found(&[2]), start);
        assert_eq!(users(&table), [2]);
    }

    #[test]
    fn those_that_answer_pings_come_from_records_and_from_nodes_of_the_method() {
        let mut table = Table::new(Vec::new());
        let health = Found {
            methods: vec![("Ping", address(2))],
            ..found(&[1])
        };
        table.update(HEALTH, health, Instant::now());
        let endpoints = table.endpoints();
        assert!(endpoints.answers_ping(address(1)));
        assert!(endpoints.answers_ping(address(2)));
        assert!(!endpoints.answers_ping(address(3)));
    }
}
