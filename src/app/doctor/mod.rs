//! `im-gateway doctor`: everything that a start uses, as a table: what is checked at a start, what
//! can only be asked while nothing runs, and, in a cluster, what is outside of this machine
//! (`outside`).
//!
//! Owns the table. Never starts the gateway nor changes the machine; ports are bound for an instant
//! and let go.

mod outside;

use std::fmt::Write as _;
use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use super::{issuers, listeners, options};
use crate::{
    base::error::StartupError,
    bus::redis::{credentials::Credentials, target::connector},
    config::{Settings, settings::Listener},
    machine::{
        data_dir,
        preflight::{self, Check, Verdict},
        secret_file,
    },
    service,
    tls::{Acceptor, cluster::Membership},
};

/// All findings for these settings.
pub fn examine(settings: &Settings) -> Vec<Check> {
    let (_, mut checks) = preflight::inspect(options::wanted(settings));
    checks.extend(check_data(settings));
    checks.extend(named_files(settings));
    checks.extend(settings.listeners.iter().map(check_listener));
    checks.push(match settings.ops.listen {
        Some(address) => check_port("ops port", address),
        None => Check::ok("ops port", "off"),
    });
    checks.push(check_backlog(
        settings.network.backlog,
        fs::read_to_string("/proc/sys/net/core/somaxconn").ok(),
    ));
    if settings.is_cluster() {
        checks.extend(outside::examine(settings));
    }
    checks
}

/// Who has the data directory, and what the database in it is like. A gateway of a cluster keeps
/// nothing in it but the token secret; a backend may be another process of the same configuration.
fn check_data(settings: &Settings) -> Vec<Check> {
    const HOLDER: &str = "data in use";
    const DATABASE: &str = "database";
    let data_dir = &settings.gateway_service.data_dir;
    if let Some(holder) = data_dir::holder_of(data_dir) {
        let detail = format!("{holder} has {}", data_dir.display());
        return vec![if settings.is_cluster() {
            Check::ok(HOLDER, detail)
        } else {
            let remedy = "stop that im-gateway, or give this one its own gateway_service.data_dir";
            Check::fail(HOLDER, detail, remedy)
        }];
    }
    let database = match service::describe_store(data_dir) {
        Ok(Some(facts)) => Check::ok(DATABASE, facts),
        Ok(None) => Check::ok(DATABASE, "none yet; one is made at the first start"),
        Err(error) => failed(DATABASE, error),
    };
    vec![Check::ok(HOLDER, "by nobody"), database]
}

/// The files that the configuration names, and the one with the token secret.
pub fn named_files(settings: &Settings) -> Vec<Check> {
    let mut checks = vec![check_token_secret(&settings.auth.token_secret_file)];
    if !settings.auth.issuers.is_empty() {
        checks.push(match issuers::load(&settings.auth.issuers) {
            Ok(_) => Check::ok("issuers' keys", "can be used"),
            Err(error) => failed("issuers' keys", error),
        });
    }
    for listener in &settings.listeners {
        match listeners::acceptor(listener) {
            Ok(None) => {}
            Ok(Some(_)) => {
                checks.push(Check::ok("certificates", format!("of {:?}", listener.name)))
            }
            Err(error) => checks.push(failed("certificates", error)),
        }
    }
    if let Some(tls) = &settings.ops.tls {
        checks.push(match Acceptor::load(tls.clone()) {
            Ok(_) => Check::ok("certificates", "of [ops]"),
            Err(problem) => Check::fail("certificates", problem, "see ops.tls"),
        });
    }
    if let Some(cluster_tls) = &settings.cluster_tls {
        checks.push(match Membership::load(cluster_tls.clone()) {
            Ok(_) => Check::ok("certificates", "of [cluster_tls]"),
            Err(problem) => Check::fail("certificates", problem, "see [cluster_tls]"),
        });
    }
    if settings.redis.tls.is_some() {
        checks.push(match connector(&settings.redis) {
            Ok(_) => Check::ok("certificates", "of [redis]"),
            Err(problem) => Check::fail("certificates", problem, "see [redis]"),
        });
    }
    if settings.redis.password_file.is_some() {
        checks.push(match Credentials::read(&settings.redis) {
            Ok(_) => Check::ok("Redis's password", "can be read"),
            Err(error) => failed("Redis's password", error.into()),
        });
    }
    if let Some(path) = &settings.redis.push_secret_file {
        checks.push(match secret_file::load_push_secret(path) {
            Ok(_) => Check::ok("push secret", path.display().to_string()),
            Err(error) => failed("push secret", error),
        });
    }
    checks
}

fn check_token_secret(path: &Path) -> Check {
    const WHAT: &str = "token secret";
    match secret_file::token_secret_is_there(path) {
        Ok(true) => Check::ok(WHAT, path.display().to_string()),
        Ok(false) => Check::ok(
            WHAT,
            format!("{} is made at the first start", path.display()),
        ),
        Err(error) => failed(WHAT, error),
    }
}

/// The finding that a start would fail so.
fn failed(what: &'static str, error: StartupError) -> Check {
    let detail = match error.cause.as_str() {
        "" => error.what,
        cause => format!("{}: {cause}", error.what),
    };
    Check::fail(what, detail, error.remedy)
}

/// Whether any finding keeps the gateway from running.
pub fn any_failed(checks: &[Check]) -> bool {
    checks.iter().any(|check| check.verdict == Verdict::Fail)
}

/// The findings as lines `ok|warn|FAIL  what  detail`, each remedy on a line below its finding.
pub fn table(checks: &[Check]) -> String {
    let width = checks
        .iter()
        .map(|check| check.what.len())
        .max()
        .unwrap_or(0);
    let mut table = String::new();
    for check in checks {
        let verdict = match check.verdict {
            Verdict::Ok => "ok",
            Verdict::Warn => "warn",
            Verdict::Fail => "FAIL",
        };
        // Writing to a String cannot fail.
        let _ = writeln!(
            table,
            "{verdict:<4}  {:<width$}  {}",
            check.what, check.detail
        );
        if !check.remedy.is_empty() {
            let _ = writeln!(table, "{:<4}  {:<width$}  remedy: {}", "", "", check.remedy);
        }
    }
    table
}

fn check_listener(listener: &Listener) -> Check {
    let what = match listener.name.as_str() {
        "line" => "line port",
        "web" => "web port",
        _ => "a listener's port",
    };
    let check = check_port(what, listener.address);
    match check.verdict {
        // A start goes on without it.
        Verdict::Fail if listener.is_default => Check::warn(what, check.detail, check.remedy),
        _ => check,
    }
}

fn check_port(what: &'static str, address: SocketAddr) -> Check {
    // Without SO_REUSEPORT, so that a gateway already listening there is found out.
    match TcpListener::bind(address) {
        Ok(_) if address.port() == 0 => Check::ok(what, format!("{address}: any free port")),
        Ok(_) => Check::ok(what, format!("{address} is free")),
        Err(error) => Check::fail(what, format!("{address}: {error}"), port_remedy(&error)),
    }
}

fn port_remedy(error: &std::io::Error) -> &'static str {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            "stop what listens there (`ss -ltnp` shows it), or configure another port"
        }
        std::io::ErrorKind::AddrNotAvailable => "configure an address that this machine has",
        std::io::ErrorKind::PermissionDenied => {
            "configure a port above 1023, or grant CAP_NET_BIND_SERVICE"
        }
        _ => "configure another address",
    }
}

fn check_backlog(backlog: i32, somaxconn: Option<String>) -> Check {
    const WHAT: &str = "backlog";
    let Some(most) = somaxconn.and_then(|text| text.trim().parse::<i32>().ok()) else {
        return Check::ok(
            WHAT,
            format!("{backlog}; net.core.somaxconn cannot be read"),
        );
    };
    if most < backlog {
        return Check::warn(
            WHAT,
            format!("{backlog} is cut to {most} by net.core.somaxconn"),
            format!("sysctl net.core.somaxconn={backlog}, or a smaller backlog"),
        );
    }
    Check::ok(WHAT, format!("{backlog}, net.core.somaxconn is {most}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_fails_and_a_free_one_passes() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("its address");
        let check = check_port("line port", address);
        assert_eq!(check.verdict, Verdict::Fail);
        assert!(check.remedy.contains("another port"), "{}", check.remedy);
        let any = "127.0.0.1:0".parse().expect("an address");
        assert_eq!(check_port("line port", any).verdict, Verdict::Ok);
        let foreign = "192.0.2.1:0".parse().expect("an address");
        assert_eq!(check_port("line port", foreign).verdict, Verdict::Fail);
    }

    #[test]
    fn a_backlog_above_the_kernels_cap_is_a_warning() {
        assert_eq!(
            check_backlog(4096, Some("128\n".into())).verdict,
            Verdict::Warn
        );
        assert_eq!(
            check_backlog(4096, Some("4096\n".into())).verdict,
            Verdict::Ok
        );
        assert_eq!(check_backlog(4096, None).verdict, Verdict::Ok);
    }

    #[test]
    fn the_table_aligns_its_columns_and_shows_each_remedy() {
        let checks = [
            Check::ok("kernel", "Linux 6.1"),
            Check::fail("locked memory", "too little", "raise it"),
        ];
        assert_eq!(
            table(&checks),
            "ok    kernel         Linux 6.1\n\
             FAIL  locked memory  too little\n\
             \u{20}                    remedy: raise it\n"
        );
        assert!(any_failed(&checks));
        assert!(!any_failed(&checks[..1]));
    }
}
