//! The rules of the sections that matter in a cluster: where backends and Redis are, how calls are
//! made, and what `im-gateway backend` offers.
//!
//! Owns the ranges and the grammar of addresses and instances. Reads nothing but its arguments, and
//! resolves no name.

use std::net::SocketAddr;
use std::path::PathBuf;

use super::{Broken, Check, timeout};
use crate::{
    config::{
        file::File,
        settings::{
            Algorithm, BackendProcess, LoadBalancer, Presence, Redis, Rpc, ServerTls,
            ServiceDiscovery,
        },
        value::{Milliseconds, Seconds, Size},
    },
    contract::{
        endpoints::{Instance, MethodSet, WEIGHT_MAX, Wire},
        methods::Service,
        mpim::{Concessions, SerialSet},
    },
};

/// Checks `[service_discovery]`.
pub(super) fn service_discovery(values: &File, check: &Check) -> Result<ServiceDiscovery, Broken> {
    const SECTION: &str = "service_discovery";
    const INTERVAL: (Seconds, Seconds) = (Seconds::from_ms(100), Seconds::from_ms(24 * 3_600_000));
    let section = &values.service_discovery;
    if let Err(problem) = zookeeper_hosts(&section.zookeeper_hosts) {
        return Err(check.broken(SECTION, "zookeeper_hosts", problem));
    }
    let discovery = check.in_range(
        SECTION,
        "service_discovery_interval",
        section.service_discovery_interval,
        INTERVAL,
    )?;
    // Servers allow two to twenty times their tick, which is two seconds unless somebody changed
    // it.
    let session = check.in_range(
        SECTION,
        "zookeeper_session_timeout",
        section.zookeeper_session_timeout,
        (Seconds::from_ms(1000), Seconds::from_ms(300_000)),
    )?;
    let static_instances = section
        .static_instances
        .iter()
        .map(|text| {
            instance(text).map_err(|problem| check.broken(SECTION, "static_instances", problem))
        })
        .collect::<Result<_, _>>()?;
    let health = check.in_range(
        SECTION,
        "health_check_interval",
        section.health_check_interval,
        INTERVAL,
    )?;
    Ok(ServiceDiscovery {
        zookeeper_hosts: section.zookeeper_hosts.clone(),
        zookeeper_session_timeout: session.as_duration(),
        static_instances,
        service_discovery_interval: discovery.as_duration(),
        health_check_interval: health.as_duration(),
    })
}

/// `host:port[,host:port …][/root]`, or nothing.
pub(super) fn zookeeper_hosts(text: &str) -> Result<(), String> {
    if text.is_empty() {
        return Ok(());
    }
    let (hosts, root) = text.split_at(text.find('/').unwrap_or(text.len()));
    if !root.is_empty() && (root == "/" || root.ends_with('/') || root.contains("//")) {
        return Err(format!("{root:?} is not a root path such as \"/im\""));
    }
    hosts
        .split(',')
        .try_for_each(|host| host_and_port(host, "zk1:2181"))
}

fn host_and_port(text: &str, example: &str) -> Result<(), String> {
    let wanted = format!("an address such as {example:?}");
    if let Some((scheme, _)) = text.split_once("://") {
        return Err(format!("{text:?} is not {wanted}: leave out {scheme}://"));
    }
    let is_of_a_name =
        |c: char| c.is_alphanumeric() || matches!(c, '.' | '-' | '_' | '[' | ']' | ':');
    let port = text
        .trim()
        .rsplit_once(':')
        .filter(|(name, _)| !name.is_empty() && name.chars().all(is_of_a_name))
        .and_then(|(_, port)| port.parse::<u16>().ok());
    if port.is_none_or(|port| port == 0) {
        return Err(format!("{text:?} is not {wanted}"));
    }
    Ok(())
}

/// Checks `[load_balancer]`.
pub(super) fn load_balancer(values: &File, check: &Check) -> Result<LoadBalancer, Broken> {
    const SECTION: &str = "load_balancer";
    let section = &values.load_balancer;
    let algorithm = Algorithm::ALL
        .into_iter()
        .find(|algorithm| algorithm.word() == section.algorithm)
        .ok_or_else(|| {
            let problem = format!(
                "{:?} is not one of round_robin, least_connections and weighted",
                section.algorithm
            );
            check.broken(SECTION, "algorithm", problem)
        })?;
    let retry_interval = check.in_range(
        SECTION,
        "retry_interval",
        section.retry_interval,
        (Milliseconds::from_ms(1), Milliseconds::from_ms(60_000)),
    )?;
    Ok(LoadBalancer {
        algorithm,
        max_retries: check.in_range(SECTION, "max_retries", section.max_retries, (0, 100))?,
        retry_interval_ms: retry_interval.as_ms(),
        circuit_breaker_threshold: check.in_range(
            SECTION,
            "circuit_breaker_threshold",
            section.circuit_breaker_threshold,
            (1, 1_000_000),
        )?,
    })
}

/// `SERVICE RPC ADDRESS`, as in "user mprpc-id 10.0.0.5:5001".
fn instance(text: &str) -> Result<(Service, Instance), String> {
    let wrong = || format!("{text:?} is not an instance such as \"user mprpc-id 10.0.0.5:5001\"");
    let words: Vec<&str> = text.split_whitespace().collect();
    let [service, wire, address] = words[..] else {
        return Err(wrong());
    };
    let service = service_named(service).ok_or_else(wrong)?;
    let wire = Wire::from_word(wire).ok_or_else(wrong)?;
    let instance = Instance {
        address: address.parse().map_err(|_| wrong())?,
        wire,
        weight: Instance::USUAL_WEIGHT,
        methods: MethodSet::assumed(service, wire),
    };
    Ok((service, instance))
}

/// A service by its short word, as in "user", or by its full name, as in "UserService".
fn service_named(text: &str) -> Option<Service> {
    Service::ALL
        .into_iter()
        .find(|service| service.word() == text || service.name() == text)
}

/// Checks `[rpc]`.
pub(super) fn rpc(values: &File, check: &Check) -> Result<Rpc, Broken> {
    const SECTION: &str = "rpc";
    let section = &values.rpc;
    let connections = check.in_range(
        SECTION,
        "connections_per_instance",
        section.connections_per_instance,
        (1, 64),
    )?;
    Ok(Rpc {
        rpc_timeout_ms: timeout(check, SECTION, "rpc_timeout", section.rpc_timeout)?,
        max_reply_bytes: check.bytes(
            SECTION,
            "rpc_max_reply",
            section.rpc_max_reply,
            (Size::from_kib(1), Size::from_mib(1024)),
        )?,
        pool_size: check.in_range(SECTION, "pool_size", section.pool_size, (1, 1024))? as usize,
        connections_per_instance: connections as usize,
    })
}

/// Checks `[redis]`.
pub(super) fn redis(values: &File, check: &Check) -> Result<Redis, Broken> {
    const SECTION: &str = "redis";
    let section = &values.redis;
    let secured = section.address.strip_prefix("rediss://");
    let address = secured.unwrap_or(&section.address);
    if let Err(problem) = host_and_port(address, "127.0.0.1:6379") {
        return Err(check.broken(SECTION, "address", problem));
    }
    let not_empty = |text: &String| (!text.is_empty()).then(|| text.clone());
    let ca = not_empty(&section.ca_file).map(PathBuf::from);
    let certificate = not_empty(&section.certificate_file).map(PathBuf::from);
    let own = match (certificate, not_empty(&section.key_file)) {
        (Some(certificate), Some(key)) => Some((certificate, PathBuf::from(key))),
        (None, None) => None,
        _ => {
            let problem = "a certificate has a certificate_file and a key_file";
            return Err(check.broken(SECTION, "certificate_file", problem));
        }
    };
    if secured.is_none() && (ca.is_some() || own.is_some()) {
        let problem = "there are files for TLS, so it begins with rediss://";
        return Err(check.broken(SECTION, "address", problem));
    }
    Ok(Redis {
        address: address.to_owned(),
        tls: secured.map(|_| ServerTls { ca, own }),
        user: not_empty(&section.user),
        password_file: not_empty(&section.password_file).map(PathBuf::from),
        push_secret_file: not_empty(&section.push_secret_file).map(PathBuf::from),
    })
}

/// Checks `[presence]`.
pub(super) fn presence(values: &File, check: &Check) -> Result<Presence, Broken> {
    let lifetime = check.in_range(
        "presence",
        "route_lifetime",
        values.presence.route_lifetime,
        (Seconds::from_ms(1000), Seconds::from_ms(24 * 3_600_000)),
    )?;
    Ok(Presence {
        route_lifetime: lifetime.as_duration(),
    })
}

/// Checks `[mpim]`.
pub(super) fn mpim(values: &File, check: &Check) -> Result<Concessions, Broken> {
    let section = &values.mpim;
    let sets = section.serial_calls.iter().map(|text| {
        SerialSet::parse(text).map_err(|problem| check.broken("mpim", "serial_calls", problem))
    });
    Ok(Concessions {
        serial_calls: sets.collect::<Result<_, _>>()?,
        login_without_presence: section.login_without_presence,
        remember_users: section.remember_users,
        empty_route_unbinds: section.empty_route_unbinds,
        user_service_decides: section.user_service_decides,
    })
}

/// Checks `[backend]`.
pub(super) fn backend(values: &File, check: &Check) -> Result<BackendProcess, Broken> {
    const SECTION: &str = "backend";
    let section = &values.backend;
    let address = |key: &'static str, text: &str| -> Result<SocketAddr, Broken> {
        check.parse(
            SECTION,
            key,
            text,
            "an address with a port such as \"10.0.0.5:5001\"",
        )
    };
    let advertise = match section.advertise.as_str() {
        "" => None,
        text => Some(address("advertise", text)?),
    };
    let listen = address("listen", &section.listen)?;
    let told = advertise.unwrap_or(listen);
    if told.ip().is_unspecified() || advertise.is_some_and(|address| address.port() == 0) {
        return Err(check.broken(
            SECTION,
            "advertise",
            format!("{told} is no address that a gateway could connect to; name one"),
        ));
    }
    let layout = |word: &str| section.layouts.iter().any(|layout| layout == word);
    if let Some(unknown) = section
        .layouts
        .iter()
        .find(|layout| !matches!(layout.as_str(), "instances" | "methods"))
    {
        let problem = format!("{unknown:?} is neither instances nor methods");
        return Err(check.broken(SECTION, "layouts", problem));
    }
    if section.layouts.is_empty() {
        return Err(check.broken(SECTION, "layouts", "gateways find nobody by none"));
    }
    let mut services = Vec::new();
    for text in &section.services {
        let service = service_named(text).ok_or_else(|| {
            let problem = format!("{text:?} is not one of user, presence, message and group");
            check.broken(SECTION, "services", problem)
        })?;
        services.push(service);
    }
    if services.is_empty() {
        return Err(check.broken(SECTION, "services", "there is none to offer"));
    }
    let mut backend = BackendProcess {
        listen,
        advertise,
        services: Vec::new(),
        registers_instances: layout("instances"),
        registers_methods: layout("methods"),
        weight: check.in_range(SECTION, "weight", section.weight, (0, WEIGHT_MAX))?,
        foreign_users: section.foreign_users,
        exclusive: section.exclusive,
    };
    backend
        .offer(services)
        .map_err(|problem| check.broken(SECTION, "foreign_users", problem))?;
    Ok(backend)
}
