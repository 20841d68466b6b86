//! Which instances of each service there are, and what each can do.
//!
//! Owns the table that service discovery fills and the grammar of its records. Knows no ZooKeeper:
//! it is told what stands where. A table never changes; a new one takes its place.
//!
//! Invariants: an address stands in the list of a service once; a record of its own says more about
//! an address than the nodes of single methods do.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
};

use serde::{Deserialize, Serialize};

use crate::contract::methods::{METHODS, Method, Service, method};

/// The longest record that is looked at.
const RECORD_MAX_BYTES: usize = 64 * 1024;
/// The greatest weight.
pub const WEIGHT_MAX: u32 = 1_000_000;

/// How an instance is spoken to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wire {
    /// Replies without ids: one call at a time on a connection.
    Classic,
    /// Replies with ids: any number of calls at a time.
    WithIds,
}

impl Wire {
    /// The word for it in records and in the configuration.
    pub fn word(self) -> &'static str {
        match self {
            Self::Classic => "mprpc",
            Self::WithIds => "mprpc-id",
        }
    }

    /// The wire of that word.
    pub fn from_word(word: &str) -> Option<Self> {
        [Self::Classic, Self::WithIds]
            .into_iter()
            .find(|wire| wire.word() == word)
    }
}

/// A set of methods, of any services.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MethodSet(u64);

const _: () = assert!(METHODS.len() <= 64, "one bit for each method");

impl MethodSet {
    /// Every method of `service`.
    pub fn all_of(service: Service) -> Self {
        let mut set = Self::default();
        for (_, name) in METHODS.iter().filter(|(of, _)| *of == service) {
            set.insert(service, name);
        }
        set
    }

    /// What an instance of `service` is taken to offer that does not say. A server of the classic
    /// wire cannot say that it does not know a method, so it is not asked for one that came later.
    pub fn assumed(service: Service, wire: Wire) -> Self {
        let mut set = Self::all_of(service);
        if wire == Wire::Classic {
            set.0 &= !(1 << method::SendBatch::INDEX);
            set.0 &= !(1 << method::VerifyToken::INDEX);
        }
        set
    }

    /// Adds a method by its name; one that nobody knows is left out.
    pub fn insert(&mut self, service: Service, name: &str) {
        if let Some(index) = METHODS.iter().position(|method| *method == (service, name)) {
            self.0 |= 1 << index;
        }
    }

    /// Whether `M` is in it.
    pub fn contains<M: Method>(self) -> bool {
        self.0 >> M::INDEX & 1 == 1
    }

    /// Whether nothing is in it.
    pub fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// One process that offers a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// Where it listens.
    pub address: SocketAddr,
    /// How it is spoken to.
    pub wire: Wire,
    /// Its share of the calls where they go by weight; 0: none.
    pub weight: u32,
    /// What it offers.
    pub methods: MethodSet,
}

impl Instance {
    /// The weight of an instance that names none.
    pub const USUAL_WEIGHT: u32 = 100;
}

/// An instance's record as it is written: JSON in `/SERVICE/instances/NAME`. Unknown members are
/// ignored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Its address, `IP:PORT`.
    pub addr: String,
    /// How it is spoken to.
    #[serde(default = "usual_rpc")]
    pub rpc: String,
    /// Its share of the calls.
    #[serde(default = "usual_weight")]
    pub weight: u32,
    /// The methods it offers; absent: all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub methods: Option<Vec<String>>,
}

fn usual_rpc() -> String {
    Wire::Classic.word().to_owned()
}

fn usual_weight() -> u32 {
    Instance::USUAL_WEIGHT
}

/// Why a node in service discovery says nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadRecord {
    /// Longer than any record.
    #[error("{0} bytes are too long for a record")]
    TooLong(usize),
    /// Not what it should be written in.
    #[error("not a record: {0}")]
    Syntax(String),
    /// Not an IP address with a port.
    #[error("not an IP address with a port: {0:?}")]
    Address(String),
    /// A way to be spoken to that this gateway does not know.
    #[error("rpc {0:?} is not spoken here")]
    Rpc(String),
    /// More than anybody weighs.
    #[error("weight {0} is more than {WEIGHT_MAX}")]
    Weight(u32),
}

/// What is quoted of a bad record, at most.
const QUOTED_CHARS: usize = 80;

fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_CHARS).collect()
}

fn text_of(data: &[u8]) -> Result<&str, BadRecord> {
    if data.len() > RECORD_MAX_BYTES {
        return Err(BadRecord::TooLong(data.len()));
    }
    std::str::from_utf8(data).map_err(|_| BadRecord::Syntax("not UTF-8".to_owned()))
}

fn address_of(text: &str) -> Result<SocketAddr, BadRecord> {
    text.trim()
        .parse::<SocketAddr>()
        .ok()
        .filter(|address| address.port() != 0 && !address.ip().is_unspecified())
        .ok_or_else(|| BadRecord::Address(quoted(text)))
}

/// Reads the data of `/SERVICE/instances/NAME`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_record(service: Service, data: &[u8]) -> Result<Instance, BadRecord> {
    let record: Record = serde_json::from_str(text_of(data)?)
        .map_err(|error| BadRecord::Syntax(quoted(&error.to_string())))?;
    if record.weight > WEIGHT_MAX {
        return Err(BadRecord::Weight(record.weight));
    }
    let wire = Wire::from_word(&record.rpc).ok_or_else(|| BadRecord::Rpc(quoted(&record.rpc)))?;
    let mut methods = MethodSet::default();
    match &record.methods {
        Some(names) => names.iter().for_each(|name| methods.insert(service, name)),
        None => methods = MethodSet::assumed(service, wire),
    }
    Ok(Instance {
        address: address_of(&record.addr)?,
        wire,
        weight: record.weight,
        methods,
    })
}

/// Reads the data of `/SERVICE/METHOD`.
///
/// # Errors
/// What is wrong with it.
pub fn parse_method_node(data: &[u8]) -> Result<SocketAddr, BadRecord> {
    address_of(text_of(data)?)
}

/// All instances of all services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Endpoints {
    services: [Vec<Instance>; Service::ALL.len()],
    /// Where `HealthService.Ping` is answered.
    pinged: BTreeSet<SocketAddr>,
}

impl Endpoints {
    /// The instances of `service`, in the order of their addresses.
    pub fn of(&self, service: Service) -> &[Instance] {
        &self.services[service as usize]
    }

    /// Whether the process at `address` answers `HealthService.Ping`.
    pub fn answers_ping(&self, address: SocketAddr) -> bool {
        self.pinged.contains(&address)
    }
}

impl fmt::Display for Endpoints {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, service) in Service::ALL.into_iter().enumerate() {
            let separator = if index == 0 { "" } else { ", " };
            write!(
                f,
                "{separator}{} {}",
                self.of(service).len(),
                service.name()
            )?;
        }
        Ok(())
    }
}

/// A table while it is put together, from records and nodes in any order.
#[derive(Clone, Debug, Default)]
pub struct EndpointsBuilder {
    recorded: BTreeMap<(usize, SocketAddr), Instance>,
    by_method: BTreeMap<(usize, SocketAddr), MethodSet>,
    pinged: BTreeSet<SocketAddr>,
}

impl EndpointsBuilder {
    /// An instance that has a record, or is configured. Two records of one address are one instance
    /// with what both offer.
    pub fn instance(&mut self, service: Service, instance: Instance) -> &mut Self {
        self.recorded
            .entry((service as usize, instance.address))
            .and_modify(|known| known.methods.0 |= instance.methods.0)
            .or_insert(instance);
        self
    }

    /// A method that has a node of its own.
    pub fn method(&mut self, service: Service, name: &str, address: SocketAddr) -> &mut Self {
        self.by_method
            .entry((service as usize, address))
            .or_default()
            .insert(service, name);
        self
    }

    /// An address that answers `HealthService.Ping`.
    pub fn health(&mut self, address: SocketAddr) -> &mut Self {
        self.pinged.insert(address);
        self
    }

    /// The table.
    pub fn build(mut self) -> Endpoints {
        for ((service, address), methods) in self.by_method {
            self.recorded.entry((service, address)).or_insert(Instance {
                address,
                wire: Wire::Classic,
                weight: Instance::USUAL_WEIGHT,
                methods,
            });
        }
        let mut endpoints = Endpoints {
            pinged: self.pinged,
            ..Endpoints::default()
        };
        for ((service, _), instance) in self.recorded {
            if !instance.methods.is_empty() {
                endpoints.services[service].push(instance);
            }
        }
        endpoints
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::methods::method;

    fn address(text: &str) -> SocketAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn a_full_record_says_it_all_and_unknown_members_nothing() {
        let data = br#"{"addr":"10.0.0.5:5001","rpc":"mprpc-id","weight":7,"methods":["Login","Fly"],"zone":"a"}"#;
        let instance = parse_record(Service::User, data).expect("a record");
        assert_eq!(instance.address, address("10.0.0.5:5001"));
        assert_eq!((instance.wire, instance.weight), (Wire::WithIds, 7));
        assert!(instance.methods.contains::<method::Login>());
        assert!(!instance.methods.contains::<method::Register>());
    }

    #[test]
    fn a_short_record_is_classic_of_usual_weight_and_offers_everything() {
        let instance = parse_record(Service::Group, br#"{"addr":"[::1]:5001"}"#).expect("a record");
        assert_eq!(instance.wire, Wire::Classic);
        assert_eq!(instance.weight, Instance::USUAL_WEIGHT);
        assert_eq!(instance.methods, MethodSet::all_of(Service::Group));
    }

    #[test]
    fn what_is_no_record_is_refused_and_says_why() {
        let long = vec![b'x'; RECORD_MAX_BYTES + 1];
        let cases: [&[u8]; 12] = [
            b"",
            b"\xff",
            b"10.0.0.5:5001",
            b"{}",
            b"null",
            br#"{"addr":"10.0.0.5"}"#,
            br#"{"addr":"backend:5001"}"#,
            br#"{"addr":"10.0.0.5:0"}"#,
            br#"{"addr":"0.0.0.0:5001"}"#,
            br#"{"addr":"10.0.0.5:5001","rpc":"grpc"}"#,
            br#"{"addr":"10.0.0.5:5001","weight":4000000}"#,
            &long,
        ];
        for data in cases {
            let error = parse_record(Service::User, data).expect_err("not a record");
            assert!(error.to_string().len() < 200, "{error}");
        }
    }

    #[test]
    fn method_nodes_hold_an_address_and_nothing_else() {
        assert_eq!(
            parse_method_node(b"127.0.0.1:8010"),
            Ok(address("127.0.0.1:8010"))
        );
        assert_eq!(
            parse_method_node(b"[2001:db8::1]:8010"),
            Ok(address("[2001:db8::1]:8010"))
        );
        let long = vec![b'1'; RECORD_MAX_BYTES + 1];
        for data in [
            &b""[..],
            b"127.0.0.1",
            b"localhost:8010",
            b"::1",
            b"127.0.0.1:99999",
            b"127.0.0.1:8010\0",
            b"\xfe\xff",
            &long,
        ] {
            assert!(parse_method_node(data).is_err(), "{data:?}");
        }
    }

    #[test]
    fn method_nodes_of_one_address_make_one_classic_instance_with_those_methods() {
        let mut builder = EndpointsBuilder::default();
        let place = address("127.0.0.1:8010");
        builder
            .method(Service::User, "Login", place)
            .method(Service::User, "Register", place)
            .method(Service::User, "NoSuchThing", place)
            .method(Service::Group, "CreateGroup", place);
        let endpoints = builder.build();
        let [user] = endpoints.of(Service::User) else {
            panic!("one instance: {endpoints:?}");
        };
        assert_eq!(user.wire, Wire::Classic);
        assert!(user.methods.contains::<method::Login>());
        assert!(!user.methods.contains::<method::Logout>());
        assert_eq!(endpoints.of(Service::Group).len(), 1);
        assert!(endpoints.of(Service::Message).is_empty());
    }

    #[test]
    fn a_record_stands_above_the_method_nodes_of_its_address() {
        let mut builder = EndpointsBuilder::default();
        let place = address("127.0.0.1:8010");
        let record = parse_record(
            Service::User,
            br#"{"addr":"127.0.0.1:8010","rpc":"mprpc-id"}"#,
        );
        builder
            .method(Service::User, "Login", place)
            .instance(Service::User, record.clone().expect("a record"))
            .method(Service::User, "Login", address("127.0.0.1:8011"));
        let endpoints = builder.build();
        let wires: Vec<Wire> = endpoints
            .of(Service::User)
            .iter()
            .map(|instance| instance.wire)
            .collect();
        assert_eq!(wires, [Wire::WithIds, Wire::Classic]);
    }

    #[test]
    fn an_address_that_offers_nothing_known_is_no_instance() {
        let mut builder = EndpointsBuilder::default();
        builder.method(Service::User, "Fly", address("127.0.0.1:8010"));
        assert_eq!(builder.build(), Endpoints::default());
    }
}
