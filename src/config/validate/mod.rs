//! Judges the values and turns them into [`Settings`].
//!
//! Owns the ranges, the rules between keys, and what empty values stand for. Reads nothing but its
//! arguments.
//!
//! Invariant: a value that breaks a rule is one mistake. The rest is judged as if its key had its
//! default, so that one mistake hides no other.

mod cluster;
mod limits;
mod listeners;
#[cfg(test)]
mod tests;
mod tls;

use std::fmt::Display;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;

use log::LevelFilter;

use super::{
    file::File,
    settings::{Accounts, Auth, GatewayService, Log, Metrics, Network, Ops, Settings, Web},
    source::{Environment, Mistake, Origins},
    value::{Seconds, Size},
};
use crate::base::{id::FIRST_SERVICE_WORKER, names::Alphabet};

/// No wait, interval or time-out of a session is longer.
const LONGEST_TIMEOUT: Seconds = Seconds::from_ms(7 * 24 * 3_600_000);
/// The longest TCP_KEEPIDLE the kernel takes, in seconds: MAX_TCP_KEEPIDLE of its `tcp.h`.
const LONGEST_KEEPALIVE: Seconds = Seconds::from_ms(32_767_000);
/// A gateway's name is a label in metrics, a node in ZooKeeper and a part of each route.
const GATEWAY_ID_MAX_BYTES: usize = 64;

/// Checks every value and every rule between values. The error has all mistakes.
pub(super) fn validate(
    values: &File,
    origins: &Origins,
    environment: &Environment,
) -> Result<Settings, Vec<Mistake>> {
    let mut values = values.clone();
    let mut found: Vec<Broken> = Vec::new();
    loop {
        let broken = match settings(&values, environment) {
            Ok(settings) if found.is_empty() => return Ok(settings),
            Ok(_) => break,
            Err(broken) => broken,
        };
        let is_known = found.iter().any(|known| known.is_of_the_key_of(&broken));
        if found.is_empty() || (!is_known && origins.has(broken.section, broken.key)) {
            values.reset(broken.section, broken.key);
            found.push(broken);
        } else if !values.reset_section(broken.section) {
            // Not even its defaults hold: nothing more can be said.
            break;
        }
        // Else a default does not go with a value beside it, which is nobody's mistake.
    }
    let mistakes = found.into_iter();
    Err(mistakes
        .map(|broken| {
            let place = origins.describe(broken.section, broken.key);
            Mistake::new(place, broken.problem)
        })
        .collect())
}

/// A rule that a value breaks.
#[derive(Debug)]
struct Broken {
    section: &'static str,
    key: &'static str,
    problem: String,
}

impl Broken {
    fn is_of_the_key_of(&self, other: &Self) -> bool {
        (self.section, self.key) == (other.section, other.key)
    }
}

/// The settings, or the first rule that is broken, in the order of the file.
fn settings(values: &File, environment: &Environment) -> Result<Settings, Broken> {
    let check = Check;
    let service_discovery = cluster::service_discovery(values, &check)?;
    let listeners = listeners::listeners(values, &check, service_discovery.is_cluster())?;
    let settings = Settings {
        gateway_service: gateway_service(values, &check, environment)?,
        listeners,
        web: web(values, &check, service_discovery.is_cluster())?,
        tls: tls::limits(values, &check)?,
        cluster_tls: tls::of_cluster(values, &check)?,
        network: network(values, &check)?,
        service_discovery,
        load_balancer: cluster::load_balancer(values, &check)?,
        ops: ops(values, &check)?,
        metrics: Metrics {
            old_names: values.metrics.old_names,
        },
        limits: limits::limits(values, &check)?,
        auth: auth(values, &check, environment)?,
        accounts: accounts(values, &check)?,
        rpc: cluster::rpc(values, &check)?,
        redis: cluster::redis(values, &check)?,
        presence: cluster::presence(values, &check)?,
        backend: cluster::backend(values, &check)?,
        mpim: cluster::mpim(values, &check)?,
        log: Log {
            level: check.parse::<LevelFilter>(
                "log",
                "level",
                &values.log.level,
                "one of off, error, warn, info, debug and trace",
            )?,
        },
    };
    let discovery = &settings.service_discovery;
    if !discovery.static_instances.is_empty()
        && discovery.zookeeper_hosts.is_empty()
        && settings.gateway_service.first_worker.is_none()
    {
        // Two gateways on one worker number would make the same ids: nobody gets one that was not
        // asked for.
        let problem = "with static_instances and no ZooKeeper it has no default: the ids of messages are unique only if each \
                       gateway has worker numbers of its own; set it to 0 for the first gateway, 64 for the second, 128 for the third";
        return Err(check.broken("gateway_service", "first_worker", problem));
    }
    if let Some(ops) = settings.ops.listen
        && let Some(taken) = settings
            .listeners
            .iter()
            .find(|one| overlap(ops, one.address))
    {
        return Err(check.broken(
            "ops",
            "listen",
            format!(
                "{ops} is taken by the listener {:?} on {}",
                taken.name, taken.address
            ),
        ));
    }
    assert_consistent(&settings);
    Ok(settings)
}

/// What the parts rely on without asking again, whatever file and environment said.
fn assert_consistent(settings: &Settings) {
    let limits = &settings.limits;
    assert!(limits.login_line_bytes <= limits.max_line_bytes);
    assert!(limits.max_devices > 0 && limits.commands_burst > 0);
    assert!(
        settings
            .listeners
            .iter()
            .all(|one| !one.carriers.is_empty())
    );
    assert!(
        !settings.listeners.is_empty(),
        "the line listener is always there"
    );
    let service = &settings.gateway_service;
    assert!(service.max_connections > 0 && !service.gateway_id.is_empty());
    assert!(
        service
            .first_worker
            .is_none_or(|first| first < FIRST_SERVICE_WORKER)
    );
    assert!(
        !settings
            .service_discovery
            .service_discovery_interval
            .is_zero()
    );
    assert!(settings.rpc.rpc_timeout_ms > 0 && settings.rpc.pool_size > 0);
    assert!(
        !settings.backend.services.is_empty(),
        "a backend serves something"
    );
    assert!(!settings.presence.route_lifetime.is_zero(), "a route lives");
}

/// Judges single values.
struct Check;

impl Check {
    fn broken(&self, section: &'static str, key: &'static str, problem: impl Display) -> Broken {
        Broken {
            section,
            key,
            problem: problem.to_string(),
        }
    }

    fn in_range<T: PartialOrd + Display>(
        &self,
        section: &'static str,
        key: &'static str,
        value: T,
        (low, high): (T, T),
    ) -> Result<T, Broken> {
        if value >= low && value <= high {
            return Ok(value);
        }
        let problem = format!("{value} is not between {low} and {high}");
        Err(self.broken(section, key, problem))
    }

    fn parse<T: FromStr>(
        &self,
        section: &'static str,
        key: &'static str,
        text: &str,
        wanted: &str,
    ) -> Result<T, Broken> {
        text.parse()
            .map_err(|_| self.broken(section, key, format!("{text:?} is not {wanted}")))
    }

    /// A size as the type that counts memory; `high` must fit it.
    fn bytes(
        &self,
        section: &'static str,
        key: &'static str,
        value: Size,
        range: (Size, Size),
    ) -> Result<usize, Broken> {
        let value = self.in_range(section, key, value, range)?;
        usize::try_from(value.as_bytes()).map_err(|_| {
            self.broken(
                section,
                key,
                format!("{value} is more than this machine can address"),
            )
        })
    }
}

/// A time-out: never zero, which would end everything at once.
fn timeout(
    check: &Check,
    section: &'static str,
    key: &'static str,
    value: Seconds,
) -> Result<u64, Broken> {
    let range = (Seconds::from_ms(1), LONGEST_TIMEOUT);
    Ok(check.in_range(section, key, value, range)?.as_ms())
}

fn gateway_service(
    values: &File,
    check: &Check,
    environment: &Environment,
) -> Result<GatewayService, Broken> {
    const SECTION: &str = "gateway_service";
    let section = &values.gateway_service;
    let threads = check.in_range(SECTION, "thread_count", section.thread_count, (0, 64))?;
    // A connection's slot number has 32 bits, and a million connections take some GiB: more is a
    // slip of the hand.
    let connections = check.in_range(
        SECTION,
        "max_connections",
        section.max_connections,
        (1, 10_000_000),
    )?;
    let drain = check.in_range(
        SECTION,
        "drain_timeout",
        section.drain_timeout,
        (Seconds::from_ms(0), Seconds::from_ms(3_600_000)),
    )?;
    Ok(GatewayService {
        thread_count: threads as usize,
        max_connections: connections as usize,
        connection_timeout_ms: timeout(
            check,
            SECTION,
            "connection_timeout",
            section.connection_timeout,
        )?,
        gateway_id: gateway_id(&section.gateway_id, check, environment)?,
        data_dir: data_dir(values, environment),
        drain_timeout: drain.as_duration(),
        banner: section.banner,
        first_worker: {
            let range = (-1, i32::from(FIRST_SERVICE_WORKER) - 1);
            let number = check.in_range(SECTION, "first_worker", section.first_worker, range)?;
            u16::try_from(number).ok()
        },
    })
}

fn gateway_id(written: &str, check: &Check, environment: &Environment) -> Result<String, Broken> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    if written.is_empty() {
        let name: String = environment
            .host_name
            .chars()
            .take(GATEWAY_ID_MAX_BYTES)
            .map(|c| if allowed(c) { c } else { '-' })
            .collect();
        return Ok(if name.is_empty() {
            "im-gateway".to_owned()
        } else {
            name
        });
    }
    // Neither "." nor ".." can be a node in ZooKeeper.
    let is_name = written.chars().any(|c| c != '.');
    if is_name && written.len() <= GATEWAY_ID_MAX_BYTES && written.chars().all(allowed) {
        return Ok(written.to_owned());
    }
    Err(check.broken(
        "gateway_service",
        "gateway_id",
        format!(
            "{written:?} is not 1 to {GATEWAY_ID_MAX_BYTES} of the characters A-Z a-z 0-9 . _ -"
        ),
    ))
}

/// An empty path stands for what the service manager gives, or for a directory beside the working
/// directory.
fn data_dir(values: &File, environment: &Environment) -> PathBuf {
    let written = &values.gateway_service.data_dir;
    if !written.is_empty() {
        return PathBuf::from(written);
    }
    match environment.variable("STATE_DIRECTORY") {
        // systemd separates several directories by colons; the first is the one the unit names
        // first.
        Some(directories) => match directories.to_str().and_then(|all| all.split(':').next()) {
            Some(first) => PathBuf::from(first),
            None => PathBuf::from(directories),
        },
        None => PathBuf::from("./data"),
    }
}

fn web(values: &File, check: &Check, is_cluster: bool) -> Result<Web, Broken> {
    const SECTION: &str = "web";
    let section = &values.web;
    let (shortest, hour) = (Seconds::from_ms(1000), Seconds::from_ms(3_600_000));
    let interval = section.ping_interval;
    let interval = check.in_range(SECTION, "ping_interval", interval, (shortest, hour))?;
    let longest = Seconds::from_ms(24 * 3_600_000);
    let timeout = section.ping_timeout;
    let timeout = check.in_range(SECTION, "ping_timeout", timeout, (shortest, longest))?;
    if timeout <= interval {
        let problem = format!("{timeout} is not more than ping_interval ({interval})");
        return Err(check.broken(SECTION, "ping_timeout", problem));
    }
    if let Some(path) = section.paths.iter().find(|path| !path.starts_with('/')) {
        let problem = format!("{path:?} is not a path such as \"/chat\"");
        return Err(check.broken(SECTION, "paths", problem));
    }
    let is_origin = |origin: &&String| origin.contains("://") && !origin.ends_with('/');
    if let Some(origin) = section
        .allowed_origins
        .iter()
        .find(|origin| !is_origin(origin))
    {
        let problem = format!("{origin:?} is not an origin such as \"https://app.example\"");
        return Err(check.broken(SECTION, "allowed_origins", problem));
    }
    Ok(Web {
        paths: section.paths.clone(),
        allowed_origins: section.allowed_origins.clone(),
        has_page: section.page.unwrap_or(!is_cluster),
        ping_interval_ms: interval.as_ms(),
        ping_timeout_ms: timeout.as_ms(),
    })
}

fn network(values: &File, check: &Check) -> Result<Network, Broken> {
    const SECTION: &str = "network";
    // The kernel doubles what is asked for, and caps it at net.core.{w,r}mem_max by itself.
    const BUFFER: (Size, Size) = (Size::from_kib(1), Size::from_mib(64));
    let section = &values.network;
    let keepalive = check.in_range(
        SECTION,
        "tcp_keepalive",
        section.tcp_keepalive,
        (Seconds::from_ms(0), LONGEST_KEEPALIVE),
    )?;
    if keepalive.as_ms() % 1000 != 0 {
        let problem = format!("{keepalive} is not a whole number of seconds");
        return Err(check.broken(SECTION, "tcp_keepalive", problem));
    }
    let user_timeout = check.in_range(
        SECTION,
        "tcp_user_timeout",
        section.tcp_user_timeout,
        (Seconds::from_ms(0), LONGEST_TIMEOUT),
    )?;
    let backlog = check.in_range(SECTION, "backlog", section.backlog, (1, 65_535))?;
    let nonzero = |value: Seconds| (value.as_ms() > 0).then(|| value.as_duration());
    Ok(Network {
        tcp_keepalive: nonzero(keepalive),
        tcp_nodelay: section.tcp_nodelay,
        tcp_user_timeout: nonzero(user_timeout),
        send_buffer_bytes: check.bytes(
            SECTION,
            "send_buffer_size",
            section.send_buffer_size,
            BUFFER,
        )?,
        receive_buffer_bytes: check.bytes(
            SECTION,
            "receive_buffer_size",
            section.receive_buffer_size,
            BUFFER,
        )?,
        backlog: backlog as i32,
    })
}

fn ops(values: &File, check: &Check) -> Result<Ops, Broken> {
    let tls = tls::of_ops(values, check)?;
    if values.ops.listen.is_empty() {
        return Ok(Ops { listen: None, tls });
    }
    let wanted = "an address with a port such as \"127.0.0.1:8100\" or \"[::1]:8100\"";
    let listen = check.parse("ops", "listen", &values.ops.listen, wanted)?;
    Ok(Ops {
        listen: Some(listen),
        tls,
    })
}

/// Whether two listeners want the same port.
fn overlap(one: SocketAddr, other: SocketAddr) -> bool {
    let same_address =
        one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
    one.port() != 0 && one.port() == other.port() && same_address
}

fn accounts(values: &File, check: &Check) -> Result<Accounts, Broken> {
    let names = match values.accounts.names.as_str() {
        "unicode" => Alphabet::Unicode,
        "ascii" => Alphabet::Ascii,
        other => {
            let problem = format!("{other:?} is neither \"unicode\" nor \"ascii\"");
            return Err(check.broken("accounts", "names", problem));
        }
    };
    Ok(Accounts { names })
}

fn auth(values: &File, check: &Check, environment: &Environment) -> Result<Auth, Broken> {
    const SECTION: &str = "auth";
    /// Ten years; a token that outlives its gateway is a password.
    const LONGEST_TOKEN: Seconds = Seconds::from_ms(10 * 366 * 24 * 3_600_000);
    /// Clocks that differ by more are wrong, not inexact.
    const LONGEST_LEEWAY: Seconds = Seconds::from_ms(24 * 3_600_000);
    let section = &values.auth;
    let lifetime = check.in_range(
        SECTION,
        "token_lifetime",
        section.token_lifetime,
        (Seconds::from_ms(1000), LONGEST_TOKEN),
    )?;
    let clock_leeway = check.in_range(
        SECTION,
        "clock_leeway",
        section.clock_leeway,
        (Seconds::from_ms(0), LONGEST_LEEWAY),
    )?;
    let threads = check.in_range(
        SECTION,
        "password_threads",
        section.password_threads,
        (1, 64),
    )?;
    let queue = check.in_range(
        SECTION,
        "password_queue",
        section.password_queue,
        (1, 1_000_000),
    )?;
    let is_registration_open = match section.registration.as_str() {
        "open" => true,
        "closed" => false,
        other => {
            let problem = format!("{other:?} is neither \"open\" nor \"closed\"");
            return Err(check.broken(SECTION, "registration", problem));
        }
    };
    let token_secret_file = if section.token_secret_file.is_empty() {
        data_dir(values, environment).join("token.secret")
    } else {
        PathBuf::from(&section.token_secret_file)
    };
    let mut issuers = Vec::new();
    for table in &section.issuer.0 {
        let issuer = table.settings();
        issuers.push(issuer.map_err(|problem| check.broken(SECTION, "issuer", problem))?);
    }
    let mut names: Vec<&str> = issuers.iter().map(|issuer| issuer.name.as_str()).collect();
    names.sort_unstable();
    if let Some(twice) = names.windows(2).find(|pair| pair[0] == pair[1]) {
        let problem = format!("{:?} stands there twice", twice[0]);
        return Err(check.broken(SECTION, "issuer", problem));
    }
    Ok(Auth {
        token_lifetime_seconds: lifetime.as_ms() / 1000,
        clock_leeway_seconds: clock_leeway.as_ms() / 1000,
        token_secret_file,
        password_threads: threads as usize,
        password_queue: queue as usize,
        is_registration_open,
        issuers,
    })
}
