//! The configuration file as it is written: its sections, keys, types and defaults, each named
//! exactly once.
//!
//! Owns the list of what can be configured. Never checks whether a value makes sense: `validate`
//! does. Invariant: a key that exists here exists in the file, in the environment and in the list
//! of known keys alike.

use toml::Spanned;
use toml::de::DeValue;

use super::issuer::Issuers;
use super::listener::{self, Listeners};
use super::tls::Certificates;
use super::value::{BadValue, FromText, FromValue, Milliseconds, Seconds, Size};

/// The names of a section's keys.
type Keys = &'static [&'static str];

/// Declares the sections: for each its struct, its defaults, its list of keys and its setters by
/// name.
macro_rules! sections {
    ($(
        $(#[$section_doc:meta])*
        $section:ident: $name:ident {
            $( $(#[$key_doc:meta])* $key:ident: $type:ty = $default:expr, )*
        }
    )*) => {
        $(
            $(#[$section_doc])*
            #[derive(Clone, Debug, PartialEq)]
            pub struct $name {
                $( $(#[$key_doc])* pub(super) $key: $type, )*
            }

            impl Default for $name {
                fn default() -> Self {
                    Self { $( $key: $default, )* }
                }
            }
        )*

        /// The whole file.
        #[derive(Clone, Debug, Default, PartialEq)]
        pub struct File {
            $( $(#[$section_doc])* pub $section: $name, )*
            /// Further listeners for clients.
            pub(super) listener: Listeners,
        }

        /// Every section with its keys, in the order of the file.
        pub(super) const SECTIONS: &[(&str, Keys)] = &[
            $( (stringify!($section), &[$( stringify!($key), )*]), )*
        ];

        impl File {
            /// Sets a key from the text of an environment variable.
            ///
            /// The error says what is wrong with the text, or that there is no such key.
            pub(super) fn set_text(
                &mut self,
                section: &str,
                key: &str,
                text: &str,
            ) -> Result<(), String> {
                match (section, key) {
                    $( $(
                        (stringify!($section), stringify!($key)) => {
                            self.$section.$key = FromText::from_text(text)?;
                        }
                    )* )*
                    _ => return Err("there is no such key".to_owned()),
                }
                Ok(())
            }

            /// Sets a key from its value in the file. A key that does not exist is left to who
            /// lists them.
            pub(super) fn set_value(
                &mut self,
                section: &str,
                key: &str,
                value: &Spanned<DeValue<'_>>,
            ) -> Result<(), BadValue> {
                match (section, key) {
                    $( $(
                        (stringify!($section), stringify!($key)) => {
                            self.$section.$key = FromValue::from_value(value)?;
                        }
                    )* )*
                    _ => {}
                }
                Ok(())
            }

            /// Gives all keys of a section their defaults again; says whether one had another
            /// value.
            pub(super) fn reset_section(&mut self, section: &str) -> bool {
                match section {
                    $(
                        stringify!($section) => {
                            let had = std::mem::take(&mut self.$section);
                            had != self.$section
                        }
                    )*
                    listener::SECTION => !std::mem::take(&mut self.listener).0.is_empty(),
                    _ => false,
                }
            }

            /// Gives a key its default again.
            pub fn reset(&mut self, section: &str, key: &str) {
                match (section, key) {
                    $( $(
                        (stringify!($section), stringify!($key)) => {
                            self.$section.$key = $default;
                        }
                    )* )*
                    (listener::SECTION, _) => self.listener = Listeners::default(),
                    _ => {}
                }
            }
        }
    };
}

sections! {
    /// The line listener and the process.
    gateway_service: GatewayServiceSection {
        /// Address of the line listener.
        host: String = "127.0.0.1".to_owned(),
        /// Its port; 0 means any free port.
        port: u16 = 6000,
        /// Worker threads; 0 means one per CPU the process may use.
        thread_count: u32 = 0,
        /// Connections at one time, over all workers.
        max_connections: u32 = 100_000,
        /// A connection silent for so long is closed.
        connection_timeout: Seconds = Seconds::from_ms(300_000),
        /// The name of this gateway; empty means the host name.
        gateway_id: String = String::new(),
        /// Where data is kept; empty means `$STATE_DIRECTORY`, or `./data` without it.
        data_dir: String = String::new(),
        /// How long a stop waits for clients.
        drain_timeout: Seconds = Seconds::from_ms(30_000),
        /// Whether a new connection is greeted.
        banner: bool = true,
        /// The first of this gateway's worker numbers, where no ZooKeeper hands them out; -1: none.
        first_worker: i32 = -1,
        /// Whether proxies say whose connections they pass on: `off` or `required`.
        proxy_protocol: String = "off".to_owned(),
        /// Whether clients come by TLS: `off`, `optional` or `required`.
        tls: String = "off".to_owned(),
    }

    /// The listener for WebSocket and HTTP.
    web: WebSection {
        /// Address and port; empty: 127.0.0.1:8000 where the gateway serves alone; `off`: none.
        listen: String = String::new(),
        /// As in `[gateway_service]`.
        proxy_protocol: String = "off".to_owned(),
        /// As in `[gateway_service]`.
        tls: String = "off".to_owned(),
        /// Where a WebSocket may begin, beside `/ws`.
        paths: Vec<String> = Vec::new(),
        /// The origins whose pages may begin one; empty: those of the host that is asked.
        allowed_origins: Vec<String> = Vec::new(),
        /// Whether the chat page is at `/`; `None`: where the gateway serves alone.
        page: Option<bool> = None,
        /// A client that says nothing is pinged so often.
        ping_interval: Seconds = Seconds::from_ms(30_000),
        /// A client from which nothing came for so long is closed.
        ping_timeout: Seconds = Seconds::from_ms(60_000),
    }

    /// What listeners with TLS show clients and ask of them.
    tls: TlsSection {
        /// Certificates with their keys; the first is shown to who names none of their hosts.
        certificates: Certificates = Certificates::default(),
        /// Who signs the certificates of clients.
        client_ca_file: String = String::new(),
        /// Whether clients show certificates: `off`, `optional` or `required`.
        client_certificates: String = "off".to_owned(),
        /// The oldest version: `1.2` or `1.3`.
        min_version: String = "1.2".to_owned(),
        /// How long a handshake may take.
        handshake_timeout: Seconds = Seconds::from_ms(10_000),
        /// Handshakes of a core under way at one time.
        handshakes: u32 = 4096,
        /// Handshakes that a core begins in a second.
        handshakes_per_second: u32 = 2000,
    }

    /// TLS between gateways and backends.
    cluster_tls: ClusterTlsSection {
        /// The certificate that this process shows the others.
        certificate_file: String = String::new(),
        /// Its key.
        key_file: String = String::new(),
        /// Who signs the certificates of all of them.
        ca_file: String = String::new(),
    }

    /// The sockets of clients.
    network: NetworkSection {
        /// Silence before TCP probes the peer; 0 turns probes off.
        tcp_keepalive: Seconds = Seconds::from_ms(60_000),
        /// Whether small packets leave at once.
        tcp_nodelay: bool = true,
        /// How long sent data may stay unacknowledged; 0 leaves it to the kernel.
        tcp_user_timeout: Seconds = Seconds::from_ms(30_000),
        /// The kernel's send buffer.
        send_buffer_size: Size = Size::from_kib(64),
        /// The kernel's receive buffer.
        receive_buffer_size: Size = Size::from_kib(64),
        /// Connections the kernel holds until they are accepted.
        backlog: u32 = 4096,
    }

    /// Where backends are found.
    service_discovery: ServiceDiscoverySection {
        /// ZooKeeper's addresses; empty: no ZooKeeper.
        zookeeper_hosts: String = String::new(),
        /// How long ZooKeeper keeps what a silent process registered.
        zookeeper_session_timeout: Seconds = Seconds::from_ms(10_000),
        /// Instances that are known without ZooKeeper, each as "SERVICE RPC ADDRESS".
        static_instances: Vec<String> = Vec::new(),
        /// How often everything is read again.
        service_discovery_interval: Seconds = Seconds::from_ms(30_000),
        /// How often an instance's health is checked.
        health_check_interval: Seconds = Seconds::from_ms(10_000),
    }

    /// How a backend instance is chosen.
    load_balancer: LoadBalancerSection {
        /// `round_robin`, `least_connections` or `weighted`.
        algorithm: String = "round_robin".to_owned(),
        /// Further attempts after a failed call.
        max_retries: u32 = 3,
        /// Pause before one instance is asked a third time; it doubles from there.
        retry_interval: Milliseconds = Milliseconds::from_ms(1000),
        /// Failures in a row that take an instance out.
        circuit_breaker_threshold: u32 = 5,
    }

    /// The HTTP listener for operators.
    ops: OpsSection {
        /// Address and port; empty turns it off.
        listen: String = "127.0.0.1:8100".to_owned(),
        /// Whether it is spoken to by TLS: `off` or `required`.
        tls: String = "off".to_owned(),
        /// Who signs the certificates of its clients; empty: as in `[tls]`.
        client_ca_file: String = String::new(),
        /// Whether they show some; empty: as in `[tls]`.
        client_certificates: String = String::new(),
    }

    /// What is counted.
    metrics: MetricsSection {
        /// Whether metrics that were renamed are written under their old names too.
        old_names: bool = true,
    }

    /// What one client may take.
    limits: LimitsSection {
        /// Longest line after login, its terminator counted.
        max_line_bytes: Size = Size::from_bytes(8192),
        /// Longest line before login, its terminator counted.
        login_line_bytes: Size = Size::from_bytes(512),
        /// Messages of one connection that are stored together.
        pipeline_limit: u32 = 64,
        /// Bad lines after which a connection is closed.
        protocol_error_limit: u32 = 10,
        /// Time a connection has to log in.
        login_timeout: Seconds = Seconds::from_ms(30_000),
        /// What a connection may leave unread.
        outbound_queue_bytes: Size = Size::from_mib(1),
        /// Messages a manually confirming connection may leave unconfirmed.
        unconfirmed_limit: u32 = 1000,
        /// Devices of one user at one time.
        max_devices: u32 = 5,
        /// Unconfirmed messages of one user.
        inbox_limit: u64 = 10_000,
        /// Connections of one IPv4 address or IPv6 /64 at one time.
        connections_per_ip: u32 = 100,
        /// Commands a second and connection, on average.
        commands_per_second: u32 = 50,
        /// Commands that may come at once.
        commands_burst: u32 = 100,
        /// How long a connection may stay over its rate.
        throttle_timeout: Seconds = Seconds::from_ms(10_000),
        /// Failed logins before the next one has to wait.
        login_attempts: u32 = 5,
        /// The first wait; each further failure doubles it.
        login_delay: Seconds = Seconds::from_ms(1000),
        /// The longest wait.
        login_delay_max: Seconds = Seconds::from_ms(300_000),
        /// Accounts that one IPv4 address or IPv6 /64 may register in an hour, and at once.
        registrations_per_hour: u32 = 20,
        /// Networks that are not counted by address or rate.
        limit_exempt: Vec<String> = vec!["127.0.0.0/8".to_owned(), "::1/128".to_owned()],
        /// Proxies that are believed whose connections they pass on.
        trusted_proxies: Vec<String> = Vec::new(),
    }

    /// Passwords and tokens.
    auth: AuthSection {
        /// How long a token is good.
        token_lifetime: Seconds = Seconds::from_ms(86_400_000),
        /// How far ahead of this clock a token may be dated.
        clock_leeway: Seconds = Seconds::from_ms(300_000),
        /// The file with the key; empty means `token.secret` in the data directory.
        token_secret_file: String = String::new(),
        /// Threads that hash passwords.
        password_threads: u32 = 1,
        /// Logins that may wait for them, and as many registrations.
        password_queue: u32 = 256,
        /// Whether clients may register accounts: `open` or `closed`.
        registration: String = "open".to_owned(),
        /// Whose tokens are taken beside the gateway's own.
        issuer: Issuers = Issuers::default(),
    }

    /// What users may be called.
    accounts: AccountsSection {
        /// `unicode`, or `ascii` alone.
        names: String = "unicode".to_owned(),
    }

    /// Calls to backends.
    rpc: RpcSection {
        /// How long a call may take.
        rpc_timeout: Seconds = Seconds::from_ms(3000),
        /// The longest reply.
        rpc_max_reply: Size = Size::from_mib(16),
        /// Connections of a worker to one instance that answers one call at a time.
        pool_size: u32 = 16,
        /// Connections of a worker to one instance that takes many calls at a time.
        connections_per_instance: u32 = 1,
    }

    /// The push bus of a cluster.
    redis: RedisSection {
        /// Redis's address, with `rediss://` in front for TLS.
        address: String = "127.0.0.1:6379".to_owned(),
        /// Who may sign its certificate; empty: whom the system trusts.
        ca_file: String = String::new(),
        /// The certificate that it is shown; empty: none.
        certificate_file: String = String::new(),
        /// Its key.
        key_file: String = String::new(),
        /// The ACL user; empty: the default user.
        user: String = String::new(),
        /// The file with the password; empty: none is sent.
        password_file: String = String::new(),
        /// The file with the secret that publishers and gateways share; empty: pushes are believed
        /// without proof.
        push_secret_file: String = String::new(),
    }

    /// Who is connected where.
    presence: PresenceSection {
        /// How long a route lasts that nobody refreshes.
        route_lifetime: Seconds = Seconds::from_ms(120_000),
    }

    /// `im-gateway backend`: the services as a process of their own.
    backend: BackendSection {
        /// Where it listens for calls; port 0 means any free port.
        listen: String = "127.0.0.1:5001".to_owned(),
        /// The address that gateways are told; empty means where it listens.
        advertise: String = String::new(),
        /// The services it offers.
        services: Vec<String> = ["user", "presence", "message", "group"].map(str::to_owned).to_vec(),
        /// How it registers in ZooKeeper: `instances`, `methods`, or both.
        layouts: Vec<String> = ["instances", "methods"].map(str::to_owned).to_vec(),
        /// Its share of the calls where gateways balance by weight.
        weight: u32 = 100,
        /// Whether accounts are kept elsewhere, so that every number may be a user's.
        foreign_users: bool = false,
        /// Whether no other process uses the same data directory.
        exclusive: bool = false,
    }

    /// What is conceded to services that are MPIM's.
    mpim: MpimSection {
        /// Calls of which one may be under way at a time; in each text, methods that wait for each
        /// other.
        serial_calls: Vec<String> = vec!["Register".to_owned()],
        /// Whether a login is answered although Presence is away.
        login_without_presence: bool = false,
        /// Whether names and numbers of users are kept in the data directory.
        remember_users: bool = false,
        /// Whether a route is taken away by binding an empty one.
        empty_route_unbinds: bool = false,
        /// Whether names and passwords are the User Service's to judge.
        user_service_decides: bool = false,
    }

    /// The program's own log.
    log: LogSection {
        /// `off`, `error`, `warn`, `info`, `debug` or `trace`.
        level: String = "info".to_owned(),
    }
}
