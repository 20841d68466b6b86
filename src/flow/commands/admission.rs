//! Who may try a password, and when: the way in for `login` and `register`, before anything is
//! asked of a service.
//!
//! Owns the waiting; the rules are those of [`limits`](crate::limits). A login that stands behind
//! others of its network or name waits for one of them to end, at most [`PATIENCE_MS`], instead of
//! being told to come back: people who share an address do log in at the same moment.

use std::time::Duration;

use super::Failure;
use crate::{
    base::{id::ConnectionKey, names},
    flow::core::{Core, LoginAttempt, Registration, RegistrationHeld},
    limits::{self, Held},
    protocol::{command::Dialect, error_code::ErrorCode},
    session::{Peer, job::Job},
};

/// How long a login stands behind others at most, in milliseconds.
const PATIENCE_MS: u64 = 10_000;
/// How often it looks whether there is room.
const LOOK: Duration = Duration::from_millis(10);
/// In how many milliseconds a login may come back that waited in vain, or found no place to wait.
const RETRY_MS: u64 = 1_000;

/// A login that may be tried.
pub(super) struct Admitted<'a> {
    /// It ends with this.
    pub(super) attempt: LoginAttempt<'a>,
    /// What the User Service is told of where it comes from.
    pub(super) network: Vec<u8>,
    /// There were failures in this name: only from a network that the User Service knows for the
    /// user's own may the password be looked at; others come back in so many milliseconds.
    pub(super) only_known: Option<u64>,
}

/// Lets a login in, or says when it may come back.
pub(super) async fn login<'a, B, P>(
    core: &'a Core<B, P>,
    job: &Job,
    user: &str,
) -> Result<Admitted<'a>, Failure> {
    let peer = peer(core, job.key)?;
    let counted_ip = (!peer.exempt).then_some(peer.ip);
    let network = network(peer);
    let give_up_ms = now_ms(core) + PATIENCE_MS;
    // By what the User Service takes for the same name: else a name could be guessed at in each of
    // its spellings.
    let name = names::fold(user);
    let mut place = None;
    loop {
        let mut only_known = None;
        let mut begun = core.gateway.begin_login(counted_ip, &name, now_ms(core));
        if let Err(Held::ByName(retry_ms)) = begun {
            if !core.gateway.service_remembers_networks() {
                return Err(too_soon(core, retry_ms));
            }
            only_known = Some(retry_ms);
            begun = core
                .gateway
                .begin_login_as_known(peer.ip, &name, now_ms(core));
        }
        match begun {
            Ok(attempt) => {
                return Ok(Admitted {
                    attempt,
                    network,
                    only_known,
                });
            }
            Err(Held::For(retry_ms) | Held::ByName(retry_ms)) => {
                return Err(too_soon(core, retry_ms));
            }
            Err(Held::Behind) => {}
        }
        if place.is_none() {
            place = core.gateway.place_to_wait();
        }
        if place.is_none() || now_ms(core) >= give_up_ms {
            return Err(too_soon(core, RETRY_MS));
        }
        core.pause(LOOK).await;
        core.advance_clock();
        self::peer(core, job.key)?;
    }
}

/// Lets a registration in, or says why not; with it goes what the User Service is told of where it
/// comes from.
pub(super) fn registration<'a, B, P>(
    core: &'a Core<B, P>,
    (key, dialect): (ConnectionKey, Dialect),
    user: &str,
) -> Result<(Registration<'a>, Vec<u8>), Failure> {
    let peer = peer(core, key)?;
    // In the space dialect the User Service judges names alone, which may be MPIM's.
    if dialect == Dialect::Colon {
        names::check_new_user_name(user, core.gateway.names)
            .map_err(|words| Failure::Refused(ErrorCode::BadArgument, words))?;
    }
    let counted_ip = (!peer.exempt).then_some(peer.ip);
    let begun = core.gateway.begin_registration(counted_ip, now_ms(core));
    let registration = begun.map_err(|held| match held {
        RegistrationHeld::For(retry_ms) => {
            core.shard().metrics().rate_limited_registration_total.inc();
            Failure::TooSoon(retry_ms)
        }
        RegistrationHeld::Closed => {
            Failure::Refused(ErrorCode::Forbidden, "registration is closed here")
        }
    })?;
    Ok((registration, network(peer)))
}

pub(super) fn now_ms<B, P>(core: &Core<B, P>) -> u64 {
    core.shard().now().monotonic_us / 1000
}

pub(super) fn too_soon<B, P>(core: &Core<B, P>, retry_ms: u64) -> Failure {
    core.shard().metrics().rate_limited_login_total.inc();
    Failure::TooSoon(retry_ms)
}

/// Who asks, while the connection is there.
fn peer<B, P>(core: &Core<B, P>, key: ConnectionKey) -> Result<Peer, Failure> {
    let shard = core.shard();
    let connection = shard.connection(key);
    connection
        .map(|connection| connection.session.peer)
        .ok_or(Failure::Refused(
            ErrorCode::Internal,
            "the connection is closed",
        ))
}

/// Behind an exempt address, such as a proxy's, is anybody: it is nobody's known network.
fn network(peer: Peer) -> Vec<u8> {
    if peer.exempt {
        Vec::new()
    } else {
        limits::network_key(peer.ip)
    }
}
