//! What a gateway or backend of a cluster needs from other machines: Redis, ZooKeeper, backends.
//!
//! Asks each once, with a bound of its own, and changes nothing there.

use std::{
    io,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use rustls::ClientConnection;

use crate::{
    bus::redis::{
        ping::ping,
        target::{Failures, Target},
    },
    config::settings::{self, Settings},
    contract::methods::Service,
    discovery::{self, Registered},
    machine::preflight::Check,
    tls::cluster::Membership,
};

/// How long one connection may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long ZooKeeper may take with everything it is asked.
const ZOOKEEPER_TIMEOUT: Duration = Duration::from_secs(5);
/// Addresses of one service that are connected to.
const ADDRESSES_MAX: usize = 16;

/// All findings about what is outside of this machine.
pub(super) fn examine(settings: &Settings) -> Vec<Check> {
    let mut checks = vec![check_redis(&settings.redis)];
    let discovery = &settings.service_discovery;
    let mut known: Vec<(Service, SocketAddr)> = discovery
        .static_instances
        .iter()
        .map(|(service, instance)| (*service, instance.address))
        .collect();
    if !discovery.zookeeper_hosts.is_empty() {
        match survey(&discovery.zookeeper_hosts) {
            Ok(registered) => {
                checks.push(describe(&discovery.zookeeper_hosts, &registered));
                known.extend(registered.instances);
            }
            Err(problem) => checks.push(Check::fail(
                "ZooKeeper",
                format!("{}: {problem}", discovery.zookeeper_hosts),
                "start it, or mend service_discovery.zookeeper_hosts",
            )),
        }
    }
    // Files of no use are another finding.
    let membership = settings.cluster_tls.clone();
    let membership = membership.and_then(|files| Membership::load(files).ok());
    let connect = |address: &SocketAddr| connect(address, membership.as_ref());
    checks.extend(Service::ALL.map(|service| check_service(service, &known, connect)));
    checks
}

/// Connects to a backend, and makes the handshake of the cluster where there is one.
fn connect(address: &SocketAddr, membership: Option<&Membership>) -> io::Result<()> {
    let mut stream = TcpStream::connect_timeout(address, CONNECT_TIMEOUT)?;
    let Some(membership) = membership else {
        return Ok(());
    };
    stream.set_read_timeout(Some(CONNECT_TIMEOUT))?;
    stream.set_write_timeout(Some(CONNECT_TIMEOUT))?;
    let mut tls = ClientConnection::new(membership.client(), address.ip().into())
        .map_err(io::Error::other)?;
    while tls.is_handshaking() {
        tls.complete_io(&mut stream)?;
    }
    Ok(())
}

fn check_redis(redis: &settings::Redis) -> Check {
    const WHAT: &str = "Redis";
    let failed = |problem: String| {
        Check::fail(
            WHAT,
            format!("{}: {problem}", redis.address),
            "start it, or mend redis.address, redis.user or redis.password_file",
        )
    };
    let target = match Target::look_up(redis) {
        Ok(target) => target,
        Err(problem) => return failed(problem),
    };
    let mut failures = Failures::default();
    for address in target.addresses {
        let (tls, credentials) = (target.tls.as_ref(), target.credentials.as_ref());
        match ping(address, tls, credentials, CONNECT_TIMEOUT) {
            Ok(()) => return Check::ok(WHAT, format!("{} answers at {address}", redis.address)),
            Err(error) => failures.add(address, error),
        }
    }
    failed(failures.to_string())
}

/// What stands in ZooKeeper, or why it cannot be told.
fn survey(hosts: &str) -> Result<Registered, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(async {
        match tokio::time::timeout(ZOOKEEPER_TIMEOUT, discovery::survey(hosts)).await {
            Ok(surveyed) => surveyed,
            Err(_) => Err(format!("no answer within {ZOOKEEPER_TIMEOUT:?}")),
        }
    })
}

fn describe(hosts: &str, registered: &Registered) -> Check {
    const WHAT: &str = "ZooKeeper";
    if registered.broken > 0 {
        return Check::warn(
            WHAT,
            format!(
                "{hosts} answers; {} of its nodes cannot be read",
                registered.broken
            ),
            "the gateway leaves them out and names them in its log",
        );
    }
    Check::ok(WHAT, format!("{hosts} answers"))
}

/// Whether anybody offers the service, and whether those can be connected to. A gateway waits for
/// services that are not there yet, so none of this keeps it from starting.
fn check_service(
    service: Service,
    known: &[(Service, SocketAddr)],
    connect: impl Fn(&SocketAddr) -> io::Result<()>,
) -> Check {
    let what = service.name();
    let mut addresses: Vec<SocketAddr> = known
        .iter()
        .filter(|(other, _)| *other == service)
        .map(|(_, address)| *address)
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    let remedy =
        "start its backends; until then its commands are answered with BACKEND_UNAVAILABLE";
    if addresses.is_empty() {
        return Check::warn(what, "nobody is registered or configured", remedy);
    }
    let mut failures = Failures::default();
    let mut up = 0;
    for address in addresses.iter().take(ADDRESSES_MAX) {
        match connect(address) {
            Ok(()) => up += 1,
            Err(error) => failures.add(*address, error),
        }
    }
    let asked = addresses.len().min(ADDRESSES_MAX);
    let found = format!("{up} of {asked} can be connected to");
    if up == asked {
        Check::ok(what, found)
    } else {
        Check::warn(what, format!("{found}: {failures}"), remedy)
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::machine::preflight::Verdict;

    #[test]
    fn a_service_is_as_well_as_its_instances() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let up = listener.local_addr().expect("its address");
        let closed = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let gone = closed.local_addr().expect("its address");
        drop(closed);
        let user = |address| (Service::User, address);
        let check_service =
            |service, known: &[_]| check_service(service, known, |address| connect(address, None));
        let check = check_service(Service::User, &[user(up), user(up)]);
        assert_eq!(check.verdict, Verdict::Ok, "{check:?}");
        assert!(check.detail.contains("1 of 1"), "{check:?}");
        let check = check_service(Service::User, &[user(up), user(gone)]);
        assert_eq!(check.verdict, Verdict::Warn, "{check:?}");
        assert!(check.detail.contains("1 of 2"), "{check:?}");
        let check = check_service(Service::Group, &[user(up)]);
        assert_eq!(check.verdict, Verdict::Warn, "{check:?}");
    }

    #[test]
    fn a_redis_that_is_not_there_fails_with_its_address() {
        let gone = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = gone.local_addr().expect("its address").to_string();
        drop(gone);
        let redis = settings::Redis {
            address: address.clone(),
            tls: None,
            user: None,
            password_file: None,
            push_secret_file: None,
        };
        let check = check_redis(&redis);
        assert_eq!(check.verdict, Verdict::Fail);
        assert!(check.detail.contains(&address), "{check:?}");
    }
}
