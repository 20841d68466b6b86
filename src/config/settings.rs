//! The configuration as the program uses it: parsed addresses, milliseconds, bytes; every value in
//! its range.
//!
//! Owns the runtime types. Only [`super::load`] makes them, so whoever holds [`Settings`] need not
//! check again. Holds no secret, only the path of the file that does: it may be printed whole.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::IpNet;
use log::LevelFilter;

use crate::{
    base::names::Alphabet,
    contract::{endpoints::Instance, methods::Service, mpim::Concessions},
    token::issuer::SubjectKind,
};

/// Everything that is configured. Sections and names are those of the file; a unit is added where a
/// number needs one.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `[gateway_service]`.
    pub gateway_service: GatewayService,
    /// Where clients are taken in; the first is the one named `line`.
    pub listeners: Vec<Listener>,
    /// `[web]`.
    pub web: Web,
    /// `[tls]`: its limits. What listeners show is theirs.
    pub tls: TlsLimits,
    /// `[cluster_tls]`; `None`: gateways and backends speak without TLS.
    pub cluster_tls: Option<ClusterTls>,
    /// `[network]`.
    pub network: Network,
    /// `[service_discovery]`.
    pub service_discovery: ServiceDiscovery,
    /// `[load_balancer]`.
    pub load_balancer: LoadBalancer,
    /// `[ops]`.
    pub ops: Ops,
    /// `[metrics]`.
    pub metrics: Metrics,
    /// `[limits]`.
    pub limits: Limits,
    /// `[auth]`.
    pub auth: Auth,
    /// `[accounts]`.
    pub accounts: Accounts,
    /// `[rpc]`.
    pub rpc: Rpc,
    /// `[redis]`.
    pub redis: Redis,
    /// `[presence]`.
    pub presence: Presence,
    /// `[backend]`.
    pub backend: BackendProcess,
    /// `[mpim]`.
    pub mpim: Concessions,
    /// `[log]`.
    pub log: Log,
}

/// A listener for clients: `[gateway_service]`, `[web]` or `[listener.<name>]`.
#[derive(Clone, Debug, PartialEq)]
pub struct Listener {
    /// What it is called: `line`, `web`, or the name of its table.
    pub name: String,
    /// Where it listens; port 0 means any free port.
    pub address: SocketAddr,
    /// What it carries; never empty.
    pub carriers: Vec<Carrier>,
    /// Whether proxies, and nobody else, connect to it and say for whom.
    pub is_proxied: bool,
    /// What TLS is like there; `None`: there is none.
    pub tls: Option<TlsSettings>,
    /// Whether clients may come without TLS where there is some.
    pub is_tls_optional: bool,
    /// Nobody asked for it: it is left out where its address is taken.
    pub is_default: bool,
}

/// What a listener with TLS shows clients and asks of them.
#[derive(Clone, Debug, PartialEq)]
pub struct TlsSettings {
    /// Its certificates; never empty. The first is shown to who names none of their hosts.
    pub certificates: Vec<CertificateFiles>,
    /// Whether clients show certificates, and the file with those of who signs them.
    pub client_certificates: ClientCertificates,
    /// Whether TLS 1.2 is refused.
    pub is_1_3_alone: bool,
}

/// A certificate with its key.
#[derive(Clone, Debug, PartialEq)]
pub struct CertificateFiles {
    /// The file with the certificate and those that lead to who signed it.
    pub certificate: PathBuf,
    /// The file with the private key.
    pub key: PathBuf,
    /// The hosts that it is shown for, in small letters; empty: those that it names itself.
    pub names: Vec<String>,
}

/// Whether clients show certificates.
#[derive(Clone, Debug, PartialEq)]
pub enum ClientCertificates {
    /// They are not asked for any.
    Off,
    /// They may show one that these have signed.
    Optional(PathBuf),
    /// They must.
    Required(PathBuf),
}

/// `[tls]`: how many handshakes there may be, for all listeners.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TlsLimits {
    /// How long one may take.
    pub handshake_timeout_ms: u64,
    /// Of a core, under way at one time.
    pub handshakes: usize,
    /// Of a core, begun in a second.
    pub handshakes_per_second: u32,
}

/// `[cluster_tls]`: what gateways and backends show each other.
#[derive(Clone, Debug, PartialEq)]
pub struct ClusterTls {
    /// The file with this process's certificate and those that lead to who signed it.
    pub certificate: PathBuf,
    /// The file with its private key.
    pub key: PathBuf,
    /// The file with those who sign the certificates of all of them.
    pub ca: PathBuf,
}

/// TLS to a server that is not of the cluster.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServerTls {
    /// The file with those who may sign its certificate; `None`: whom the system trusts.
    pub ca: Option<PathBuf>,
    /// The files with the certificate that it is shown, and with its key.
    pub own: Option<(PathBuf, PathBuf)>,
}

/// What brings a client's requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carrier {
    /// Lines over TCP.
    Line,
    /// Messages of a WebSocket.
    WebSocket,
    /// Requests of HTTP.
    Http,
}

/// `[gateway_service]`: the process.
#[derive(Clone, Debug, PartialEq)]
pub struct GatewayService {
    /// Worker threads; 0 means one per CPU the process may use.
    pub thread_count: usize,
    /// Connections at one time over all workers, before the limit of open files is regarded.
    pub max_connections: usize,
    /// A connection from which nothing was read for so long is closed.
    pub connection_timeout_ms: u64,
    /// The name of this gateway: 1–64 of `[A-Za-z0-9._-]`.
    pub gateway_id: String,
    /// Where data is kept.
    pub data_dir: PathBuf,
    /// How long a stop waits for clients.
    pub drain_timeout: Duration,
    /// Whether a new connection is greeted.
    pub banner: bool,
    /// The first of this gateway's worker numbers, one for each worker, where no ZooKeeper hands
    /// them out and backends are elsewhere: there it is always set.
    pub first_worker: Option<u16>,
}

/// `[web]`: WebSocket and HTTP.
#[derive(Clone, Debug, PartialEq)]
pub struct Web {
    /// Where a WebSocket may begin, beside `/ws`.
    pub paths: Vec<String>,
    /// The origins whose pages may begin one; empty: those of the host that is asked.
    pub allowed_origins: Vec<String>,
    /// Whether the chat page is at `/`.
    pub has_page: bool,
    /// A client that says nothing is pinged so often.
    pub ping_interval_ms: u64,
    /// A client from which nothing came for so long is closed.
    pub ping_timeout_ms: u64,
}

/// `[network]`: the sockets of clients.
#[derive(Clone, Debug, PartialEq)]
pub struct Network {
    /// Silence before TCP probes the peer; `None`: no probes.
    pub tcp_keepalive: Option<Duration>,
    /// Whether small packets leave at once.
    pub tcp_nodelay: bool,
    /// How long sent data may stay unacknowledged; `None`: the kernel's own rule.
    pub tcp_user_timeout: Option<Duration>,
    /// The kernel's send buffer (SO_SNDBUF).
    pub send_buffer_bytes: usize,
    /// The kernel's receive buffer (SO_RCVBUF).
    pub receive_buffer_bytes: usize,
    /// Connections the kernel holds until they are accepted.
    pub backlog: i32,
}

/// `[service_discovery]`: where backends are found.
#[derive(Clone, Debug, PartialEq)]
pub struct ServiceDiscovery {
    /// ZooKeeper's addresses, `host:port` separated by commas, and a root path if there is one;
    /// empty: no ZooKeeper.
    pub zookeeper_hosts: String,
    /// How long ZooKeeper keeps what a silent process registered.
    pub zookeeper_session_timeout: Duration,
    /// Instances that are known without ZooKeeper.
    pub static_instances: Vec<(Service, Instance)>,
    /// How often everything is read again.
    pub service_discovery_interval: Duration,
    /// How often an instance's health is checked.
    pub health_check_interval: Duration,
}

/// `[load_balancer]`: how a backend instance is chosen.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadBalancer {
    /// The rule by which it is chosen.
    pub algorithm: Algorithm,
    /// Further attempts after a failed call.
    pub max_retries: u32,
    /// Pause before one instance is asked a third time; it doubles from there.
    pub retry_interval_ms: u64,
    /// Failures in a row that take an instance out.
    pub circuit_breaker_threshold: u32,
}

/// The rules by which an instance is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// One after the other.
    RoundRobin,
    /// The one with the fewest calls outstanding.
    LeastConnections,
    /// In proportion to the weights the instances announce.
    Weighted,
}

impl Settings {
    /// Whether services and bus are outside of this process.
    pub fn is_cluster(&self) -> bool {
        self.service_discovery.is_cluster()
    }
}

impl ServiceDiscovery {
    /// Whether backends are outside of this process.
    pub(super) fn is_cluster(&self) -> bool {
        !self.zookeeper_hosts.is_empty() || !self.static_instances.is_empty()
    }
}

impl Algorithm {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::RoundRobin, Self::LeastConnections, Self::Weighted];

    /// The word for it in the file.
    pub fn word(self) -> &'static str {
        match self {
            Self::RoundRobin => "round_robin",
            Self::LeastConnections => "least_connections",
            Self::Weighted => "weighted",
        }
    }
}

/// `[ops]`: the HTTP listener for operators.
#[derive(Clone, Debug, PartialEq)]
pub struct Ops {
    /// Where it listens; `None`: not at all.
    pub listen: Option<SocketAddr>,
    /// What TLS is like there; `None`: there is none.
    pub tls: Option<TlsSettings>,
}

/// `[metrics]`: what is counted.
#[derive(Clone, Debug, PartialEq)]
pub struct Metrics {
    /// Whether metrics that were renamed are written under their old names too.
    pub old_names: bool,
}

/// `[limits]`: what one client may take.
#[derive(Clone, Debug, PartialEq)]
pub struct Limits {
    /// Longest line after login, its terminator counted.
    pub max_line_bytes: usize,
    /// Longest line before login; never more than `max_line_bytes`.
    pub login_line_bytes: usize,
    /// Messages of one connection that are stored together.
    pub pipeline_limit: usize,
    /// Bad lines after which a connection is closed.
    pub protocol_error_limit: u32,
    /// Time a connection has to log in.
    pub login_timeout_ms: u64,
    /// What a connection may leave unread; at least four of the longest lines.
    pub outbound_queue_bytes: usize,
    /// Messages a manually confirming connection may leave unconfirmed.
    pub unconfirmed_limit: usize,
    /// Devices of one user at one time.
    pub max_devices: u32,
    /// Unconfirmed messages of one user.
    pub inbox_limit: u64,
    /// Connections of one IPv4 address or IPv6 /64 at one time.
    pub connections_per_ip: u32,
    /// Commands a second and connection, on average.
    pub commands_per_second: u32,
    /// Commands that may come at once.
    pub commands_burst: u32,
    /// How long a connection may stay over its rate.
    pub throttle_timeout_ms: u64,
    /// Failed logins before the next one has to wait.
    pub login_attempts: u32,
    /// The first wait.
    pub login_delay_ms: u64,
    /// The longest wait; never less than `login_delay_ms`.
    pub login_delay_max_ms: u64,
    /// Accounts that one IPv4 address or IPv6 /64 may register in an hour, and at once.
    pub registrations_per_hour: u32,
    /// Networks that are not counted by address or rate.
    pub limit_exempt: Vec<IpNet>,
    /// Proxies that are believed whose connections they pass on.
    pub trusted_proxies: Vec<IpNet>,
}

/// `[auth]`: passwords and tokens.
#[derive(Clone, Debug, PartialEq)]
pub struct Auth {
    /// How long a token is good, in whole seconds.
    pub token_lifetime_seconds: u64,
    /// How far ahead of this clock a token may be dated, in whole seconds.
    pub clock_leeway_seconds: u64,
    /// The file with the key that signs tokens.
    pub token_secret_file: PathBuf,
    /// Threads that hash passwords.
    pub password_threads: usize,
    /// Logins that may wait for them, and as many registrations.
    pub password_queue: usize,
    /// Whether clients may register accounts.
    pub is_registration_open: bool,
    /// Whose tokens are taken beside the gateway's own.
    pub issuers: Vec<IssuerSettings>,
}

/// `[[auth.issuer]]`: one whose tokens are taken.
#[derive(Clone, Debug, PartialEq)]
pub struct IssuerSettings {
    /// What its tokens call it.
    pub name: String,
    /// What its tokens call this gateway; empty: nothing.
    pub audience: String,
    /// The claim that says who a token is about.
    pub claim: String,
    /// What that claim is.
    pub subject: SubjectKind,
    /// What it signs with.
    pub keys: IssuerKeys,
    /// What it signed with before.
    pub previous: Option<PreviousKey>,
}

/// Where an issuer's keys are.
#[derive(Clone, Debug, PartialEq)]
pub enum IssuerKeys {
    /// A file with the secret that it shares.
    Secret(PathBuf),
    /// A file with its public key.
    Public(PathBuf),
    /// A file with its key set.
    Set(PathBuf),
    /// Where it publishes its key set.
    Url {
        /// With https, or with http on this machine.
        url: String,
        /// How its server is spoken to.
        tls: ServerTls,
    },
}

/// A key of the same kind that is good for a while yet.
#[derive(Clone, Debug, PartialEq)]
pub struct PreviousKey {
    /// The file with it.
    pub file: PathBuf,
    /// Until then, in seconds since 1970.
    pub until_unix_s: u64,
}

/// `[accounts]`: what users may be called.
#[derive(Clone, Debug, PartialEq)]
pub struct Accounts {
    /// What new names are made of.
    pub names: Alphabet,
}

/// `[rpc]`: calls to backends.
#[derive(Clone, Debug, PartialEq)]
pub struct Rpc {
    /// How long a call may take.
    pub rpc_timeout_ms: u64,
    /// The longest reply.
    pub max_reply_bytes: usize,
    /// Connections of a worker to one instance that answers one call at a time.
    pub pool_size: usize,
    /// Connections of a worker to one instance that takes many calls at a time.
    pub connections_per_instance: usize,
}

/// `[redis]`: the push bus of a cluster.
#[derive(Clone, Debug, PartialEq)]
pub struct Redis {
    /// Its address, `host:port`.
    pub address: String,
    /// How TLS is spoken to it; `None`: none is.
    pub tls: Option<ServerTls>,
    /// The ACL user; `None`: the default user.
    pub user: Option<String>,
    /// The file with the password; `None`: none is sent.
    pub password_file: Option<PathBuf>,
    /// The file with the secret that publishers and gateways share; `None`: pushes are believed
    /// without proof.
    pub push_secret_file: Option<PathBuf>,
}

impl Redis {
    /// The host of its address.
    pub fn host(&self) -> &str {
        let host = self.address.rsplit_once(':').map_or("", |(host, _)| host);
        host.trim_start_matches('[').trim_end_matches(']')
    }
}

/// `[presence]`: who is connected where.
#[derive(Clone, Debug, PartialEq)]
pub struct Presence {
    /// How long a route lasts that nobody refreshes.
    pub route_lifetime: Duration,
}

/// `[backend]`: the services as a process of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct BackendProcess {
    /// Where it listens; port 0 means any free port.
    pub listen: SocketAddr,
    /// The address that gateways are told; `None`: where it listens.
    pub advertise: Option<SocketAddr>,
    /// What it offers, each once; never empty.
    pub services: Vec<Service>,
    /// Whether it registers one node for each instance.
    pub registers_instances: bool,
    /// Whether it registers one node for each method, as MPIM does.
    pub registers_methods: bool,
    /// Its share of the calls where gateways balance by weight.
    pub weight: u32,
    /// Whether accounts are kept by a User Service elsewhere: every positive number may be a
    /// user's.
    pub foreign_users: bool,
    /// Whether no other process uses the same data directory.
    pub exclusive: bool,
}

impl BackendProcess {
    /// Has it offer these services, each once, and no others.
    ///
    /// # Errors
    /// Why they cannot be offered together.
    pub fn offer(&mut self, services: Vec<Service>) -> Result<(), &'static str> {
        if self.foreign_users && services.contains(&Service::User) {
            return Err(
                "users are either this service's own or kept elsewhere: take \"user\" out of services",
            );
        }
        self.services.clear();
        for service in services {
            if !self.services.contains(&service) {
                self.services.push(service);
            }
        }
        Ok(())
    }
}

/// `[log]`: the program's own log.
#[derive(Clone, Debug, PartialEq)]
pub struct Log {
    /// What is logged, unless `RUST_LOG` says otherwise.
    pub level: LevelFilter,
}
