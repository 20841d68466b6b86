//! From settings to the options of the parts that are put together.

use std::{sync::Arc, time::Duration};

use crate::{
    app::{issuers, user_journal},
    base::error::{ExitCode, StartupError},
    config::settings::Settings,
    contract::{mpim::Concessions, push_mac::PushKey},
    flow::core::Gateway,
    limits::{Admission, Exempt, LoginGuard, LoginGuardOptions, Rate, Registrations},
    machine::{preflight::Wanted, secret_file},
    protocol::{command::Judge, http::upgrade::WebRules},
    rpc::client::RemoteOptions,
    shard::{ShardOptions, input::room_before_login},
    token::Tokens,
    worker::listener::SocketOptions,
};

/// Records of failed logins, by address and by user.
const LOGIN_RECORDS: usize = 16 * 1024;
/// Networks whose registrations are counted.
const REGISTRATION_RECORDS: usize = 16 * 1024;

pub(super) fn wanted(settings: &Settings) -> Wanted<'_> {
    let service = &settings.gateway_service;
    Wanted {
        workers: service.thread_count,
        connections: service.max_connections,
        data_dir: &service.data_dir,
    }
}

pub(super) fn socket_options(settings: &Settings) -> SocketOptions {
    let network = &settings.network;
    SocketOptions {
        backlog: network.backlog,
        nodelay: network.tcp_nodelay,
        keepalive: network.tcp_keepalive,
        user_timeout: network.tcp_user_timeout,
        // Raised to what is configured once somebody has logged in.
        send_buffer_bytes: network
            .send_buffer_bytes
            .min(room_before_login(settings.limits.login_line_bytes)),
        receive_buffer_bytes: network.receive_buffer_bytes,
    }
}

/// What signs and verifies tokens.
pub(super) fn tokens(settings: &Settings) -> Result<Tokens, StartupError> {
    let secret = secret_file::load_or_create(&settings.auth.token_secret_file)?;
    let lifetime = Duration::from_secs(settings.auth.token_lifetime_seconds);
    let clock_leeway = Duration::from_secs(settings.auth.clock_leeway_seconds);
    let tokens = Tokens::new(secret.expose(), lifetime, clock_leeway)
        .map_err(|error| StartupError::new(ExitCode::Preflight, "cannot sign tokens", error, ""))?;
    Ok(tokens.with_issuers(issuers::load(&settings.auth.issuers)?))
}

pub(super) fn gateway(
    settings: &Settings,
    max_connections: usize,
) -> Result<Gateway, StartupError> {
    let tokens = tokens(settings)?;
    let limits = &settings.limits;
    let concessions = concessions(settings);
    let remember_users = concessions.remember_users;
    let gateway = Gateway::new(
        tokens,
        limits.max_devices,
        Exempt::new(limits.limit_exempt.clone()),
        concessions,
        LoginGuard::new(LoginGuardOptions {
            // The guard counts what is free: the failure that makes it `login_attempts` is the
            // first to close the door.
            attempts: limits.login_attempts.saturating_sub(1),
            delay_ms: limits.login_delay_ms,
            delay_max_ms: limits.login_delay_max_ms,
            capacity: LOGIN_RECORDS,
        }),
        settings
            .auth
            .is_registration_open
            .then(|| Registrations::new(limits.registrations_per_hour, REGISTRATION_RECORDS)),
        Admission::new(max_connections, limits.connections_per_ip as usize),
    );
    let gateway = gateway.naming(settings.accounts.names);
    if !remember_users {
        return Ok(gateway);
    }
    let service = &settings.gateway_service;
    let (known, note) = user_journal::open(&service.data_dir, &service.gateway_id)?;
    Ok(gateway.knowing(known, note))
}

/// A gateway that serves alone has services of its own, which are conceded nothing.
fn concessions(settings: &Settings) -> Concessions {
    if settings.is_cluster() {
        settings.mpim.clone()
    } else {
        Concessions::default()
    }
}

/// What pushes over Redis are signed with; `None`: nothing is configured, which is said.
pub(super) fn push_key(settings: &Settings) -> Result<Option<Arc<PushKey>>, StartupError> {
    let Some(path) = &settings.redis.push_secret_file else {
        log::warn!(
            "redis.push_secret_file is not set: whoever can publish on Redis can show clients anything"
        );
        return Ok(None);
    };
    let secret = secret_file::load_push_secret(path)?;
    Ok(Some(Arc::new(PushKey::new(secret.expose()))))
}

pub(super) fn shard_options(settings: &Settings) -> ShardOptions {
    let limits = &settings.limits;
    ShardOptions {
        max_line_bytes: limits.max_line_bytes,
        login_line_bytes: limits.login_line_bytes,
        pipeline_limit: limits.pipeline_limit,
        protocol_error_limit: limits.protocol_error_limit,
        login_timeout_ms: limits.login_timeout_ms,
        connection_timeout_ms: settings.gateway_service.connection_timeout_ms,
        acknowledgement_timeout_ms: settings
            .network
            .tcp_user_timeout
            .map(|timeout| u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX)),
        outbound_queue_bytes: limits.outbound_queue_bytes,
        unconfirmed_limit: limits.unconfirmed_limit,
        command_rate: Rate {
            per_second: limits.commands_per_second,
            burst: limits.commands_burst,
        },
        throttle_timeout_ms: limits.throttle_timeout_ms,
        banner: settings.gateway_service.banner,
        web: WebRules {
            paths: settings.web.paths.clone(),
            allowed_origins: settings.web.allowed_origins.clone(),
            has_page: settings.web.has_page,
        },
        ping_interval_ms: settings.web.ping_interval_ms,
        ping_timeout_ms: settings.web.ping_timeout_ms,
        judge: if concessions(settings).user_service_decides {
            Judge::UserService
        } else {
            Judge::Gateway
        },
    }
}

pub(super) fn remote_options(settings: &Settings) -> RemoteOptions {
    let (rpc, balancer) = (&settings.rpc, &settings.load_balancer);
    let health_check = settings.service_discovery.health_check_interval;
    RemoteOptions {
        timeout_ms: rpc.rpc_timeout_ms,
        max_reply_bytes: rpc.max_reply_bytes,
        pool_size: rpc.pool_size,
        connections_per_instance: rpc.connections_per_instance,
        algorithm: balancer.algorithm,
        max_retries: balancer.max_retries,
        retry_interval_ms: balancer.retry_interval_ms,
        breaker_threshold: balancer.circuit_breaker_threshold,
        health_check_ms: u64::try_from(health_check.as_millis()).unwrap_or(u64::MAX),
    }
}
