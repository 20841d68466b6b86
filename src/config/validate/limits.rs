//! The rules of `[limits]`: what one client may take.
//!
//! Owns the ranges and the rules between its keys. Reads nothing but its arguments.

use std::net::IpAddr;

use ipnet::IpNet;

use super::{Broken, Check, timeout};
use crate::config::file::{File, LimitsSection};
use crate::config::settings::Limits;
use crate::config::value::{Seconds, Size};

/// A push is a line with its head before the text, and escapes lengthen the text: fewer lines than
/// these in a queue would make slow consumers of clients that read.
const QUEUE_MIN_LINES: u64 = 4;

const SECTION: &str = "limits";

/// What a line before login may have at least where issuers are configured, in bytes.
const ISSUED_LOGIN_BYTES: usize = 4096;

/// Checks `[limits]`.
pub(super) fn limits(values: &File, check: &Check) -> Result<Limits, Broken> {
    const MILLION: u32 = 1_000_000;
    /// What a service has to take in one call.
    const PIPELINE_MAX: u32 = 1024;
    let section = &values.limits;
    let count =
        |key: &'static str, value: u32, high: u32| check.in_range(SECTION, key, value, (1, high));
    let time = |key: &'static str, value: Seconds| timeout(check, SECTION, key, value);
    let (max_line_bytes, login_line_bytes) = line_bytes(section, check)?;
    // Tokens of issuers are longer than the gateway's own.
    let login_line_bytes = match values.auth.issuer.0.is_empty() {
        true => login_line_bytes,
        false => login_line_bytes.max(ISSUED_LOGIN_BYTES.min(max_line_bytes)),
    };
    let outbound_queue_bytes = outbound_queue_bytes(section, check)?;
    let (login_delay_ms, login_delay_max_ms) = login_delays_ms(section, check)?;
    Ok(Limits {
        max_line_bytes,
        login_line_bytes,
        pipeline_limit: count("pipeline_limit", section.pipeline_limit, PIPELINE_MAX)? as usize,
        protocol_error_limit: count(
            "protocol_error_limit",
            section.protocol_error_limit,
            MILLION,
        )?,
        login_timeout_ms: time("login_timeout", section.login_timeout)?,
        outbound_queue_bytes,
        unconfirmed_limit: count("unconfirmed_limit", section.unconfirmed_limit, MILLION)? as usize,
        max_devices: count("max_devices", section.max_devices, 64)?,
        inbox_limit: check.in_range(
            SECTION,
            "inbox_limit",
            section.inbox_limit,
            (1, 100_000_000),
        )?,
        connections_per_ip: count(
            "connections_per_ip",
            section.connections_per_ip,
            10 * MILLION,
        )?,
        commands_per_second: count("commands_per_second", section.commands_per_second, MILLION)?,
        commands_burst: count("commands_burst", section.commands_burst, MILLION)?,
        throttle_timeout_ms: time("throttle_timeout", section.throttle_timeout)?,
        login_attempts: count("login_attempts", section.login_attempts, MILLION)?,
        login_delay_ms,
        login_delay_max_ms,
        registrations_per_hour: count(
            "registrations_per_hour",
            section.registrations_per_hour,
            MILLION,
        )?,
        limit_exempt: networks("limit_exempt", &section.limit_exempt, check)?,
        trusted_proxies: networks("trusted_proxies", &section.trusted_proxies, check)?,
    })
}

/// The longest line, and the longest one before login.
fn line_bytes(section: &LimitsSection, check: &Check) -> Result<(usize, usize), Broken> {
    let range = (Size::from_bytes(64), Size::from_mib(1));
    let bytes = |key: &'static str, value: Size| check.bytes(SECTION, key, value, range);
    let most = bytes("max_line_bytes", section.max_line_bytes)?;
    let before_login = bytes("login_line_bytes", section.login_line_bytes)?;
    if before_login > most {
        let problem = format!(
            "{} is more than max_line_bytes ({})",
            section.login_line_bytes, section.max_line_bytes
        );
        return Err(check.broken(SECTION, "login_line_bytes", problem));
    }
    Ok((most, before_login))
}

fn outbound_queue_bytes(section: &LimitsSection, check: &Check) -> Result<usize, Broken> {
    const KEY: &str = "outbound_queue_bytes";
    let queue = section.outbound_queue_bytes;
    let range = (Size::from_bytes(1), Size::from_mib(1024));
    let bytes = check.bytes(SECTION, KEY, queue, range)?;
    if queue.as_bytes() < QUEUE_MIN_LINES * section.max_line_bytes.as_bytes() {
        let problem = format!(
            "{queue} is less than {QUEUE_MIN_LINES} lines of max_line_bytes ({})",
            section.max_line_bytes
        );
        return Err(check.broken(SECTION, KEY, problem));
    }
    Ok(bytes)
}

/// The first delay and the longest one.
fn login_delays_ms(section: &LimitsSection, check: &Check) -> Result<(u64, u64), Broken> {
    let time = |key: &'static str, value: Seconds| timeout(check, SECTION, key, value);
    let first_ms = time("login_delay", section.login_delay)?;
    let longest_ms = time("login_delay_max", section.login_delay_max)?;
    if longest_ms < first_ms {
        let problem = format!(
            "{} is less than login_delay ({})",
            section.login_delay_max, section.login_delay
        );
        return Err(check.broken(SECTION, "login_delay_max", problem));
    }
    Ok((first_ms, longest_ms))
}

fn networks(key: &'static str, texts: &[String], check: &Check) -> Result<Vec<IpNet>, Broken> {
    let texts = texts.iter();
    texts.map(|text| network_of(key, text, check)).collect()
}

/// A network such as `10.0.0.0/8`, or a single address.
fn network_of(key: &'static str, text: &str, check: &Check) -> Result<IpNet, Broken> {
    if let Ok(address) = text.parse::<IpAddr>() {
        return Ok(IpNet::from(address));
    }
    let wanted = "a network such as \"10.0.0.0/8\" or \"fd00::/8\"";
    let network: IpNet = check.parse(SECTION, key, text, wanted)?;
    Ok(network.trunc())
}
