//! The backend's side: keeps its nodes in ZooKeeper for as long as it serves.
//!
//! Owns which nodes there are and the judgement of a node that stands there already. A node of an
//! earlier run of this backend is replaced at once; one that another process has is left to it and
//! taken when it vanishes, which is how the nodes of single methods are handed on.

use std::{collections::HashSet, net::SocketAddr, sync::Arc, time::Duration};

use log::{info, warn};

use super::{
    Gateways, claim,
    process::host_name,
    registry::{Owner, Registry, RegistryError, Session, contained, ended, pause},
    table::Place,
    zookeeper::Zookeeper,
};
use crate::{
    base::{back_off::BackOff, repeat::Repeat},
    config::settings::{BackendProcess, ServiceDiscovery},
    contract::{
        endpoints::{Record, Wire, parse_method_node},
        methods::Service,
    },
    machine::random_seed::random,
    metrics::Discovery,
};

/// How often it is made sure that all nodes are there.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

/// The longest host name in a node's name.
const HOST_CHARS: usize = 64;

/// What [`register`] works with.
#[derive(Clone, Debug)]
pub struct RegisterOptions {
    /// `host:port` separated by commas, and a root path if there is one; empty: no ZooKeeper.
    pub zookeeper_hosts: String,
    /// How long ZooKeeper keeps the nodes after this process has fallen silent. The server may
    /// raise it.
    pub(super) session_timeout: Duration,
    /// The address that gateways are told.
    pub address: SocketAddr,
    /// What it offers.
    pub services: Vec<Service>,
    /// Its share of the calls where gateways balance by weight.
    pub weight: u32,
    /// Whether it registers one node for each service.
    pub registers_instances: bool,
    /// Whether it registers one node for each method.
    pub registers_methods: bool,
}

impl RegisterOptions {
    /// What the settings say, for a backend that is reached at `address`.
    pub fn new(
        discovery: &ServiceDiscovery,
        backend: &BackendProcess,
        address: SocketAddr,
    ) -> Self {
        Self {
            zookeeper_hosts: discovery.zookeeper_hosts.clone(),
            session_timeout: discovery.zookeeper_session_timeout,
            address,
            services: backend.services.clone(),
            weight: backend.weight,
            registers_instances: backend.registers_instances,
            registers_methods: backend.registers_methods,
        }
    }
}

/// Keeps the backend's nodes in ZooKeeper until `stop` is fulfilled; then closes the session, so
/// that they vanish at once. Waits for ZooKeeper for as long as it takes. Without ZooKeeper there
/// is nothing to do.
pub async fn register(
    options: RegisterOptions,
    metrics: Arc<Discovery>,
    gateways: Arc<Gateways>,
    stop: impl Future<Output = ()>,
) {
    if options.zookeeper_hosts.is_empty() {
        stop.await;
        return;
    }
    let registry = Zookeeper::new(&options.zookeeper_hosts, options.session_timeout, &metrics);
    stay_registered(registry, &options, &metrics, &gateways, stop).await;
}

/// [`register`] in any registry.
pub(super) async fn stay_registered(
    mut registry: impl Registry,
    options: &RegisterOptions,
    metrics: &Discovery,
    gateways: &Gateways,
    stop: impl Future<Output = ()>,
) {
    tokio::select! {
        () = sessions(&mut registry, options, metrics, gateways) => {}
        () = stop => {}
    }
    registry.close().await;
}

async fn sessions<R: Registry>(
    registry: &mut R,
    options: &RegisterOptions,
    metrics: &Discovery,
    gateways: &Gateways,
) {
    let mut registration = Registration::new(options);
    loop {
        let session = registry.begin().await;
        contained(R::NAME, async {
            tokio::select! {
                // First, so that the end of a session is no trouble of those that use it.
                biased;
                () = ended::<R>(&session, metrics) => {}
                () = registration.keep(&session, metrics, gateways) => {}
            }
        })
        .await;
        drop(session);
        registry.lost();
    }
}

/// A node that should be there.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Node {
    place: Place,
    /// Whether it is a record, which only this backend would write.
    is_record: bool,
    path: String,
    data: Vec<u8>,
}

/// What became of the attempt to have a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    /// It is ours.
    Ours,
    /// It is another process's, or could not be made.
    Others,
}

/// What to do about a node that stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// It is ours and says what it should.
    Keep,
    /// It is ours and says something else.
    Rewrite,
    /// An earlier run left it.
    Replace,
    /// It is another process's.
    Leave,
}

struct Registration {
    address: SocketAddr,
    nodes: Vec<Node>,
    /// Nodes of other sessions that were replaced. One that comes back belongs to somebody alive,
    /// and is left to him: two backends that were told the same address shall not fight.
    replaced: HashSet<String>,
}

impl Registration {
    fn new(options: &RegisterOptions) -> Self {
        Self {
            address: options.address,
            nodes: nodes(options, &host_name()),
            replaced: HashSet::new(),
        }
    }

    /// Only nodes of ours are replaced, and each has a path of its own.
    fn check(&self) {
        let paths: HashSet<&str> = self.nodes.iter().map(|node| node.path.as_str()).collect();
        assert_eq!(paths.len(), self.nodes.len(), "no node fights another");
        assert!(
            self.replaced
                .iter()
                .all(|path| paths.contains(path.as_str())),
            "what others have elsewhere is left alone"
        );
    }

    /// Has all nodes for as long as the session lasts.
    async fn keep(&mut self, session: &impl Session, metrics: &Discovery, gateways: &Gateways) {
        let mut states = session.states();
        let mut was_registered = false;
        let mut back_off = BackOff::connecting(random());
        loop {
            let (outcomes, error) = self.hold_all(session).await;
            let (is_registered, others) = self.judge(&outcomes);
            metrics.set_registered(is_registered);
            if is_registered && !was_registered {
                info!("registered in ZooKeeper as {}", self.address);
            }
            was_registered = is_registered;
            // What was known stays known where ZooKeeper does not say.
            if let Ok(addresses) = claim::addresses(session).await {
                gateways.set(addresses);
            }
            let wait = match error {
                None => {
                    metrics.unregistered.end();
                    back_off.reset();
                    match others {
                        true => Repeat::NODES.first(),
                        false => CHECK_INTERVAL,
                    }
                }
                Some(error) => {
                    let problem = format!("cannot register in ZooKeeper: {error}");
                    if metrics.unregistered.report(&problem) {
                        warn!("{problem}; trying on");
                    }
                    Duration::from_millis(back_off.next_ms())
                }
            };
            pause(&mut states, wait).await;
        }
    }

    /// What became of each node, and what went wrong last.
    async fn hold_all(&mut self, session: &impl Session) -> (Vec<Outcome>, Option<RegistryError>) {
        let mut outcomes = Vec::with_capacity(self.nodes.len());
        let mut last_error = None;
        for node in &self.nodes {
            let outcome = hold(session, node, self.address, &mut self.replaced).await;
            outcomes.push(outcome.unwrap_or_else(|error| {
                last_error = Some(error);
                Outcome::Others
            }));
        }
        self.check();
        (outcomes, last_error)
    }

    /// Whether each service can be found here, and whether another process has nodes that we would
    /// take.
    fn judge(&self, outcomes: &[Outcome]) -> (bool, bool) {
        assert_eq!(outcomes.len(), self.nodes.len(), "an outcome for each node");
        let mut found: HashSet<&str> = HashSet::new();
        let mut others = false;
        for (node, outcome) in self.nodes.iter().zip(outcomes) {
            match outcome {
                Outcome::Ours => {
                    found.insert(node.place.name());
                }
                Outcome::Others => others = true,
            }
        }
        let all_found = self
            .nodes
            .iter()
            .all(|node| found.contains(node.place.name()) || node.place == Place::Health);
        (all_found, others)
    }
}

/// Makes `node` ours, if nobody else has it.
async fn hold(
    session: &impl Session,
    node: &Node,
    address: SocketAddr,
    replaced: &mut HashSet<String>,
) -> Result<Outcome, RegistryError> {
    let Some(entry) = session.read(&node.path).await? else {
        return create(session, node).await;
    };
    let is_first = !replaced.contains(&node.path);
    let is_ours = match verdict(entry.owner, node, &entry.data, address, is_first) {
        Verdict::Keep => true,
        Verdict::Rewrite => {
            session.rewrite(&node.path, &node.data).await?;
            true
        }
        Verdict::Replace => {
            assert_ne!(entry.owner, Owner::Us, "what is ours is rewritten");
            if entry.owner == Owner::Other {
                replaced.insert(node.path.clone());
            }
            session
                .replace(&node.path, entry.version, &node.data)
                .await?
        }
        Verdict::Leave => false,
    };
    Ok(if is_ours {
        Outcome::Ours
    } else {
        Outcome::Others
    })
}

async fn create(session: &impl Session, node: &Node) -> Result<Outcome, RegistryError> {
    let created = match session.create(&node.path, &node.data).await {
        Err(RegistryError::NoFolder) => {
            let (parent, _) = node.path.rsplit_once('/').unwrap_or_default();
            session.ensure(parent).await?;
            session.create(&node.path, &node.data).await?
        }
        result => result?,
    };
    Ok(if created {
        Outcome::Ours
    } else {
        Outcome::Others
    })
}

fn verdict(owner: Owner, node: &Node, data: &[u8], address: SocketAddr, is_first: bool) -> Verdict {
    match owner {
        Owner::Us if data == node.data => Verdict::Keep,
        Owner::Us => Verdict::Rewrite,
        Owner::UsBefore => Verdict::Replace,
        Owner::Other => {
            // We listen at this address, so whoever registered it has ended.
            let names_us = node.is_record || parse_method_node(data) == Ok(address);
            if names_us && is_first {
                Verdict::Replace
            } else {
                Verdict::Leave
            }
        }
    }
}

/// All nodes of a backend.
fn nodes(options: &RegisterOptions, host: &str) -> Vec<Node> {
    let name = node_name(host, options.address);
    let services = options
        .services
        .iter()
        .map(|service| Place::Service(*service));
    let mut nodes = Vec::new();
    for place in services.chain([Place::Health]) {
        let methods: Vec<&str> = place.methods().collect();
        if options.registers_instances {
            nodes.push(Node {
                place,
                is_record: true,
                path: format!("{}/instances/{name}", place.path()),
                data: record(options, &methods),
            });
        }
        if options.registers_methods {
            nodes.extend(methods.iter().map(|method| Node {
                place,
                is_record: false,
                path: format!("{}/{method}", place.path()),
                data: options.address.to_string().into_bytes(),
            }));
        }
    }
    nodes
}

fn record(options: &RegisterOptions, methods: &[&str]) -> Vec<u8> {
    let record = Record {
        addr: options.address.to_string(),
        rpc: Wire::WithIds.word().to_owned(),
        weight: options.weight,
        methods: Some(methods.iter().map(|method| (*method).to_owned()).collect()),
    };
    // Nothing in it can fail to be written.
    serde_json::to_vec(&record).unwrap_or_default()
}

/// The name of a backend's records: `HOST-IP-PORT`, of letters, digits and `._-` only.
fn node_name(host: &str, address: SocketAddr) -> String {
    let host: String = host.chars().take(HOST_CHARS).collect();
    let name = format!("{host}-{}-{}", address.ip(), address.port());
    let is_safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    name.chars()
        .map(|c| if is_safe(c) { c } else { '_' })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::contract::endpoints::{MethodSet, parse_record};

    fn options() -> RegisterOptions {
        RegisterOptions {
            zookeeper_hosts: String::new(),
            session_timeout: Duration::from_secs(1),
            address: ([10, 0, 0, 5], 5001).into(),
            services: vec![Service::User, Service::Group],
            weight: 7,
            registers_instances: true,
            registers_methods: true,
        }
    }

    fn paths(nodes: &[Node]) -> Vec<&str> {
        nodes.iter().map(|node| node.path.as_str()).collect()
    }

    #[test]
    fn a_backend_has_a_record_and_a_node_for_each_method_of_its_services() {
        let nodes = nodes(&options(), "host-1");
        let paths = paths(&nodes);
        for path in [
            "/UserService/instances/host-1-10.0.0.5-5001",
            "/UserService/Login",
            "/GroupService/GetGroupInfo",
            "/HealthService/instances/host-1-10.0.0.5-5001",
            "/HealthService/Ping",
        ] {
            assert!(paths.contains(&path), "{path} in {paths:?}");
        }
        assert!(!paths.iter().any(|path| path.starts_with("/MessageService")));
    }

    #[test]
    fn what_is_written_is_what_gateways_read() {
        for node in nodes(&options(), "host-1") {
            if !node.is_record {
                assert_eq!(parse_method_node(&node.data), Ok(options().address));
            } else if let Place::Service(service) = node.place {
                let instance = parse_record(service, &node.data).expect("a record");
                assert_eq!(instance.address, options().address);
                assert_eq!((instance.wire, instance.weight), (Wire::WithIds, 7));
                assert_eq!(instance.methods, MethodSet::all_of(service));
            }
        }
    }

    #[test]
    fn each_layout_can_be_left_out() {
        let only_records = nodes(
            &RegisterOptions {
                registers_methods: false,
                ..options()
            },
            "h",
        );
        assert!(only_records.iter().all(|node| node.is_record));
        assert_eq!(only_records.len(), 3);
        let only_methods = nodes(
            &RegisterOptions {
                registers_instances: false,
                ..options()
            },
            "h",
        );
        assert!(only_methods.iter().all(|node| !node.is_record));
    }

    #[test]
    fn names_hold_nothing_that_zookeeper_or_a_person_would_trip_over() {
        let address = "[2001:db8::1]:5001".parse().expect("an address");
        assert_eq!(node_name("a/b\n", address), "a_b_-2001_db8__1-5001");
        assert!(node_name(&"x".repeat(1000), address).len() < 128);
    }

    #[test]
    fn nodes_of_earlier_runs_are_replaced_once_and_those_of_others_left() {
        let nodes = nodes(&options(), "h");
        let address = options().address;
        let (record, method) = (&nodes[0], &nodes[1]);
        assert!(record.is_record && !method.is_record);
        let judged = |owner, node: &Node, data: &[u8], is_first| {
            verdict(owner, node, data, address, is_first)
        };
        assert_eq!(judged(Owner::Us, record, &record.data, true), Verdict::Keep);
        assert_eq!(judged(Owner::Us, record, b"", true), Verdict::Rewrite);
        assert_eq!(
            judged(Owner::UsBefore, method, b"", false),
            Verdict::Replace
        );
        assert_eq!(judged(Owner::Other, record, b"", true), Verdict::Replace);
        assert_eq!(judged(Owner::Other, record, b"", false), Verdict::Leave);
        assert_eq!(
            judged(Owner::Other, method, &method.data, true),
            Verdict::Replace
        );
        assert_eq!(
            judged(Owner::Other, method, &method.data, false),
            Verdict::Leave
        );
        assert_eq!(
            judged(Owner::Other, method, b"10.0.0.6:5001", true),
            Verdict::Leave
        );
    }

    #[test]
    fn a_backend_is_registered_when_each_service_can_be_found_at_it() {
        let registration = Registration::new(&options());
        let all = vec![Outcome::Ours; registration.nodes.len()];
        assert_eq!(registration.judge(&all), (true, false));
        let mut records_only = all.clone();
        for (outcome, node) in records_only.iter_mut().zip(&registration.nodes) {
            if !node.is_record {
                *outcome = Outcome::Others;
            }
        }
        assert_eq!(registration.judge(&records_only), (true, true));
        let none = vec![Outcome::Others; registration.nodes.len()];
        assert_eq!(registration.judge(&none), (false, true));
    }
}
