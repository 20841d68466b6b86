//! Tokens at the command line: made for a user, or looked at.

use std::fmt;

use super::options;
use crate::{
    base::{
        error::{ExitCode, StartupError},
        id::UserId,
        secret::Secret,
    },
    config::Settings,
    machine::unix_time,
    token::{Grant, TokenError, Verified, issuer::Subject},
};

/// What a token is worth.
#[derive(Debug)]
pub struct Verdict(Result<Verified, TokenError>);

impl Verdict {
    /// Whether it logs somebody in, as far as can be known without asking a service.
    pub fn is_good(&self) -> bool {
        self.0.is_ok()
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Ok(Verified::Own(grant)) => {
                write!(f, "good: user {}, made at {}", grant.user, grant.issued_s)?;
                match grant.session {
                    Some(session) => write!(f, ", session {session}"),
                    None => Ok(()),
                }
            }
            Ok(Verified::Issued(grant)) => {
                let until_s = grant.good_until_s();
                match &grant.subject {
                    Subject::User(user) => write!(f, "good: user {user}, until {until_s}"),
                    Subject::Name { name, .. } => write!(f, "good: {name:?}, until {until_s}"),
                }
            }
            Err(error) => write!(f, "not good: {error}"),
        }
    }
}

/// A token for `user`. It belongs to no session, so it ends with `logout:all`, or by its time.
///
/// # Errors
/// A secret that cannot be used, and a system without random numbers.
pub fn make(settings: &Settings, user: UserId) -> Result<Secret<String>, StartupError> {
    let tokens = options::tokens(settings)?;
    let mut number = [0; 16];
    getrandom::fill(&mut number).map_err(|error| {
        StartupError::new(ExitCode::Runtime, "cannot draw a random number", error, "")
    })?;
    let grant = Grant {
        user,
        session: None,
        epoch: None,
        issued_s: unix_s(),
    };
    Ok(Secret::new(
        tokens.issue(&grant, u128::from_be_bytes(number)),
    ))
}

/// What a gateway with these settings would say to `token` now, services aside.
///
/// # Errors
/// Keys that cannot be used.
pub fn check(settings: &Settings, token: &Secret<String>) -> Result<Verdict, StartupError> {
    let tokens = options::tokens(settings)?;
    Ok(Verdict(tokens.verify(token.expose(), unix_s())))
}

fn unix_s() -> u64 {
    unix_time::unix_ms().cast_unsigned() / 1000
}
