//! What every test of the rules starts from: limits small enough to reach, and a gateway of a
//! single process.

use std::{sync::Arc, time::Duration};

use super::ShardOptions;
use crate::{
    contract::mpim::Concessions,
    flow::core::Gateway,
    limits::{Admission, Exempt, LoginGuard, LoginGuardOptions, Rate, Registrations},
    protocol::{command::Judge, http::upgrade::WebRules},
    token::Tokens,
};

pub(crate) fn options() -> ShardOptions {
    ShardOptions {
        max_line_bytes: 200,
        login_line_bytes: 64,
        pipeline_limit: 8,
        protocol_error_limit: 3,
        login_timeout_ms: 30_000,
        connection_timeout_ms: 300_000,
        acknowledgement_timeout_ms: Some(30_000),
        outbound_queue_bytes: 2_000,
        unconfirmed_limit: 3,
        command_rate: Rate {
            per_second: 10,
            burst: 20,
        },
        throttle_timeout_ms: 1_000,
        banner: false,
        web: WebRules::default(),
        ping_interval_ms: 30_000,
        ping_timeout_ms: 60_000,
        judge: Judge::default(),
    }
}

pub(crate) fn gateway() -> Arc<Gateway> {
    gateway_conceding(Concessions::default())
}

pub(crate) fn gateway_conceding(concessions: Concessions) -> Arc<Gateway> {
    let guard = LoginGuardOptions {
        attempts: 5,
        delay_ms: 1000,
        delay_max_ms: 60_000,
        capacity: 100,
    };
    Arc::new(Gateway::new(
        Tokens::new(&[7; 32], Duration::from_secs(3600), Duration::from_secs(60))
            .expect("a long secret"),
        5,
        Exempt::default(),
        concessions,
        LoginGuard::new(guard),
        Some(Registrations::new(20, 100)),
        Admission::new(1000, 1000),
    ))
}
